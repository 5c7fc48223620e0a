"""GRPO of a Qwen model of 0.5B to 4B on one GPU, with tools on the embedded web.

    mirothinker-convert --from hf --path models/Qwen3-1.7B --out runs/qwen3-1.7b
    mirothinker-train --config qwen/grpo:runs/qwen3-1.7b

What follows the colon is a converted run or one that trained, such as runs/qwen-dpo; with a preset's name
`mirothinker-plan --config qwen/grpo:qwen3-4b --topology h100:1` says what fits. A step samples 8 episodes for each of
16 questions and trains on them once. A group with equal rewards teaches nothing, so start from a model that answers
some questions right: a Qwen that can call tools (calls are written in its own format), or one after qwen/sft or
qwen/lora on episodes, if it answers none.

Hardware: one GPU. By the rule of thumb of `plan` 63 GiB for 4B, 27 for 1.7B, 8 for 0.5B: parameters in bfloat16 with
stochastic rounding, AdamW's averages in float32. Time and result: not run at these sizes by the authors.
"""

from mirothinker_jax.config import default
from mirothinker_jax.models.presets import use


def get_config(model: str):
    c = default()
    c.run_dir = "runs/qwen-grpo"
    c.stages = ("grpo",)
    c.tokenizer.path = "tokenizer.json"  # of a preset: give your own; a converted run has one
    use(c, model)
    c.model.param_dtype = c.model.compute_dtype = "bfloat16"
    c.model.remat = "full"
    c.data.call_format = "hermes"  # Qwen's own

    c.world.max_hops = 3
    c.tools.names = ("google_search", "scrape_and_extract_info")  # run_python_code needs bubblewrap
    c.tools.output_tokens = 512
    c.agent.max_calls, c.agent.context_tokens, c.agent.turn_tokens = 8, 8192, 512
    c.rollout.slots, c.rollout.prefill_slots, c.rollout.prefill_tokens = 16, 4, 256
    c.evaluation.questions, c.evaluation.budgets = 100, (0, 2, 8)

    c.grpo.questions, c.grpo.group = 16, 8
    t = c.grpo.training
    # As many rows as episodes: what `plan` counts with. A step computes those that its episodes fill.
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 50, 128, 1, 8192
    t.checkpoint_every, t.log_every = 10, 1
    t.optimizer.learning_rate, t.optimizer.schedule = 1e-6, "constant"
    t.optimizer.weight_decay = 0.0
    return c
