"""What a run folder was made with, and which settings may be others when the run goes on.

Whatever changes the numbers by more than rounding stays: else one folder would hold two experiments. The exception is
a stage's number of steps, as long as no later stage has begun from its parameters.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from mirothinker_jax.config import FREE_SETTINGS, STAGES, Config, GRPOConfig
from mirothinker_jax.config_tree import ConfigError, difference, flat, to_plain
from mirothinker_jax.data.atomic import remove_scratch, replacing
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.parallel.processes import barrier
from mirothinker_jax.pipeline.lock import NAME as LOCK
from mirothinker_jax.rollout.buffer import Slots
from mirothinker_jax.rollout.redeal import redeal
from mirothinker_jax.rollout.rewind import rewind
from mirothinker_jax.trainer.steps import trained_steps

# Settings of the machine, of how the same numbers are computed, and of what is written down.
FREE = (
    *FREE_SETTINGS,
    *("run_dir", "stages", "mesh.", "rollout.", "study.", "sft.validate_every"),
    *("data.read_threads", "data.survey", "data.validation_path"),
)
FREE_OF_TRAINING = (
    "microbatch_size",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "optimizer.offload",
)
# What a stage leaves behind that was made from the parameters that it starts with.
MADE_BY = {
    "sft": ("sft/checkpoints/*",),
    "dpo": ("dpo/samples.*", "dpo/reference.npz", "dpo/checkpoints/*"),
    "grpo": ("grpo/rollouts/*", "grpo/checkpoints/*"),
}
# Free until the run has left something behind that was made with them. A start that failed before that leaves nothing
# that other settings could contradict.
FREE_UNTIL = {
    "sft.training.": MADE_BY["sft"],
    "dpo.": MADE_BY["dpo"],
    "grpo.": MADE_BY["grpo"],
    "evaluation.": ("*/eval_trajectories.*",),
}
WORK = ("data/expert*.jsonl", *(pattern for patterns in FREE_UNTIL.values() for pattern in patterns))
MADE = ("data/*", *(pattern for patterns in FREE_UNTIL.values() for pattern in patterns))

logger = logging.getLogger(__name__)


def check_same(folder: Path, new: dict[str, Any]) -> dict[str, str]:
    """The stages whose length is another one now, and what changed.

    Raises ConfigError where the run folder was made with settings that contradict these.
    """
    path = folder / "config.json"
    if not path.exists() or not exists_any(folder, MADE):
        return {}
    old = json.loads(path.read_text())
    free = (*FREE, *(key for key, patterns in FREE_UNTIL.items() if not exists_any(folder, patterns)))
    if trained_steps(folder / "sft" / "checkpoints"):
        # The data may have moved: their fingerprint is compared where they are read on.
        free += ("data.path",)
    changed = {line.partition(":")[0]: line for line in difference(old, new)}
    changed = {key: line for key, line in changed.items() if not key.startswith(free)}
    after = flat(new)
    # A mixture's balance loss is one of each micro-batch.
    balanced = after["model.moe.experts"] > 0 and after["model.moe.balance_coef"] > 0
    resized = {}
    for stage in STAGES:
        for name in FREE_OF_TRAINING:
            if not (balanced and name == "microbatch_size"):
                changed.pop(f"{stage}.training.{name}", None)
        length = [changed.pop(f"{stage}.training.{name}", "") for name in ("steps", "epochs")]
        if any(length):
            resized[stage] = ", ".join(filter(None, length))
    if changed:
        raise ConfigError(
            f"{folder} was made with other settings ({'; '.join(list(changed.values())[:5])}); "
            "give another config.run_dir, or the settings it was made with"
        )
    done = tuple(old["stages"])
    if tuple(new["stages"][: len(done)]) != done:
        raise ConfigError(
            f"{folder} was made with the stages {', '.join(done)}, not {', '.join(new['stages'])}; stages can only "
            "be added behind those: give another config.run_dir, or the stages it was made with"
        )
    for stage, change in resized.items():
        _check_length(folder, stage, change, after[f"{stage}.training.steps"])
    return resized


def _check_length(folder: Path, stage: str, change: str, steps: int) -> None:
    """`steps` is 0 where epochs are given, whose number of steps is not known yet."""
    trained = trained_steps(folder / stage / "checkpoints")
    if 0 < steps < trained:
        raise ConfigError(
            f"config.{stage}.training.steps is {steps}, and {folder} has trained {trained}; give as many or more"
        )
    for later in STAGES[STAGES.index(stage) + 1 :]:
        if exists_any(folder, MADE_BY[later]):
            raise ConfigError(
                f"config.{change}, and {later} has begun from the parameters of step {trained}; give the former value, "
                f"or remove {folder / later} to have it made anew"
            )


def claim(folder: Path, config: Config, resized: dict[str, str], first: bool) -> None:
    """Writes the resolved config into the run folder, when every process has read the one that was there, and sets
    aside what belongs to a stage's former length."""
    path = folder / "config.json"
    barrier("config read")
    if first:
        remove_scratch(folder)
        for stage, change in resized.items():
            _set_aside(folder / stage, change, config.grpo.questions)
        _redeal(folder / "grpo", config.grpo)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(to_plain(config), indent=2))
    barrier("config")
    if not path.exists():
        raise ConfigError(
            f"config.run_dir: {folder} is not the first process's folder of that name; "
            "give a folder on a file system that all processes share"
        )


def _redeal(folder: Path, c: GRPOConfig) -> None:
    """What is sampled ahead goes on with as many processes as there are now, where that can be."""
    if c.window == 1 and c.refill == 0 and c.group_deadline_s == 0:
        slots = Slots(c.questions, c.group, c.staleness)
        redeal(folder / "rollouts", slots, jax.process_count(), trained_steps(folder / "checkpoints"))


def _set_aside(folder: Path, change: str, questions: int) -> None:
    """The evaluation, which is of the last step's parameters, and rollouts of steps that will be trained anew, with
    other learning rates before them; `questions` are those of a step of them."""
    trained = trained_steps(folder / "checkpoints")
    logger.info(
        "%s, from step %d on; the learning rate follows the schedule of the new length", change, trained
    )
    for part in sorted(folder.glob("eval_trajectories.*")):
        place = folder / f"of_step_{trained}"
        place.mkdir(exist_ok=True)
        part.rename(place / part.name)
    rollouts = folder / "rollouts"
    place = rollouts / f"beyond_step_{trained}"
    if rewind(
        rollouts, trained, questions, place
    ):  # where groups were sampled ahead, files are not of one step
        return
    for rollout in sorted(rollouts.glob("step_*")):
        if int(rollout.name[len("step_") :].partition(".")[0]) > trained:
            place.mkdir(exist_ok=True)
            rollout.rename(place / rollout.name)


@contextlib.contextmanager
def nothing_left_of_a_refusal(folder: Path, enabled: bool) -> Iterator[None]:
    """Where the block refuses a run that began in an empty folder, before it trained or sampled anything, the folder is
    empty again: else settings that never worked would bind the next start."""
    empty = enabled and not any(path.name != LOCK for path in folder.iterdir())
    try:
        yield
    except (ConfigError, DataError):
        if empty and not exists_any(folder, WORK):
            for path in folder.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def exists_any(folder: Path, patterns: Iterable[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))
