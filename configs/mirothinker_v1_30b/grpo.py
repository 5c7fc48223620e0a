"""GRPO of MiroThinker v1.0 30B (Qwen3-30B-A3B-Thinking-2507) at 256K tokens with real tool calls.

    python -m mirothinker_jax.plan --config configs/mirothinker_v1_30b/grpo.py --topology v5p:4x4x4
    python -m mirothinker_jax.train --config configs/mirothinker_v1_30b/grpo.py:runs/START

runs/START is a run that mirothinker_jax.convert made, or one that trained; without it the sizes are the preset's, for
planning. Settings: mirothinker_jax/recipes.py; what fits where: docs/notes/plans.md. Not run by the authors.
"""

from mirothinker_jax import recipes


def get_config(model: str = "qwen3-30b-a3b-thinking-2507"):
    c = recipes.grpo(model, native_tokens=262_144, context=16, microbatch_size=4)
    c.run_dir = "runs/mirothinker-30b-grpo"
    return c
