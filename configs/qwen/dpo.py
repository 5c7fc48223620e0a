"""DPO of a Qwen model of 0.5B to 4B on one GPU, on pairs that it samples itself with tools on the embedded web.

    mirothinker-convert --from hf --path models/Qwen3-1.7B --out runs/qwen3-1.7b
    mirothinker-train --config qwen/dpo:runs/qwen3-1.7b

What follows the colon is a converted run or one that trained, of qwen/sft or qwen/lora too; with a preset's name
`mirothinker-plan --config qwen/dpo:qwen3-4b --topology h100:1` says what fits. Eight episodes for each of 200
questions make the pairs, right against wrong: a model that is always right, or never, makes none, and the run says so.

Hardware: one GPU. By the rule of thumb of `plan` 65 GiB for 4B, 29 for 1.7B, 9 for 0.5B: parameters in bfloat16 with
stochastic rounding, AdamW's averages in float32 (on small models --config.model.param_dtype=float32 costs as much).
Time and result: not run at these sizes by the authors.
"""

from mirothinker_jax.config import default
from mirothinker_jax.models.presets import use


def get_config(model: str):
    c = default()
    c.run_dir = "runs/qwen-dpo"
    c.stages = ("dpo",)
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

    c.dpo.questions, c.dpo.samples = 200, 8
    t = c.dpo.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 24, 8, 1, 2 * 8192
    t.checkpoint_every, t.log_every = 8, 1
    t.optimizer.learning_rate = 1e-6
    t.optimizer.weight_decay = 0.0
    return c
