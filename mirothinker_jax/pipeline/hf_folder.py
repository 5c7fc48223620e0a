"""What lies beside a Hugging Face model's weights: which files go along, and where the model ends its turns. No jax.

Only files with a known name are copied: what else lies in such a folder (keys, data, notes) is nobody's business. A
README is not copied either: a model card speaks of the weights that were downloaded.

A base model's files say that it ends by `<|endoftext|>`. Training here ends each turn by `<|im_end|>`, so a trained
export must say so, in every file that anybody reads (`set_eos`), and the sampler ends turns by either (`eos_ids`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.tokenizer import IM_END, TextCodec
from mirothinker_jax.models.hf_config import FAMILIES

CONFIG, GENERATION, TOKENIZER_CONFIG = "config.json", "generation_config.json", "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
TOKENIZER_FILES = (
    *("tokenizer.json", TOKENIZER_CONFIG, SPECIAL_TOKENS, "added_tokens.json", "vocab.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja"),
)
MODEL_FILES = (CONFIG, GENERATION, "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt")
IMPORT = "import.json"  # beside them in a converted run: {"dtype": of its parameters}
_WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".bin.index.json",
    ".pth",
    ".pt",
    ".gguf",
    ".onnx",
)


def copy_files(source: Path, out: Path, names: Sequence[str]) -> None:
    """Copies what is there of `names`, which may be patterns. Raises OSError."""
    out.mkdir(exist_ok=True)
    for file in (file for name in names for file in sorted(source.glob(name)) if file.is_file()):
        target = out / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


def other_files(folder: Path) -> list[str]:
    """The files that `copy_files` leaves where they are, but for weights and hidden ones."""
    known = {file for name in (*TOKENIZER_FILES, *MODEL_FILES) for file in folder.glob(name)}
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file() and file not in known and not file.name.endswith(_WEIGHTS) and file.name[0] != "."
    )


def read_json(file: Path) -> dict[str, Any]:
    """The object in `file`; empty where there is no such file. Raises ConfigError where it holds something else."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ConfigError(f"{file}: {error}; download the file again") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: is not a JSON object; download the file again")
    return values


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def eos_ids(folder: Path, codec: TextCodec) -> tuple[int, ...]:
    """Every id that ends a turn of the model in `folder`: `<|im_end|>`, and what the files there name.

    Raises ConfigError where one of them is broken.
    """
    found = [codec.im_end_id, *_ids(folder / GENERATION), *_config_ids(folder)]
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS):
        token = codec.token_id(_content(read_json(folder / name).get("eos_token")))
        found += [] if token is None else [token]
    return tuple(dict.fromkeys(found))


def set_eos(folder: Path, codec: TextCodec, with_tokenizer: bool) -> None:
    """Makes every file of an export say that `<|im_end|>` ends a turn, besides what ended one before.

    Where that is said already, a file is left as it is. config.json must be there; what is missing of
    generation_config.json and, `with_tokenizer`, of tokenizer_config.json is written: without the latter transformers
    takes `<|endoftext|>` for Qwen's.
    """
    ids = eos_ids(folder, codec)
    config, generation = read_json(folder / CONFIG), read_json(folder / GENERATION)
    if not set(ids) <= set(_ids(folder / GENERATION)):
        generation["eos_token_id"] = list(ids) if len(ids) > 1 else codec.im_end_id
        generation.setdefault("pad_token_id", codec.pad_id)  # transformers would pad with the first eos
        write_json(folder / GENERATION, generation)
    if codec.im_end_id not in _ids(folder / CONFIG):
        config["eos_token_id"] = codec.im_end_id  # one, as Qwen's own chat models have it here
        write_json(folder / CONFIG, config)
    for name, needed in ((TOKENIZER_CONFIG, with_tokenizer), (SPECIAL_TOKENS, False)):
        settings = read_json(folder / name)
        if (settings or needed) and _content(settings.get("eos_token")) != IM_END:
            settings["eos_token"] = IM_END
            write_json(folder / name, settings)


def _config_ids(folder: Path) -> list[int]:
    """Of config.json, if it is a model's: a tokenizer may lie beside a config.json of something else."""
    try:
        known = read_json(folder / CONFIG).get("model_type") in FAMILIES
    except ConfigError:
        return []
    return _ids(folder / CONFIG) if known else []


def _ids(file: Path) -> list[int]:
    value = read_json(file).get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(type(i) is not int or i < 0 for i in ids):
        raise ConfigError(f"{file}: eos_token_id is {value!r}; give a token's id, or a list of ids")
    return ids


def _content(token: Any) -> str:
    """A token's text: as such, or as transformers writes a token with flags."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""
