"""Supervised fine-tuning of MiroThinker v1.0 30B (Qwen3-30B-A3B-Thinking-2507) at 256K tokens.

    python -m mirothinker_jax.plan --config configs/mirothinker_v1_30b/sft.py --topology v5p:4x4x4
    python -m mirothinker_jax.train --config configs/mirothinker_v1_30b/sft.py:runs/START --config.data.path=my.jsonl

runs/START is a run that mirothinker_jax.convert made, or one that trained; without it the sizes are the preset's, for
planning. Settings: mirothinker_jax/recipes.py; what fits where: docs/notes/plans.md. Not run by the authors.
"""

from mirothinker_jax import recipes


def get_config(model: str = "qwen3-30b-a3b-thinking-2507"):
    c = recipes.sft(model, native_tokens=262_144, context=16, microbatch_size=4)
    c.run_dir = "runs/mirothinker-30b-sft"
    return c
