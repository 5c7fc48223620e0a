"""What a command is given to read, opened and checked before jax is imported: a mistake shows in a second. No jax.

Every process of a run checks for itself, for each may see other files, and says what is wrong before it waits for the
others. What depends on the mesh, on the tokens of the data or on the numbers of a checkpoint (is it whole?) is checked
later.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mirothinker_jax.config import STAGES, Config, ConfigError, ModelConfig, build, check
from mirothinker_jax.data.conversations import ConversationSource, open_conversations
from mirothinker_jax.data.hf_tokenizer import open_tokenizer
from mirothinker_jax.data.preference_files import PreferencePairs, open_pairs
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.presets import read_hf_config
from mirothinker_jax.pipeline.hf_folder import eos_ids, read_json
from mirothinker_jax.tasks.environments import open_environment
from mirothinker_jax.tasks.graders import open_grader
from mirothinker_jax.tasks.types import Environment, Task
from mirothinker_jax.tools.build import check_tools, key_env
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.world.environment import WorldEnvironment


class Inputs(NamedTuple):
    """What a run was given; None where it makes its own."""

    conversations: ConversationSource | None
    tokenizer: TextCodec | None
    validation: ConversationSource | None
    pairs: PreferencePairs | None = None


def open_inputs(config: Config) -> Inputs:
    """Opens the data and the tokenizer of a run, and looks at its other paths.

    Raises ConfigError or DataError, one line each.
    """
    try:
        return _open(config)
    except OSError as error:  # no permission, a name that is too long, a loop of links
        raise ConfigError(
            f"{error.filename}: {error.strerror}; give another path, or mend this one"
        ) from None


def _open(config: Config) -> Inputs:
    check(bool(config.stages), "config.stages is empty: nothing is trained; give some of sft, dpo, grpo")
    conversations = tokenizer = validation = pairs = None
    if config.data.path:
        conversations = open_conversations(config.data.path, config.data.ignore)
    if config.data.validation_path:
        try:
            validation = open_conversations(config.data.validation_path, config.data.ignore)
        except DataError as error:
            raise DataError(str(error).replace("data.path", "data.validation_path")) from None
    if "dpo" in config.stages and config.dpo.path:
        pairs = open_pairs(config.dpo.path, config.data.ignore)
    if config.tokenizer.path:
        tokenizer = open_tokenizer(config.tokenizer.path, config.tokenizer.template)
    if tokenizer is not None:
        padded_vocabulary(config.model.vocab_size, tokenizer)
    started = has_checkpoint(
        Path(config.run_dir) / config.stages[0]
    )  # then the first parameters are not needed
    if config.model.init_from and not started:
        _check_init_from(config.model.init_from)
    _check_run_dir(config.run_dir)
    if wanted := purposes(config):
        check_tools(config.tools, os.environ.get(key_env(config.tools), ""))
        if config.tasks.source == "files":  # a module is called once only, and the world is of this program
            environment = open_tasks(config, list)
            for purpose in wanted:
                draw_tasks(environment, config, purpose)
    return Inputs(conversations, tokenizer, validation, pairs)


def purposes(config: Config) -> list[str]:
    """What the run draws questions for; none where it only fine-tunes on a file."""
    c = config
    expert = not c.data.path and ("sft" in c.stages or not c.tokenizer.path)
    wanted = {"expert": expert, "evaluation": c.evaluation.questions > 0}
    wanted |= {"dpo": "dpo" in c.stages and not c.dpo.path, "grpo": "grpo" in c.stages}
    return [purpose for purpose, needed in wanted.items() if needed]


def open_tasks(config: Config, tools: Callable[[], Sequence[Tool]]) -> Environment:
    """The environment that the config names; `tools` are those of config.tools. Raises ConfigError or DataError."""

    def world(c: Config) -> Environment:
        return WorldEnvironment(c.world, c.seed, open_grader(c.tasks), tools)

    return open_environment(config, world, lambda _: tools())


def draw_tasks(environment: Environment, config: Config, purpose: str) -> Sequence[Task]:
    """Those for the "expert", "dpo", "grpo" or the "evaluation". Raises ConfigError where there are none."""
    split, count = {
        "expert": ("train", config.sft.expert_episodes),
        "dpo": ("train", config.dpo.questions),
        "grpo": ("train", config.grpo.question_pool),
        "evaluation": ("heldout", config.evaluation.questions),
    }[purpose]
    seed = int.from_bytes(hashlib.sha256(f"{config.seed}|{purpose}".encode()).digest()[:4])
    return environment.tasks(split, count, seed)


def padded_vocabulary(size: int, tokenizer: TextCodec) -> int:
    """The model's vocabulary: `size`, or, where that is 0, the tokenizer's, rounded up so that it divides over any mesh
    axis of 64. Raises ConfigError where the tokenizer has more tokens."""
    needed = tokenizer.vocab_size
    check(
        size == 0 or size >= needed,
        f"model.vocab_size is {size}, the tokenizer has {needed} tokens; give at least as many, or 0",
    )
    return size or -(-needed // 64) * 64


class Source(NamedTuple):
    """A Hugging Face folder that can be converted, but for the shapes of its tensors."""

    path: Path
    model: ModelConfig
    files: Folder


def read_source(path: Path) -> Source:
    """Reads config.json, tokenizer and the headers of the weights. Raises ConfigError, one line."""
    if has_checkpoint(path):
        raise ConfigError(f"{path} is a run already, not a Hugging Face folder; give --to hf to export it")
    for name, what in (("config.json", "a Hugging Face model has one"), ("tokenizer.json", "a run needs it")):
        if not (path / name).is_file():
            raise ConfigError(
                f"{path / name} is not there, and {what}; give a downloaded model's folder as --path "
                "(hf download OWNER/NAME --local-dir models/NAME)"
            )
    config = path / "config.json"
    fields = read_hf_config(config)
    try:
        model = build(ModelConfig, fields)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None
    files = Folder(path)
    # Whatever chat template lies beside it: training may be told another one (tokenizer.template).
    tokenizer = open_tokenizer(path / "tokenizer.json", "chatml")
    if tokenizer.vocab_size > model.vocab_size:
        raise ConfigError(
            f"{path / 'tokenizer.json'}: has {tokenizer.vocab_size} tokens, and the model of {config} knows "
            f"vocab_size {model.vocab_size}; resize the model's embedding (resize_token_embeddings) and save it again"
        )
    eos_ids(path, tokenizer)
    return Source(path, model, files)


def check_exportable(path: Path) -> None:
    """Raises ConfigError where there is no run at `path`, or one without a checkpoint."""
    if has_checkpoint(path):
        return
    if _is_hf(path):
        raise ConfigError(f"{path} is a Hugging Face folder already; give --from hf to make a run of it")
    _refuse_without_checkpoint(path)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder, or a stage folder, has a checkpoint, maybe a damaged one: a step's number as a folder's
    name."""
    folders = [folder / stage / "checkpoints" for stage in ("", *STAGES)]
    steps = (
        step.name.removeprefix("damaged-") for path in folders if path.is_dir() for step in path.iterdir()
    )
    return any(map(str.isdecimal, steps))


def _check_init_from(where: str) -> None:
    path = Path(where)
    if has_checkpoint(path):
        return
    try:
        if _is_hf(path):
            raise ConfigError(
                f"{where} is a Hugging Face folder; python -m mirothinker_jax.convert --from hf --path {where} "
                "--out runs/NAME, then give runs/NAME"
            )
        _refuse_without_checkpoint(path)
    except ConfigError as error:
        raise ConfigError(f"config.model.init_from: {error}") from None


def _is_hf(path: Path) -> bool:
    return (path / "config.json").is_file() and "model_type" in read_json(path / "config.json")


def _refuse_without_checkpoint(path: Path) -> None:
    there = "" if path.is_dir() else f" (no such folder, now in {Path.cwd()})"
    raise ConfigError(f"no checkpoint under {path}{there}; give a run folder or one of its stage folders")


def _check_run_dir(where: str) -> None:
    """Nothing is made here: a run that fails before its first step leaves nothing behind."""
    path = Path(where)
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    check(there.exists(), f"config.run_dir: {there} is a link to nothing; give another folder, or mend it")
    check(there.is_dir(), f"config.run_dir: {there} is a file; give a folder")
    check(
        os.access(there, os.W_OK | os.X_OK),
        f"config.run_dir: {there} cannot be written; give a folder of yours, or change its rights",
    )
