"""What MiroThinker's stages share at 256K tokens, by the model's size, for the configs of mirothinker/ to start from.

Sources: the v1.0 report (arXiv 2511.11793) for models, stages, context and calls; the v0.1 release for the optimizer,
of which v1.0 says nothing. What neither gives (the learning rate of GRPO, the number of steps) is a start.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mirothinker_jax.config import ConfigError, default
from mirothinker_jax.models.presets import use

CONTEXT_TOKENS = 262_144
CALLS = 600


class Size(NamedTuple):
    """A published model, and by default how its rows are split, and how many whole contexts a host's sampler holds."""

    preset: str
    pretrained_tokens: int  # what YaRN extends, where the model itself does not reach 256K
    context: int  # devices that share a row (mesh.context)
    microbatch_size: int
    sampled: int


SIZES = {
    "8b": Size("qwen3-8b", 32_768, context=16, microbatch_size=4, sampled=8),
    "30b": Size("qwen3-30b-a3b-thinking-2507", 262_144, context=16, microbatch_size=4, sampled=8),
    "72b": Size("qwen2.5-72b", 32_768, context=32, microbatch_size=2, sampled=2),
    # Not of v1.0, which ends at 72B; planned in docs/notes/plans.md.
    "235b": Size("qwen3-235b-a22b-thinking-2507", 262_144, context=16, microbatch_size=4, sampled=1),
}


def start(stage: str, argument: str) -> Any:
    """The settings that a stage shares with the others; the caller sets the rest of its training.

    Args:
      argument: SIZE, for fresh parameters of the published model, or SIZE,RUN: the parameters, sizes and tokenizer of
        a run that convert made, or of one that trained.

    Raises:
      ConfigError: another size, or RUN is no run.
    """
    name, comma, run = argument.partition(",")
    name = name.lower()
    if name not in SIZES or (comma and not run):
        raise ConfigError(
            f"mirothinker/{stage} takes SIZE or SIZE,RUN behind its name, not {argument!r}; SIZE is one of "
            f"{', '.join(SIZES)}, as in --config mirothinker/{stage}:8b,runs/START"
        )
    size = SIZES[name]
    c = default()
    c.run_dir = f"runs/mirothinker-{name}-{stage}"
    c.stages = (stage,)
    c.evaluation.questions = 0
    c.tokenizer.path = "tokenizer.json"  # of a preset: give your own; a run has one
    use(c, run or size.preset)
    if c.model.yarn.factor * c.model.yarn.native_tokens < CONTEXT_TOKENS:
        c.model.yarn.factor = CONTEXT_TOKENS / size.pretrained_tokens
        c.model.yarn.native_tokens = size.pretrained_tokens
    c.model.compute_dtype, c.model.remat = "bfloat16", "offload"
    c.mesh.context = size.context
    c.agent.max_calls, c.agent.context_tokens, c.agent.turn_tokens = CALLS, CONTEXT_TOKENS, 16_384
    c.tools.output_tokens, c.tools.scrape_lines = 4096, 40
    # Of a host of four v5p chips, which share the weights. Few contexts are full at a time.
    r = c.rollout
    r.tensor, r.slots = 4, 2 * size.sampled
    r.page_tokens, r.pages = 128, size.sampled * CONTEXT_TOKENS // 128
    r.prefill_tokens, r.prefill_slots = 512, 8

    t = c[stage].training
    t.microbatch_size = size.microbatch_size
    t.checkpoint_every, t.log_every = 20, 1
    t.optimizer.weight_decay, t.optimizer.clip_norm = 0.1, 1.0
    t.optimizer.schedule, t.optimizer.warmup_fraction, t.optimizer.final_fraction = "cosine", 0.1, 0.0
    return c
