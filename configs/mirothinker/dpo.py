"""MiroThinker v1.0's DPO at 256K tokens: 8B, 30B or 72B. Pairs are sampled from the model that the run starts from.

    mirothinker-plan --config mirothinker/dpo:8b --topology v5p:4x4x4
    mirothinker-train --config mirothinker/dpo:8b,runs/mirothinker-8b-sft

What follows the colon is a size and, behind a comma, a run to start from: see sft.py. A row holds one pair, chosen and
rejected as branches over their prompt. Each host samples on its four chips, which share the weights (`rollout.tensor`).

Hardware and time, by the TPU compiler (docs/notes/plans.md): on 64 v5p chips a step of 32 pairs is estimated at 384 s
for 8B and 475 s for 30B, without the sampling. Result: not run at this size by the authors.
"""

from mirothinker_jax import recipes


def get_config(size: str = ""):
    c = recipes.start("dpo", size)
    t = c.dpo.training
    t.steps, t.batch_size, t.sequence_length = 300, 32, 2 * recipes.CONTEXT_TOKENS
    t.optimizer.learning_rate = 1e-5
    c.dpo.beta, c.dpo.sft_coef, c.dpo.pairs_per_row = 0.1, 0.1, 1
    return c
