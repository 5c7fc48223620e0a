"""Supervised fine-tuning of MiroThinker v1.0 8B (Qwen3-8B) at 256K tokens.

    python -m mirothinker_jax.plan --config configs/mirothinker_v1_8b/sft.py --topology v5p:4x4x4
    python -m mirothinker_jax.train --config configs/mirothinker_v1_8b/sft.py:runs/START --config.data.path=my.jsonl

runs/START is a run that mirothinker_jax.convert made, or one that trained; without it the sizes are the preset's, for
planning. Settings: mirothinker_jax/recipes.py; what fits where: docs/notes/plans.md. Not run by the authors.
"""

from mirothinker_jax import recipes


def get_config(model: str = "qwen3-8b"):
    c = recipes.sft(model, native_tokens=32_768, context=16, microbatch_size=4)
    c.run_dir = "runs/mirothinker-8b-sft"
    return c
