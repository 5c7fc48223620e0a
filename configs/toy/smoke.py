"""The pipeline of pipeline.py, shrunk until it ends in about a minute: for tests, and for a first look.

    mirothinker-train --config toy/smoke --config.run_dir=runs/smoke

Every part is real (web, tools, tokenizer, three stages, evaluation, report), but there is nothing to admire: no
question needs a link to be followed, and the SFT model knows by heart the few pages that it trained on. So it
answers some training questions right and some wrong, which is what preference pairs need. The accuracy on the
eight held-out questions means nothing. Most of the minute goes into compiling: hence the short rows.
"""

import runpy
from pathlib import Path


def get_config():
    c = runpy.run_path(str(Path(__file__).with_name("pipeline.py")))["get_config"]()
    c.run_dir = "runs/smoke"

    c.world.max_entities = 16  # about ten to train on, and four held out
    c.world.attributes = ("city", "elevation")
    c.world.max_hops = 0
    c.world.slow_call = 0.0
    c.tokenizer.vocab_size = 400
    c.agent.max_calls = 4
    c.agent.turn_tokens, c.tools.output_tokens = 32, 32
    c.agent.context_tokens = 256

    c.model.hidden, c.model.ffn = 32, 96
    c.model.layers, c.model.heads, c.model.head_dim = 2, 2, 16
    c.rollout.slots, c.rollout.prefill_slots = 32, 8

    c.sft.expert_episodes, c.sft.expert_calls = 18, 4
    t = c.sft.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 160, 8, 8, 256
    t.checkpoint_every, t.log_every = 40, 10
    t.optimizer.learning_rate = 1e-2

    c.dpo.questions, c.dpo.samples = 8, 6
    t = c.dpo.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = 4, 4, 4, 512
    t.checkpoint_every, t.log_every = 2, 1

    c.grpo.questions, c.grpo.group, c.grpo.question_pool = 4, 4, 8
    t = c.grpo.training
    t.steps, t.batch_size, t.microbatch_size, t.sequence_length = (
        4,
        16,
        4,
        256,
    )  # room for every episode: one shape
    t.checkpoint_every, t.log_every = 2, 1

    c.evaluation.questions, c.evaluation.budgets = 8, (0, 2, 4)
    c.evaluation.top_p = 1.0  # as in training: half as many functions to compile
    return c
