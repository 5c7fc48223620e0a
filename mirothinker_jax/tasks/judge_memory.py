"""Verdicts that were given once, so that no judge is asked the same thing twice: in memory, and in a file if one is
named.

The file has a line for each verdict, of its key and its figures. No text of a question, reference or reply is in it.
Several processes may add to it: a line that another one keeps from being written is asked for again in the next run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from mirothinker_jax import checked_lines
from mirothinker_jax.config import ConfigError, TasksConfig
from mirothinker_jax.tasks.types import Verdict

logger = logging.getLogger(__name__)

_REMEMBERED = 1 << 17  # verdicts


class JudgeMemory:
    """Verdicts by what was asked. Raises ConfigError for a file that cannot be read."""

    def __init__(self, settings: TasksConfig):
        self._asker = [settings.judge_model, settings.judge_temperature, settings.judge_reading]
        self._path = Path(settings.judge_cache_file) if settings.judge_cache_file else None
        self._known: dict[str, Verdict] = {}
        if self._path is None or not self._path.exists():
            return
        try:
            lines = [text for _, _, text in checked_lines.read_lines(self._path)]
        except OSError as error:
            raise ConfigError(
                f"tasks.judge_cache_file: {self._path} cannot be read ({error.strerror})"
            ) from None
        if lines and not any(lines):
            raise ConfigError(
                f"tasks.judge_cache_file: {self._path} is no file of verdicts; name another, or one that is not there"
            )
        for text in lines:
            if text is not None:
                said = json.loads(text)
                self._remember(said["key"], Verdict(said["correct"], "remembered", said["terms"]))

    def key(self, prompt: str) -> str:
        """What stands for a prompt, put to this model in this way."""
        asked = json.dumps([*self._asker, prompt])
        return hashlib.sha256(asked.encode()).hexdigest()

    def get(self, key: str) -> Verdict | None:
        """The verdict, if one was given."""
        return self._known.get(key)

    def add(self, key: str, verdict: Verdict) -> None:
        """Remembers a verdict that says right or wrong."""
        self._remember(key, verdict)
        if self._path is None:
            return
        line = {"key": key, "correct": verdict.correct, "terms": dict(verdict.terms)}
        try:
            with checked_lines.open_for_append(self._path) as file:
                checked_lines.append(file, line)
        except (
            OSError
        ) as error:  # another process writes just now, or the disk is full: it costs a request, later
            logger.warning("%s: a verdict was not written: %s", self._path, error)

    def _remember(self, key: str, verdict: Verdict) -> None:
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = verdict
