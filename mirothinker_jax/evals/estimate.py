"""What judging an evaluation would cost, before anything is asked.

An upper bound as far as calls go: every answer counts as one that differs from its reference and is asked for once.
Tokens are estimates from the length of texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.evals.attacks import ANSWERS
from mirothinker_jax.evals.benchmarks import open_reference
from mirothinker_jax.tasks.judge_meter import about_tokens, cost
from mirothinker_jax.tasks.judge_prompt import read_prompt, rendered
from mirothinker_jax.tasks.judge_readings import READINGS
from mirothinker_jax.tasks.types import Task

_REPLY_TOKENS = {"choice": 2, "choice_zh": 2, "grades": 2, "parts": 150, "fields": 100}
_OTHER_REPLY_TOKENS = 50  # a sentence and a verdict


@dataclass(frozen=True)
class Estimate:
    """Requests to the judge, tokens that it reads and writes, and their price."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float

    def line(self) -> str:
        """For people.

        >>> Estimate(320, 128000, 640, 0.26).line()
        'judging takes at most 320 calls, about 128,000 tokens read and 640 written; at the prices given, 0.26'
        """
        price = f"; at the prices given, {self.cost:.2f}" if self.cost else ""
        return (
            f"judging takes at most {self.calls:,} calls, about {self.input_tokens:,} tokens read and "
            f"{self.output_tokens:,} written{price}"
        )


def estimate(tasks: Sequence[Task], runs: int, settings: TasksConfig) -> Estimate:
    """For `runs` answers to each question and the attacks (attacks.py); nothing where no judge grades."""
    if settings.grader != "judge" or not tasks:
        return Estimate(0, 0, 0, 0.0)
    reading = READINGS[settings.judge_reading]
    prompt = read_prompt(settings.judge_prompt_file, reading)
    opened = [open_reference(task) for task in tasks]
    # An answer is about as long as its reference.
    tokens = [about_tokens(rendered(prompt, task, task.answer)) for task in opened]
    calls = runs * len(tasks) + len(ANSWERS)
    read = runs * sum(tokens) + len(ANSWERS) * sum(tokens) // len(tokens)
    written = calls * _REPLY_TOKENS.get(settings.judge_reading, _OTHER_REPLY_TOKENS)
    return Estimate(calls, read, written, cost(settings, read, written))
