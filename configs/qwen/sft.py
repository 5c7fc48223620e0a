"""Supervised fine-tuning of a whole model of the Qwen family on conversations of your own.

    mirothinker-convert --from hf --path models/Qwen3-8B --out runs/qwen3-8b
    mirothinker-train --config qwen/sft:runs/qwen3-8b --config.data.path=my.jsonl

What follows the colon is a converted run or one that trained (its sizes, weights and tokenizer are used), or a
preset's name for fresh parameters (then with --config.tokenizer.path). The optimizer's numbers are those that
MiroThinker v0.1 published: 128 rows of 40,960 tokens a step, learning rate 4e-5, cosine, 10% warm-up, weight decay
0.1. It took 3 to 4 epochs: --config.sft.training.steps=0 --config.sft.training.epochs=3. Calls are
written in Qwen's own format.

float32 master weights with Adam take 16 bytes a parameter over all devices: 8B fits 4 GPUs of 80 GB, less activations.
For one GPU there is qwen/lora. Nothing is evaluated. Not run at this size by the authors.
"""

from mirothinker_jax.config import default
from mirothinker_jax.models.presets import use


def get_config(model: str):
    c = default()
    c.run_dir = "runs/qwen-sft"
    c.stages = ("sft",)
    c.data.path = "my.jsonl"  # give your own
    c.data.call_format = "hermes"  # Qwen's own
    c.evaluation.questions = 0
    c.tokenizer.path = "tokenizer.json"  # of a preset: give your own; a converted run has one
    use(c, model)
    c.model.compute_dtype = "bfloat16"
    c.model.remat = "full"

    t = c.sft.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 1000, 128, 16, 40960
    t.checkpoint_every, t.log_every = 100, 1
    t.optimizer.learning_rate = 4e-5
    t.optimizer.schedule, t.optimizer.warmup_fraction, t.optimizer.final_fraction = "cosine", 0.1, 0.0
    t.optimizer.weight_decay, t.optimizer.clip_norm = 0.1, 1.0
    return c
