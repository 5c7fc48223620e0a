"""Which step of a folder of checkpoints is used: the newest whose files are what was written.

A damaged step is never restored and never deleted. The run that owns it renames it to damaged-STEP, which nobody takes
for a step, and goes on from the one before; whoever reads another run's checkpoints passes over it and leaves it.
Where every step is damaged nothing is renamed, so that the next start does not find a stage without steps and begin it
anew.

Every process of a run must call these functions, but for `trained_steps`. They share the reading, and agree on what
they found.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import jax

from mirothinker_jax.config import ConfigError
from mirothinker_jax.parallel.processes import barrier, gather_texts
from mirothinker_jax.trainer.digests import damage

SET_ASIDE = "damaged-"

logger = logging.getLogger(__name__)


def newest_step(folder: Path, set_aside: bool) -> int | None:
    """The newest undamaged step of a folder of checkpoints; None where there is no step at all.

    Says of each damaged one in a line what it is, and renames it if `set_aside`.

    Raises ConfigError where every step is damaged, OSError where one cannot be read or renamed.
    """
    first, damaged = jax.process_index() == 0, {}
    found = json.loads(
        gather_texts(json.dumps(_steps(folder)))[0]
    )  # as the first process sees the file system
    for step in reversed(found):
        path = folder / str(step)
        what = next(filter(None, gather_texts(damage(path, jax.process_index(), jax.process_count()))), "")
        if not what:
            break
        damaged[path] = what
    else:
        if damaged or any(folder.glob(f"{SET_ASIDE}*")):
            first_of = next((f" ({path.name}: {what})" for path, what in damaged.items()), "")
            raise ConfigError(
                f"{folder}: every checkpoint is damaged{first_of}; put a whole step back from a copy, or remove the "
                "folder to begin its training anew"
            )
        return None
    for path, what in damaged.items():
        new = _unused(path.with_name(f"{SET_ASIDE}{path.name}"))
        done = f"; set aside as {new.name}, using step {step}" if set_aside else f"; using step {step}"
        if first:
            if set_aside:
                path.rename(new)
            logger.warning("%s is damaged: %s%s", path, what, done)
    barrier("damaged steps")
    return step


def newest(folder: str) -> Path:
    """The newest undamaged step of a stage folder, or of a run folder's last stage (convert's runs have one, of no
    stage). Renames nothing.

    Raises ConfigError where there is none.
    """
    for stage in ("", "grpo", "dpo", "sft"):
        path = Path(folder) / stage / "checkpoints"
        if (step := newest_step(path, set_aside=False)) is not None:
            return path / str(step)
    raise ConfigError(f"no checkpoint under {folder}; give a run folder or one of its stage folders")


def trained_steps(folder: Path) -> int:
    """The newest step of a folder of checkpoints by its name alone, as this process sees it; 0 where there is none."""
    return max(_steps(folder), default=0)


def _steps(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal() and path.is_dir())


def _unused(path: Path) -> Path:
    """This path, or with a number behind: the same step may be damaged again."""
    others = (path.with_name(f"{path.name}.{number}") for number in range(2, 1000))
    return next(p for p in (path, *others) if not p.exists())
