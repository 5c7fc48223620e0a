"""Parameters that a stage may need, at the time that it does: a resumed run holds no more of them than a fresh one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.trainer.checkpoint import check_identity, restore_params
from mirothinker_jax.trainer.steps import newest_step


class StepLost(Exception):
    """A stage that was done has lost its last step, which is set aside: it goes on from the one before."""


class LazyParams:
    """What a stage starts from: made, loaded or at hand. Whoever is told to hold none loads them again when asked."""

    def __init__(self, load: Callable[[], Params], params: Params | None = None):
        """`params`, where they are at hand, are what `load` would return."""
        self._load, self._params = load, params

    def get(self) -> Params:
        """The parameters, which stay here."""
        if self._params is None:
            self._params = self._load()
        return self._params

    def take(self) -> Params:
        """The parameters, which are the caller's from now on: it may donate them."""
        params = self.get()
        self.drop()
        return params

    def drop(self) -> None:
        """Holds them no longer."""
        self._params = None


def load_step(checkpoints: Path, step: int, model: ModelSpec, identity: dict[str, Any]) -> Params:
    """The parameters of the newest step, and nothing else of it.

    Raises StepLost where that is damaged, ConfigError where it belongs to another model or tokenizer.
    """
    found = newest_step(checkpoints, set_aside=True)
    if found != step:
        raise StepLost(f"{checkpoints} has step {found} instead of {step}")
    path = checkpoints / str(step)
    check_identity(path, identity, "use another config.run_dir, or the config that wrote it")
    return restore_params(path, model)
