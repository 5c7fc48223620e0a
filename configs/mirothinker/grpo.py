"""MiroThinker v1.0's GRPO at 256K tokens with real tool calls: 8B, 30B or 72B.

    mirothinker-plan --config mirothinker/grpo:8b --topology v5p:4x4x4
    mirothinker-train --config mirothinker/grpo:8b,runs/mirothinker-8b-dpo

What follows the colon is a size and, behind a comma, a run to start from: see sft.py. Strictly on-policy: a step has
64 questions × 8 episodes, each used once. Each host samples on its four chips, which share the weights
(`rollout.tensor`).

Hardware and time, by the TPU compiler (docs/notes/plans.md): on 64 v5p chips the training step is estimated at 1,765 s
for 8B and 2,125 s for 30B where every episode fills its row, without the sampling. Result: not run at this size by the
authors.
"""

from mirothinker_jax import recipes


def get_config(size: str = ""):
    c = recipes.start("grpo", size)
    t = c.grpo.training
    # A row holds at least one episode.
    t.steps, t.batch_size, t.sequence_length = 200, 512, recipes.CONTEXT_TOKENS
    t.optimizer.learning_rate, t.optimizer.schedule = 1e-6, "constant"
    c.grpo.questions, c.grpo.group = 64, 8
    return c
