"""MiroThinker's stages as published, at 256K tokens, for config files to start from.

Sources: the v1.0 report (arXiv 2511.11793) for the stages, the context and the calls; the v0.1 release for optimizer
settings, which v1.0 does not give. What neither gives (the learning rate of GRPO, the number of steps) is a start.
"""

from __future__ import annotations

from typing import Any

from mirothinker_jax.config import default
from mirothinker_jax.models.presets import use

CONTEXT_TOKENS = 262_144
CALLS = 600


def _base(model: str, native_tokens: int, context: int) -> Any:
    """What the stages share. Rows are split over `context` devices, and one at a time goes to each group of them."""
    c = default()
    c.evaluation.questions = 0
    c.tokenizer.path = "tokenizer.json"  # of a preset: give your own; a converted run has one
    use(c, model)
    if native_tokens < CONTEXT_TOKENS:
        c.model.yarn.factor, c.model.yarn.native_tokens = CONTEXT_TOKENS / native_tokens, native_tokens
    c.model.compute_dtype, c.model.remat = "bfloat16", "offload"
    c.mesh.context = context
    c.agent.max_calls, c.agent.context_tokens, c.agent.turn_tokens = CALLS, CONTEXT_TOKENS, 16_384
    c.tools.output_tokens, c.tools.scrape_lines = 4096, 40
    c.rollout.slots = 4  # a cache of 256K tokens each
    return c


def _train(t: Any, rows: int, microbatch_size: int, sequence_length: int, learning_rate: float) -> None:
    t.batch_size, t.microbatch_size, t.sequence_length = rows, microbatch_size, sequence_length
    t.checkpoint_every, t.log_every = 20, 1
    t.optimizer.learning_rate, t.optimizer.weight_decay, t.optimizer.clip_norm = learning_rate, 0.1, 1.0
    t.optimizer.schedule, t.optimizer.warmup_fraction, t.optimizer.final_fraction = "cosine", 0.1, 0.0


def sft(model: str, native_tokens: int, context: int, microbatch_size: int) -> Any:
    """20 rows of 256K, as many tokens a step as v0.1's 128 rows of 40,960."""
    c = _base(model, native_tokens, context)
    c.stages, c.data.path = ("sft",), "my.jsonl"
    _train(c.sft.training, -(-20 // microbatch_size) * microbatch_size, microbatch_size, CONTEXT_TOKENS, 4e-5)
    c.sft.training.steps = 1000
    c.data.shards = microbatch_size
    return c


def dpo(model: str, native_tokens: int, context: int, microbatch_size: int) -> Any:
    """32 pairs a step: chosen and rejected are branches over their prompt, in a row of two episodes' length.

    Sampling the pairs takes the whole model on each device (`plan` says how much), which 72B does not find on a chip.
    """
    c = _base(model, native_tokens, context)
    c.stages = ("dpo",)
    _train(c.dpo.training, 32, microbatch_size, 2 * CONTEXT_TOKENS, 1e-5)
    c.dpo.training.steps = 300
    c.dpo.beta, c.dpo.sft_coef, c.dpo.pairs_per_row = 0.1, 0.1, 1
    return c


def grpo(model: str, native_tokens: int, context: int, microbatch_size: int) -> Any:
    """Strictly on-policy: 64 questions × 8 episodes a step, each used once; a row holds at least one of them.

    As for DPO, episodes are sampled by whole models.
    """
    c = _base(model, native_tokens, context)
    c.stages = ("grpo",)
    _train(c.grpo.training, 512, microbatch_size, CONTEXT_TOKENS, 1e-6)
    c.grpo.training.steps, c.grpo.training.optimizer.schedule = 200, "constant"
    c.grpo.questions, c.grpo.group = 64, 8
    return c
