"""What interaction does for a small policy: a recipe for long ways, and then the study of what it learned.

    mirothinker-study --config toy/study --config.run_dir=runs/study
    mirothinker-study --config toy/study --from runs/toy          # asks the policy of a run that is there

pipeline.py's recipe with deeper questions: of up to 16 hops, whose relations all differ (world.lines), where experts
show ten. Half an hour on two cores, training and study.
"""

import runpy
from pathlib import Path


def get_config():
    c = runpy.run_path(str(Path(__file__).with_name("pipeline.py")))["get_config"]()
    c.run_dir = "runs/study"

    c.world.lines = 64
    c.world.max_hops = 16

    c.agent.max_calls = 24
    c.agent.turn_tokens = 48
    c.agent.context_tokens = 1024

    c.sft.expert_episodes = 3000
    c.sft.expert_calls = 12
    t = c.sft.training
    t.steps, t.sequence_length = 1200, 768
    # To copy a route is learned between 600 and 900 steps: not where the rate falls before, nor at 8e-3.
    t.optimizer.learning_rate, t.optimizer.schedule = 5e-3, "constant"
    t.optimizer.warmup_fraction = 0.1

    c.dpo.questions = 256
    c.dpo.training.sequence_length = 2048

    c.grpo.questions, c.grpo.group = 16, 8
    t = c.grpo.training
    t.steps, t.batch_size, t.sequence_length = 32, 64, 1024

    c.evaluation.questions, c.evaluation.budgets = 170, (2, 4, 8, 12, 16, 24)
    c.study.questions = 102  # six of each depth
    c.study.budgets = (1, 2, 4, 6, 8, 12, 16, 24)
    # On walks of 32 and 64 links no step from the 21st on was right, with feedback or without.
    c.study.depths = (2, 4, 8, 16, 22, 24)
    return c
