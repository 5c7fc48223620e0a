"""Which formula a stage trains with."""

from __future__ import annotations

from mirothinker_jax.config import Config
from mirothinker_jax.objectives.dpo import make_dpo
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.types import Objective


def objective_of(config: Config, stage: str) -> Objective:
    """The objective of "sft", "dpo" or "grpo"."""
    if stage == "dpo":
        return make_dpo(config.dpo)
    return make_grpo(config.grpo) if stage == "grpo" else sft
