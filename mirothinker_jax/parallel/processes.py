"""Several processes as one program: started by the launcher's environment, the same code with one or many."""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
import time
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from mirothinker_jax.config import ConfigError

MEETING_TIMEOUT_MS = 7 * 24 * 3600 * 1000
LAUNCHER_S = 15.0  # launch/local.sh takes less to end the processes that are left
# What jax raises, on CPUs, where another process went away in the middle of what all do together.
_GONE = re.compile(r"Gloo .*(closed by peer|reset by peer|Broken pipe)", re.DOTALL)
_meetings = itertools.count()  # each process counts its own, and they come in the same order


def start_processes() -> None:
    """Joins the other processes where a launcher says that there are some.

    Known are the variables of launch/local.sh (COORDINATOR_ADDRESS, PROCESS_COUNT, PROCESS_ID), and what
    `jax.distributed` finds by itself on TPU pods, Slurm and Kubernetes (JAX_DISTRIBUTED=1 asks for it).

    Raises ConfigError where the launcher's variables are incomplete.
    """
    if jax.distributed.is_initialized():
        return
    # It would catch SIGTERM and let the run go on; a run may be ended at any moment, so it should end.
    jax.config.update("jax_enable_preemption_service", False)
    address = os.environ.get("COORDINATOR_ADDRESS")
    if address:
        jax.distributed.initialize(address, _number("PROCESS_COUNT"), _number("PROCESS_ID"))
    elif os.environ.get("JAX_DISTRIBUTED") == "1":
        jax.distributed.initialize()


def leave_others(code: int, why: str = "") -> None:
    """Ends this process, which has failed, on the spot if it is one of several, and says why; returns if it is alone.

    An ordinary exit would wait minutes for the others, which wait for this one. They are ended by the
    launcher, or by jax's coordination service when it misses this process.
    """
    if jax.distributed.is_initialized():
        sys.stderr.write(why)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def leave_after_another(error: Exception) -> None:
    """Ends this process in one line where the error only says that another one is gone; returns if it says more.

    That one's exit code is the run's: a launcher that has seen it is given the time to end this process itself.
    """
    if jax.distributed.is_initialized() and _GONE.search(str(error)):
        sys.stderr.write("error: another process of this run has ended; its own lines say why\n")
        sys.stderr.flush()
        time.sleep(LAUNCHER_S)
        leave_others(1)


def _number(variable: str) -> int:
    text = os.environ.get(variable, "")
    if not text.isdecimal():
        raise ConfigError(
            f"COORDINATOR_ADDRESS is set, but {variable} is {text!r}; set both it and the process's number, "
            "or start with launch/local.sh"
        )
    return int(text)


def barrier(name: str) -> None:
    """Waits until every process is here; nothing for one."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def meet() -> None:
    """Waits until every process is here, without the devices, so that what others of its threads send there goes on
    meanwhile. Nothing for one. A process that is gone ends the wait, and this process."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # jax itself has this under a private name only

        multihost.get_barrier_sync_fn()(key=f"meeting {next(_meetings)}", timeout_ms=MEETING_TIMEOUT_MS)


def all_processes(condition: bool) -> bool:
    """Whether it holds on every process. Every process must ask."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.bool_(condition))))


def gather_texts(text: str) -> list[str]:
    """Every process's text, in their order. Every process must ask."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(mine)))
    padded = np.zeros(max(1, int(sizes.max())), np.uint8)
    padded[: len(mine)] = mine
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[: int(size)]).decode() for row, size in zip(rows, sizes, strict=True)]


def max_over_processes(value: int) -> int:
    """The largest of the processes' values. Every process must ask."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def merge_shares(own: np.ndarray, total: int) -> np.ndarray:
    """The whole array [total] of which each process has the elements index, index + count, ….

    Every process must ask.
    """
    count = jax.process_count()
    if count == 1:
        return own
    padded = np.zeros(-(-total // count), own.dtype)
    padded[: len(own)] = own
    return np.asarray(multihost_utils.process_allgather(padded)).T.reshape(-1)[:total]


def mean_figures(figures: Mapping[str, float]) -> dict[str, float]:
    """Each figure's mean over the processes that have it; the largest where its name ends in /max. Every process must
    ask."""
    if jax.process_count() == 1:
        return dict(figures)
    by_name: dict[str, list[float]] = {}
    for text in gather_texts(json.dumps(dict(figures))):
        for name, value in json.loads(text).items():
            by_name.setdefault(name, []).append(value)
    return {
        name: max(values) if name.endswith("/max") else sum(values) / len(values)
        for name, values in sorted(by_name.items())
    }
