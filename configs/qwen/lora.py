"""Low-rank adapters for a model of the Qwen family, on one GPU, by supervised fine-tuning on your own conversations.

    mirothinker-convert --from hf --path models/Qwen3-4B --out runs/qwen3-4b
    mirothinker-train --config qwen/lora:runs/qwen3-4b --config.data.path=my.jsonl
    mirothinker-convert --to hf --path runs/qwen-lora --out merged

Calls are written in Qwen's own format. The model is frozen, in bfloat16 (2 bytes a parameter: 8B
in 16 GB). Only the adapters have gradients and moments. The last command merges them and writes what transformers,
vLLM and SGLang load. Steps of an 8B with random weights were run on an H100 (docs/notes/kernels.md); these commands
were not run at this size by the authors.
"""

from mirothinker_jax.config import default
from mirothinker_jax.models.presets import use


def get_config(model: str):
    c = default()
    c.run_dir = "runs/qwen-lora"
    c.stages = ("sft",)
    c.data.path = "my.jsonl"  # give your own
    c.data.call_format = "hermes"  # Qwen's own
    c.data.shards = 1  # so that a handful of conversations will do
    c.evaluation.questions = 0
    c.tokenizer.path = "tokenizer.json"  # of a preset: give your own; a converted run has one
    c.model.lora.rank, c.model.lora.alpha = 16, 32.0
    use(c, model)  # a run that trained adapters goes on with its own
    c.model.param_dtype = c.model.compute_dtype = "bfloat16"
    c.model.remat = "full"

    t = c.sft.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 300, 8, 1, 8192
    t.checkpoint_every, t.log_every = 100, 1
    t.optimizer.learning_rate = 2e-4
    t.optimizer.weight_decay = 0.0
    return c
