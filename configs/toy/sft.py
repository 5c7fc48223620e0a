"""Supervised fine-tuning of a small model on a file of your own, on a CPU.

    mirothinker-train --config toy/sft --config.data.path=my.jsonl

Each line of the file is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]};
docs/data.md has the other formats. The tokenizer is trained on the file itself. A conversation must fit a row
(sft.training.sequence_length). Nothing is evaluated: the figures are in metrics.jsonl and TensorBoard.
"""

from mirothinker_jax.config import default


def get_config():
    c = default()
    c.run_dir = "runs/sft"
    c.stages = ("sft",)
    c.data.path = "my.jsonl"  # give your own
    c.data.call_format = "hermes"  # Qwen's own, which takes any tool
    c.data.shards = 1  # so that a handful of conversations will do
    c.evaluation.questions = 0

    c.tokenizer.vocab_size = 2048
    c.model.hidden, c.model.ffn = 128, 384
    c.model.layers, c.model.heads, c.model.kv_heads, c.model.head_dim = 4, 4, 2, 32
    c.model.rope_theta = 1e4
    c.model.remat = "none"

    t = c.sft.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 300, 8, 8, 512
    t.checkpoint_every, t.log_every = 100, 10
    t.optimizer.learning_rate = 2e-3
    return c
