"""Which formula a stage trains with."""

from __future__ import annotations

from mirothinker_jax.config import Config
from mirothinker_jax.objectives.dpo import make_dpo
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.types import Objective


def objective_of(config: Config, stage: str) -> Objective:
    c = config.dpo
    if stage == "dpo":
        return make_dpo(c.beta, c.sft_coef, c.pairs_per_row)
    return make_grpo(config.grpo) if stage == "grpo" else sft
