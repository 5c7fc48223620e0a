"""Logs of groups for another number of processes than wrote them: a run goes on where its checkpoint is.

Each process logs its own groups, so the logs of two are not those of one. They need not be read: where a step's groups
are its own places, whoever was fast, the number of steps says what was trained. What was sampled for later steps is in
the journals, of which every process reads those that none of the present ones writes.

Left out: windows above 1, replaced groups and deadlines. There what a step took is in the logs alone.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mirothinker_jax.rollout.buffer import Buffer, Slots
from mirothinker_jax.rollout.group_log import NAME, GroupLog, logs_of_others


def redeal(folder: Path, slots: Slots, count: int, steps: int) -> None:
    """Gives each of `count` processes a log that ends where the first `steps` steps were trained, and sets aside the
    logs of another number of them, if there are any. `slots` are the whole run's, and in strict order.

    Harmless the second time, also after it was killed. Raises OSError.
    """
    assert slots.window == 1 and slots.refill == 0, slots
    others = logs_of_others(folder, count)
    if not others:
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix=".groups-") as scratch:
        for index in range(count):
            log = GroupLog(Path(scratch), Buffer(slots.share(index, count)))
            for step in range(steps):
                log.buffer.publish(step)
                for _ in range(log.buffer.slots.questions):
                    group = log.admit()
                    assert group is not None, "a step's groups have their slots"
                    log.finish(group.number, group.members)
                assert log.take() is not None
            log.close()
        for path in Path(scratch).glob(f"{Path(NAME).stem}*"):
            path.replace(folder / path.name)
    aside = folder / "other_processes"
    aside.mkdir(exist_ok=True)
    for path in others:
        path.replace(aside / path.name)
