"""A circuit breaker: a service that is down is left alone for a while, then tried by one call.

Only infrastructure counts (spec.Failure): a dead link or a crash of the model's code shows that the service works.
While the circuit is open its calls fail at once, so episodes end as INFRASTRUCTURE instead of waiting for deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from mirothinker_jax.tools.spec import Failure, ToolError

logger = logging.getLogger(__name__)


class CircuitOpen(ToolError):
    """The call was not made."""


class Breaker:
    """Of one server. `failures` in a row open the circuit for `open_s` seconds of the event loop's clock; 0: never."""

    def __init__(self, server: str, failures: int, open_s: float):
        self._server, self._limit, self._open_s = server, failures, open_s
        self._row = 0
        self._last = ""
        self._open_until: float | None = None  # None: closed
        self._probing = False

    def check(self) -> None:
        """Raises CircuitOpen unless a call may be made now."""
        if self._open_until is None:
            return
        wait = self._open_until - asyncio.get_running_loop().time()
        if wait > 0 or self._probing:
            when = f"in {wait:.3g} s" if wait > 0 else "by another call now"
            raise CircuitOpen(
                Failure.NETWORK,
                f"circuit open: {self._server} failed {self._row} times in a row and is tried again {when}; "
                f"the last failure: {self._last}",
            )

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Around one attempt; learns from how it ends. Raises CircuitOpen unless a call may be made now."""
        self.check()
        probe = self._probing = self._open_until is not None
        try:
            yield
        except ToolError as error:
            if error.failure.infrastructure:
                self._failed(probe, str(error))
            elif error.failure.answered:
                self._answered()
            raise
        else:
            self._answered()
        finally:  # one that was cancelled, or met a host of the model's choice, says nothing: the next call probes
            if probe:
                self._probing = False

    def _failed(self, probe: bool, reason: str) -> None:
        self._row += 1
        self._last = reason
        if self._limit and (probe or (self._open_until is None and self._row >= self._limit)):
            self._open_until = asyncio.get_running_loop().time() + self._open_s
            logger.warning(
                "%s failed %d times in a row; its calls fail at once for %g s. The last failure: %s",
                *(self._server, self._row, self._open_s, reason),
            )

    def _answered(self) -> None:
        if self._open_until is not None:
            logger.warning("%s answers again", self._server)
        self._row, self._open_until = 0, None
