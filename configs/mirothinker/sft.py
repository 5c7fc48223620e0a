"""MiroThinker v1.0's supervised fine-tuning at 256K tokens: 8B (Qwen3), 30B (Qwen3-MoE) or 72B (Qwen2.5).

    mirothinker-plan --config mirothinker/sft:8b --topology v5p:4x4x4
    mirothinker-train --config mirothinker/sft:8b,runs/START --config.data.path=my.jsonl

What follows the colon is a size (8b, 30b, 72b; 235b for Qwen3-235B-A22B, which v1.0 does not have) and, behind a
comma, a run that convert made or one that trained: its sizes, weights and tokenizer are used. Without it the sizes are
the published model's, with fresh parameters, for planning.

Hardware and time, by the TPU compiler (docs/notes/plans.md): on 64 v5p chips a step of 20 rows is estimated at 83 s for
30B and 371 s for 72B; 8B needs 16 chips (microbatch_size=1): 277 s. Result: not run at this size by the authors.
"""

from mirothinker_jax import recipes


def get_config(size: str = ""):
    c = recipes.start("sft", size)
    c.data.path = "my.jsonl"  # give your own
    t = c.sft.training
    c.data.shards = t.microbatch_size
    # As many tokens a step as v0.1's 128 rows of 40,960.
    t.steps, t.batch_size, t.sequence_length = 1000, 20, recipes.CONTEXT_TOKENS
    t.optimizer.learning_rate = 4e-5
    return c
