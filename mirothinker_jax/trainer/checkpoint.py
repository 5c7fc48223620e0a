"""Checkpoints by Orbax: state, data position and what they belong to, written by all processes, atomically.

A step is there or it is not: Orbax writes to a temporary folder and renames it. Restoring onto another mesh or
another number of processes reshards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mirothinker_jax.config import EXECUTION, ConfigError, ModelConfig
from mirothinker_jax.models.qwen import STACKED, Params, combine, split
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.placement import gather_state
from mirothinker_jax.parallel.sharding import with_shardings
from mirothinker_jax.trainer.state import TrainState

CHUNK_BYTES = 64 << 20  # of one stored piece, where it can be cut along the layers


class Checkpoints:
    """The checkpoints of one stage. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, folder: Path, keep: int, identity: dict[str, Any]):
        """`identity` (JSON) says which model and tokenizer the numbers belong to; it is compared on restore."""
        self.folder, self._identity = folder, identity
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, source: dict[str, Any], config: dict[str, Any]) -> None:
        """Starts writing the state; the step's arrays may be donated as soon as this returns."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state, save_args=_chunk_sizes(state)),
                source=ocp.args.JsonSave(gather_state(source)),
                identity=ocp.args.JsonSave(self._identity),
                config=ocp.args.JsonSave(config),
            ),
        )

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state, laid out like `abstract` (with shardings), and its source's position.

        Raises ConfigError if it belongs to another model or tokenizer.
        """
        self.check_identity("use another config.run_dir, or the config that wrote it")
        restored = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), source=ocp.args.JsonRestore()),
        )
        return restored["state"], restored["source"]

    def read(self, item: str) -> dict[str, Any]:
        """The "identity" or the "config" of the newest checkpoint."""
        kinds = ocp.args.Composite(**{item: ocp.args.JsonRestore()})
        return self._manager.restore(self.latest, args=kinds)[item]

    def check_identity(self, way_out: str) -> None:
        """Raises ConfigError, with this way out, if the newest checkpoint is another model's or tokenizer's."""
        saved = self.read("identity")
        different = [
            f"{key} {saved.get(key)!r} → {value!r}"
            for key, value in self._identity.items()
            if saved.get(key) != value
        ]
        if different:
            raise ConfigError(
                f"{self.folder} holds a checkpoint of another model ({'; '.join(different)}); {way_out}"
            )


def _chunk_sizes(state: TrainState) -> Any:
    """How leaves are stored: what is stacked over layers in pieces of some layers, so that an export, which reads layer
    by layer, need not hold all of them."""

    def leaf(path: Any, _: Any) -> ocp.SaveArgs:
        stacked = any(getattr(key, "key", None) == STACKED for key in path)
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if stacked else ())

    return jax.tree_util.tree_map_with_path(leaf, state)


def model_identity(model: ModelConfig, vocab_size: int, tokenizer: Path) -> dict[str, Any]:
    """What a checkpoint's numbers belong to: settings without which they mean nothing, or something else."""
    numbers = dataclasses.asdict(model)
    # These change how the numbers are used or trained, not what they are.
    for key in (*EXECUTION, "yarn", "lora"):
        del numbers[key]
    del numbers["moe"]["balance_coef"]
    sha256 = hashlib.sha256(tokenizer.read_bytes()).hexdigest()
    return numbers | {"vocab_size": vocab_size, "tokenizer_sha256": sha256}


def newest(folder: str) -> Path:
    """The checkpoints of a stage folder, or of a run folder's last stage (convert's runs have one, of no stage).

    Raises ConfigError where there is none.
    """
    for stage in ("", "grpo", "dpo", "sft"):
        path = Path(folder) / stage / "checkpoints"
        if _has_checkpoint(path):
            return path
    raise ConfigError(f"no checkpoint under {folder}; give a run folder or one of its stage folders")


def load_params(folder: str, model: ModelSpec, identity: dict[str, Any], seed: int) -> Params:
    """Parameters from the newest checkpoint under `folder`, in the model's dtype and sharding.

    Adapters that the model has and the checkpoint has not are fresh, from `seed`.

    Raises ConfigError where there is no checkpoint, or where it belongs to another model.
    """
    try:
        path = newest(folder)
    except ConfigError as error:
        raise ConfigError(f"config.model.init_from: {error}") from None
    abstract = with_shardings(model.abstract, model.shardings)
    with Checkpoints(path, 1, identity) as checkpoints:
        checkpoints.check_identity(
            "config.model.init_from needs the model settings that wrote it, and its tokenizer as tokenizer.path"
        )
        step, saved = checkpoints.latest, checkpoints.read("config")["model"]["lora"]
    wanted = json.loads(json.dumps(dataclasses.asdict(model.config.lora)))
    if saved["rank"] == 0 and wanted["rank"] > 0:
        frozen = _restore_params(path / str(step), split(model.config, abstract)[1])
        return combine(model.init_adapters(seed), frozen)
    if saved != wanted and saved["rank"] + wanted["rank"] > 0:
        raise ConfigError(
            f"config.model.init_from: {path} was written with model.lora {saved}, not {wanted}; give the same, or "
            "merge its adapters into the model with mirothinker_jax.convert --to hf, and that --from hf"
        )
    return restore_params(path / str(step), model)


def restore_params(step: Path, model: ModelSpec) -> Params:
    """The parameters of the checkpoint in folder `step`, in the model's dtype and sharding."""
    return _restore_params(step, with_shardings(model.abstract, model.shardings))


def _has_checkpoint(path: Path) -> bool:
    if not path.is_dir():
        return False
    with contextlib.closing(ocp.CheckpointManager(path.resolve())) as manager:
        return manager.latest_step() is not None


def _restore_params(step: Path, abstract: Params) -> Params:
    item = {"params": abstract}
    restore = ocp.args.PyTreeRestore(
        item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore((step / "state").resolve(), restore)["params"]
