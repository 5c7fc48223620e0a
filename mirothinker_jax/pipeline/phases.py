"""How long each phase of a run took, kept on disk across restarts."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from mirothinker_jax.data.atomic import replacing


class Phases:
    """Seconds by phase. A phase that is cut off by a kill is not counted, one that is resumed adds up."""

    def __init__(self, path: Path, enabled: bool):
        self._path, self._enabled = path, enabled
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        self._earlier, self._begun = sum(self.seconds.values()), time.monotonic()

    def wall_s(self) -> float:
        """All of this start of the run, and the finished phases of the starts before it."""
        return round(self._earlier + time.monotonic() - self._begun, 1)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begun, 2)
        if self._enabled:
            with replacing(self._path) as scratch:
                scratch.write_text(json.dumps(self.seconds))
