"""DPO of MiroThinker v1.0 72B (Qwen2.5-72B-Instruct) at 256K tokens: pairs are sampled from the start.

    python -m mirothinker_jax.plan --config configs/mirothinker_v1_72b/dpo.py --topology v5p:4x4x4
    python -m mirothinker_jax.train --config configs/mirothinker_v1_72b/dpo.py:runs/START

runs/START is a run that mirothinker_jax.convert made, or one that trained; without it the sizes are the preset's, for
planning. Settings: mirothinker_jax/recipes.py; what fits where: docs/notes/plans.md. Not run by the authors.
"""

from mirothinker_jax import recipes


def get_config(model: str = "qwen2.5-72b"):
    c = recipes.dpo(model, native_tokens=32_768, context=32, microbatch_size=2)
    c.run_dir = "runs/mirothinker-72b-dpo"
    return c
