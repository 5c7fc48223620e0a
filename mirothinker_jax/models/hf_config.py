"""A Hugging Face config.json and the fields of ModelConfig that say the same, both directions. No jax.

What would change the model's numbers and is not supported is refused, never ignored: sliding windows, other
activations, layers without experts in a mixture, rotary scaling that is not YaRN, settings of YaRN that are not known.
What config.json leaves out has the default of transformers' configuration class of that family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mirothinker_jax.config import ConfigError, ModelConfig, build

_PLAIN = {  # config.json → ModelConfig
    "vocab_size": "vocab_size",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "ffn",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_head",
}
_MOE = {
    "num_experts": "experts",
    "num_experts_per_tok": "experts_per_token",
    "moe_intermediate_size": "expert_ffn",
    "norm_topk_prob": "norm_topk",
}
_YARN = ("beta_fast", "beta_slow", "attention_factor")  # both sides call them so
_NOT_SIZES: dict[str, Any] = {
    **dict.fromkeys(("rms_norm_eps", "rope_theta", "factor", *_YARN), (int, float)),
    **dict.fromkeys(("tie_word_embeddings", "norm_topk_prob"), bool),
}
_ALIASES = {"num_local_experts": "num_experts"}  # as transformers 5 writes it
_DEFAULTS = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "norm_topk_prob": False}
_KV_HEADS = {"qwen2": 32, "qwen3": 32, "qwen3_moe": 4}
_HEAD_DIM = {"qwen3": 128}  # the other two have no such field by default: hidden_size / num_attention_heads
_NATIVE = "original_max_position_embeddings"
_OF_YARN = {*_YARN, _NATIVE, "rope_type", "type", "rope_theta", "factor", "truncate", "partial_rotary_factor"}
_OF_DEFAULT = {"rope_type", "type", "rope_theta", "partial_rotary_factor", _NATIVE}
FAMILIES = ("qwen2", "qwen3", "qwen3_moe")
_ARCHITECTURES = {
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


def from_hf(values: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture's fields of ModelConfig. Raises ConfigError for what this project does not compute."""
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(f"model_type is {family!r}; supported are {', '.join(FAMILIES)}")
    _refuse(values, family)
    # A key that is there with null: as many as query heads.
    kv_heads = values.get("num_attention_heads") if "num_key_value_heads" in values else _KV_HEADS[family]
    given = {_ALIASES.get(k, k): v for k, v in values.items() if v is not None}
    values = {**_DEFAULTS, "num_key_value_heads": kv_heads, **given}
    fields = {ours: _require(values, theirs) for theirs, ours in _PLAIN.items()}
    head_dim = _HEAD_DIM.get(family, fields["hidden"] // fields["heads"])
    fields |= {
        "head_dim": _require({"head_dim": head_dim, **values}, "head_dim"),
        "qk_norm": family != "qwen2",
        "qkv_bias": family == "qwen2",
    }
    if family == "qwen3_moe":
        fields["moe"] = {ours: _require(values, theirs) for theirs, ours in _MOE.items()}
    rope = _rope(values)
    fields["rope_theta"] = float(_require({**values, **rope}, "rope_theta"))
    fields["yarn"] = _yarn(rope, values)
    return fields


def _require(values: Mapping[str, Any], key: str, group: str = "") -> Any:
    """The value of a field; all but those of _NOT_SIZES are whole numbers above 0."""
    if key not in values:
        raise ConfigError(f"{group}{key} is missing; give the model's own config.json")
    value, kinds = values[key], _NOT_SIZES.get(key, int)
    if not isinstance(value, kinds) or (kinds is not bool and (isinstance(value, bool) or value <= 0)):
        what = "true or false" if kinds is bool else "a number above 0"
        raise ConfigError(f"{group}{key} is {value!r}, not {what}; give the model's own config.json")
    return value


def _refuse(values: Mapping[str, Any], family: str) -> None:
    experts_everywhere = values.get("decoder_sparse_step", 1) == 1 and not values.get("mlp_only_layers")
    layers = values.get("layer_types") or []
    kinds = layers if isinstance(layers, list) else [layers]
    other_layers = {str(kind) for kind in kinds} - {"full_attention"}
    for wrong, what in (
        (values.get("use_sliding_window"), "use_sliding_window is true; sliding windows are not supported"),
        (other_layers, f"layer_types has {', '.join(sorted(other_layers))}; supported is full_attention"),
        (
            values.get("hidden_act", "silu") != "silu",
            f"hidden_act is {values.get('hidden_act')!r}, not 'silu'",
        ),
        (values.get("attention_bias") and family != "qwen2", "attention_bias is true; Qwen3 has none"),
        (values.get("quantization_config"), "quantization_config is given; convert the unquantised model"),
        (
            family == "qwen3_moe" and not experts_everywhere,
            "decoder_sparse_step and mlp_only_layers leave layers without experts; all must have them",
        ),
    ):
        if wrong:
            raise ConfigError(what)


def _rope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings: `rope_scaling` as published, or `rope_parameters` as transformers 5 writes them.

    Where there are both, transformers takes the first.
    """
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_scaling is {rope!r}; it is a group of settings, or null")
    for where in (values, rope):
        if where.get("partial_rotary_factor") not in (None, 1):
            raise ConfigError(f"partial_rotary_factor is {where['partial_rotary_factor']!r}; supported is 1")
    return rope


def _yarn(rope: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    native = _require({"max_position_embeddings": 32768, **values}, "max_position_embeddings")
    kind = rope.get("rope_type", rope.get("type", "default"))  # the newer and the older spelling
    if kind == "default":
        # transformers would pass over them; whoever wrote them meant something.
        if rope.get("factor") == 1:
            rope = {key: value for key, value in rope.items() if key != "factor"}
        if ignored := [key for key, value in rope.items() if key not in _OF_DEFAULT and value is not None]:
            raise ConfigError(
                f"rope_scaling has {', '.join(ignored)} without a rope_type that reads it; "
                'give "rope_type": "yarn", or remove it'
            )
        return {"factor": 1.0, "native_tokens": native}
    if kind != "yarn":
        raise ConfigError(f"rope_scaling has rope_type {kind!r}; supported is plain YaRN ('yarn')")
    if rope.get("truncate") is False:
        raise ConfigError("rope_scaling has truncate=false; supported is plain YaRN, which truncates")
    if unknown := [key for key, value in rope.items() if key not in _OF_YARN and value]:
        raise ConfigError(f"rope_scaling has {', '.join(unknown)}; supported is plain YaRN, without")
    given = {key: float(_require(rope, key, "rope_scaling.")) for key in _YARN if rope.get(key) is not None}
    factor = float(_require(rope, "factor", "rope_scaling."))
    for where in (rope, values):  # the outer one wins, as in transformers
        if where.get(_NATIVE) is not None:
            native = _require(where, _NATIVE)
    return {"factor": factor, "native_tokens": native, **given}


def to_hf(model: ModelConfig, vocab_size: int, base: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json for this model: `base` (the one it came from, or {}) with all that the model's numbers need.

    A base that says the same in another spelling is left as it is. Raises ConfigError for a model of no family.
    """
    family = "qwen3_moe" if model.moe.experts else "qwen3" if model.qk_norm else "qwen2"
    if model.qkv_bias != (family == "qwen2"):
        raise ConfigError(
            f"no model of the family has model.qk_norm={model.qk_norm} with model.qkv_bias={model.qkv_bias}; "
            "only qk_norm without qkv_bias (Qwen3) and qkv_bias without qk_norm (Qwen2.5) can be written"
        )
    yarn = model.yarn
    values = dict(base) | {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        **{theirs: getattr(model, ours) for theirs, ours in _PLAIN.items()},
        "vocab_size": vocab_size,
        "hidden_act": "silu",
        "rope_theta": model.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": round(yarn.native_tokens * yarn.factor),
    }
    # transformers 5 reads both spellings, others the older one; and a _NATIVE out here would win over rope_scaling's.
    for newer in ("rope_parameters", _NATIVE, *_ALIASES):
        values.pop(newer, None)
    if family != "qwen2":
        values |= {"head_dim": model.head_dim, "attention_bias": False}
    elif "head_dim" in base or model.head_dim * model.heads != model.hidden:
        values["head_dim"] = model.head_dim  # transformers' Qwen2 has no such field, but reads it
    if model.moe.experts:
        values |= {theirs: getattr(model.moe, ours) for theirs, ours in _MOE.items()}
        values |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if yarn.factor != 1 or yarn.scale != 1:
        values["rope_scaling"] = {
            "rope_type": "yarn",
            "factor": yarn.factor,
            _NATIVE: yarn.native_tokens,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            **({"attention_factor": yarn.attention_factor} if yarn.attention_factor else {}),
        }
    return dict(base) if _says_the_same(base, values) else values


def _says_the_same(base: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    try:
        return build(ModelConfig, from_hf(base)) == build(ModelConfig, from_hf(values))
    except ConfigError:
        return False
