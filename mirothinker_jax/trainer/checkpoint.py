"""Checkpoints by Orbax: state, data position and what they belong to, written by all processes, atomically.

A step is there or it is not: Orbax writes to a temporary folder, which gets the digests of its files (digests.py) and
is renamed, all off the training thread. Opening the checkpoints verifies the newest step and sets a damaged one aside
(steps.py). Restoring onto another mesh or another number of processes reshards.

Left out: older steps are verified only when they are needed. Not safe: two runs in one folder, of which
pipeline/lock.py lets in one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.future import ChainedFuture, Future
from orbax.checkpoint.path import atomicity

from mirothinker_jax.config import EXECUTION, ConfigError, ModelConfig
from mirothinker_jax.models.qwen import STACKED, Params, combine, split
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.placement import gather_state
from mirothinker_jax.parallel.sharding import with_shardings
from mirothinker_jax.trainer.digests import write_digests, write_part
from mirothinker_jax.trainer.state import TrainState
from mirothinker_jax.trainer.steps import newest, newest_step
from mirothinker_jax.trainer.storage import storage_errors

CHUNK_BYTES = 64 << 20  # of one stored piece, where it can be cut along the layers
SAVE_TIMEOUT_S = 3600  # of one step: writing it, its digests, and waiting for the other processes


class Checkpoints:
    """The checkpoints of one stage. Use as a context manager: leaving it waits for what is being written."""

    def __init__(self, folder: Path, keep: int, identity: dict[str, Any]):
        """`identity` (JSON) says which model and tokenizer the numbers belong to; it is compared on restore.

        Raises ConfigError where there are checkpoints and all are damaged.
        """
        self.folder, self._identity = folder, identity
        newest_step(folder, set_aside=True)
        if jax.process_index() == 0:  # of a save that was killed or had no room
            for partial in folder.glob(f"*{atomicity.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(partial, ignore_errors=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(timeout_secs=SAVE_TIMEOUT_S),
            lightweight_initialize=True,  # what lies in older steps is not looked at: it is not verified
            single_host_load_and_broadcast=True,  # file systems tell hosts of a renamed step at different times
            temporary_path_class=_StepFolder,
        )
        state, handlers = _State(), ocp.handlers.DefaultCheckpointHandlerRegistry()
        handlers.add("state", ocp.args.StandardSave, state)
        handlers.add("state", ocp.args.StandardRestore, state)
        with storage_errors(folder):
            self._manager = ocp.CheckpointManager(
                folder.resolve(), options=options, handler_registry=handlers
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        with storage_errors(self.folder):
            try:
                self._manager.wait_until_finished()
            finally:
                self._manager.close()

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, state: TrainState, source: dict[str, Any], config: dict[str, Any]) -> None:
        """Starts writing the state; the step's arrays may be donated as soon as this returns.

        Raises OSError where this step or the one before could not be written; the steps before stay.
        """
        with storage_errors(self.folder):
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
        step = self.folder / str(self.latest)
        check_identity(step, self._identity, "use another config.run_dir, or the config that wrote it")
        restored = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), source=ocp.args.JsonRestore()),
        )
        return restored["state"], restored["source"]


class _State(ocp.StandardCheckpointHandler):
    """Orbax's own, but each process takes the digests of what it has written, at the time that it has."""

    async def async_save(self, directory: Any, *args: Any, **settings: Any) -> list[Future]:
        written = await super().async_save(directory, *args, **settings) or []
        process = jax.process_index()

        def digest() -> None:
            write_part(Path(directory), f"ocdbt.process_{process}", process)

        return [ChainedFuture(written, digest)]

    @classmethod
    def typestr(cls) -> str:
        return ocp.StandardCheckpointHandler.typestr()  # so that Orbax alone can read the step


class _StepFolder(atomicity.AtomicRenameTemporaryPath):
    """Orbax's temporary folder of a step or, inside, of one of its items. A step gets digests before its name.

    Orbax would still write the time of the commit into the step's metadata; a step of ours has none.
    """

    async def finalize(self) -> None:
        if atomicity.TMP_DIR_SUFFIX in self.get_final().parent.name:
            await super().finalize()
        else:
            if self._checkpoint_metadata_store:  # writes in a thread of its own
                await asyncio.to_thread(self._checkpoint_metadata_store.wait_until_finished)
            await asyncio.to_thread(write_digests, Path(self.get()))
            self.get().rename(self.get_final())


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


def read_item(step: Path, item: str) -> dict[str, Any]:
    """The "identity" or the "config" of a step."""
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        return checkpointer.restore((step / item).resolve())


def check_identity(step: Path, identity: dict[str, Any], way_out: str) -> None:
    """Raises ConfigError, with this way out, if the step is another model's or tokenizer's."""
    saved = read_item(step, "identity")
    different = [
        f"{key} {saved.get(key)!r} → {value!r}" for key, value in identity.items() if saved.get(key) != value
    ]
    if different:
        raise ConfigError(
            f"{step.parent} holds a checkpoint of another model ({'; '.join(different)}); {way_out}"
        )


def load_params(folder: str, model: ModelSpec, identity: dict[str, Any], seed: int) -> Params:
    """Parameters from the newest checkpoint under `folder`, in the model's dtype and sharding.

    Adapters that the model has and the checkpoint has not are fresh, from `seed`.

    Raises ConfigError where there is no checkpoint, or where it belongs to another model.
    """
    try:
        step = newest(folder)
    except ConfigError as error:
        raise ConfigError(f"config.model.init_from: {error}") from None
    way_out = (
        "config.model.init_from needs the model settings that wrote it, and its tokenizer as tokenizer.path"
    )
    check_identity(step, identity, way_out)
    saved = read_item(step, "config")["model"]["lora"]
    wanted = json.loads(json.dumps(dataclasses.asdict(model.config.lora)))
    if saved["rank"] == 0 and wanted["rank"] > 0:
        frozen = split(model.config, with_shardings(model.abstract, model.shardings))[1]
        frozen = _restore_params(step, frozen)
        return combine(model.init_adapters(seed), frozen)
    if saved != wanted and saved["rank"] + wanted["rank"] > 0:
        raise ConfigError(
            f"config.model.init_from: {step.parent} was written with model.lora {saved}, not {wanted}; give the same, "
            "or merge its adapters into the model with mirothinker_jax.convert --to hf, and that --from hf"
        )
    return restore_params(step, model)


def restore_params(step: Path, model: ModelSpec) -> Params:
    """The parameters of the checkpoint in folder `step`, in the model's dtype and sharding."""
    model = model.stored
    return _restore_params(step, with_shardings(model.abstract, model.shardings))


def _restore_params(step: Path, abstract: Params) -> Params:
    item = {"params": abstract}
    restore = ocp.args.PyTreeRestore(
        item,
        restore_args=ocp.checkpoint_utils.construct_restore_args(item),
        partial_restore=True,
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore((step / "state").resolve(), restore)["params"]
