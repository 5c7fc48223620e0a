"""The published sizes of the Qwen family, and how a config file takes one over.

    from mirothinker_jax.models.presets import use
    use(c, "qwen3-8b-256k")        # a preset, with fresh parameters
    use(c, "runs/qwen3-8b")        # what convert made of a Hugging Face folder: its sizes, weights and tokenizer
    use(c, "runs/my-sft")          # what training left: the same, and its adapters

Each preset holds the fields of the model's published config.json (tests/models/test_presets.py has them with their
source), so any of them can be checked at a glance. Imports no jax: config files run before it.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

from mirothinker_jax.config import EXECUTION, ConfigError
from mirothinker_jax.config_tree import check_local
from mirothinker_jax.models.hf_config import from_hf

HF_FOLDER = "hf"  # of a converted run: config.json, tokenizer files


def _qwen2(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, tied: bool
) -> dict[str, Any]:
    """Qwen2.5-*-Instruct (arXiv 2412.15115). Some base models have rms_norm_eps 1e-5: convert reads theirs."""
    return {
        **{"hidden": hidden, "layers": layers, "heads": heads, "kv_heads": kv_heads},
        **{"head_dim": hidden // heads, "ffn": ffn, "vocab_size": vocab, "tied_head": tied},
        **{"qk_norm": False, "qkv_bias": True, "rope_theta": 1e6, "norm_eps": 1e-6},
        "yarn": {"factor": 1.0, "native_tokens": 32768},
    }


def _qwen3(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, tied: bool = False
) -> dict[str, Any]:
    """Qwen3 dense (arXiv 2505.09388, table 1)."""
    return {
        **{"hidden": hidden, "layers": layers, "heads": heads, "kv_heads": kv_heads},
        **{"head_dim": 128, "ffn": ffn, "vocab_size": 151_936, "tied_head": tied},
        **{"qk_norm": True, "qkv_bias": False, "rope_theta": 1e6, "norm_eps": 1e-6},
        "yarn": {"factor": 1.0, "native_tokens": 40960},
    }


def _moe(base: dict[str, Any], expert_ffn: int) -> dict[str, Any]:
    """Qwen3-MoE (arXiv 2505.09388, table 2): 128 experts, 8 of them per token, in every layer."""
    moe = {"experts": 128, "experts_per_token": 8, "expert_ffn": expert_ffn, "norm_topk": True}
    return base | {"moe": moe}


def _thinking_2507(base: dict[str, Any], theta: float) -> dict[str, Any]:
    """The Thinking-2507 releases: 256K tokens natively, by a larger rotary base."""
    return base | {"rope_theta": theta, "yarn": {"factor": 1.0, "native_tokens": 262_144}}


def _256k(base: dict[str, Any]) -> dict[str, Any]:
    """262,144 tokens by YaRN over the 32,768 of pre-training, as the model cards do it for 131,072."""
    return base | {"yarn": {"factor": 8.0, "native_tokens": 32768}}


_QWEN3_8B = _qwen3(4096, 36, 32, 8, 12288)
_QWEN2_72B = _qwen2(8192, 80, 64, 8, 29568, 152_064, tied=False)
_QWEN3_30B = _moe(_qwen3(2048, 48, 32, 4, 6144), 768)
_QWEN3_235B = _moe(_qwen3(4096, 94, 64, 4, 12288), 1536)

PRESETS: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": _qwen2(896, 24, 14, 2, 4864, 151_936, tied=True),
    "qwen2.5-7b": _qwen2(3584, 28, 28, 4, 18944, 152_064, tied=False),
    "qwen2.5-32b": _qwen2(5120, 64, 40, 8, 27648, 152_064, tied=False),
    "qwen2.5-72b": _QWEN2_72B,
    "qwen2.5-72b-256k": _256k(_QWEN2_72B),
    "qwen3-0.6b": _qwen3(1024, 28, 16, 8, 3072, tied=True),
    "qwen3-1.7b": _qwen3(2048, 28, 16, 8, 6144, tied=True),
    "qwen3-4b": _qwen3(2560, 36, 32, 8, 9728, tied=True),
    "qwen3-8b": _QWEN3_8B,
    "qwen3-8b-256k": _256k(_QWEN3_8B),
    "qwen3-14b": _qwen3(5120, 40, 40, 8, 17408),
    "qwen3-32b": _qwen3(5120, 64, 64, 8, 25600),
    "qwen3-30b-a3b": _QWEN3_30B,
    "qwen3-30b-a3b-thinking-2507": _thinking_2507(_QWEN3_30B, 1e7),
    "qwen3-235b-a22b": _QWEN3_235B,
    "qwen3-235b-a22b-thinking-2507": _thinking_2507(_QWEN3_235B, 5e6),
}


def architecture(where: str) -> dict[str, Any]:
    """The architecture's fields of ModelConfig: of a preset, a converted run or a run that trained.

    Raises ConfigError where there is none of them, or the run's config.json is another family's.
    """
    if where in PRESETS:
        return PRESETS[where]
    check_local("the model's folder", where)
    config = Path(where) / HF_FOLDER / "config.json"
    if where and config.is_file():
        return read_hf_config(config)
    if trained := _trained(where):
        fields = {key: value for key, value in trained["model"].items() if key not in EXECUTION}
        if not fields["lora"]["rank"]:
            del fields["lora"]  # the next run's own: a whole model may get adapters
        return fields
    if where and (Path(where) / "config.json").is_file():
        raise ConfigError(
            f"{where} has a config.json, but is not a run that convert made; for a Hugging Face folder: "
            f"python -m mirothinker_jax.convert --from hf --path {where} --out runs/NAME, then give runs/NAME"
        )
    near = difflib.get_close_matches(where.lower(), PRESETS, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"presets: {', '.join(PRESETS)}"
    raise ConfigError(
        f"{where!r} is neither a run that mirothinker_jax.convert made (a folder with {HF_FOLDER}/config.json) "
        f"nor one that trained, nor a preset; {hint}"
    )


def _trained(where: str) -> dict[str, Any] | None:
    """The resolved settings of a run that trained; None where there is none."""
    path = Path(where) / "config.json"
    if not where or not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not UTF-8: not a run's
        return None
    return (
        settings if isinstance(settings, dict) and {"model", "stages", "run_dir"} <= settings.keys() else None
    )


def read_hf_config(path: Path) -> dict[str, Any]:
    """`from_hf` of a config.json; its errors begin with the file's name."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ConfigError("is not a JSON object; give a Hugging Face model's config.json")
        return from_hf(values)
    except ValueError as error:  # a ConfigError, or not JSON, or not UTF-8
        raise ConfigError(f"{path}: {error}") from None


def use(config: Any, where: str) -> None:
    """Sets the model of an ml_collections config: its sizes, and, of a converted run, weights and tokenizer.

    A preset has no tokenizer: the config must name one.
    """
    config.model.update(architecture(where))
    if where in PRESETS:
        return
    config.model.init_from = where
    own = Path(where) / HF_FOLDER / "tokenizer.json"
    if trained := _trained(where):
        own = Path(trained["tokenizer"]["path"] or Path(where) / "data" / "tokenizer.model")
    config.tokenizer.path = str(own.resolve())  # an export finds it from wherever it is started
