"""Whether a figure may stand beside published ones, and why not.

Published figures of MiroThinker were made with its own scaffold, the run's date in the prompt, a leak guard, a judge
that sees the box alone, six attempts at a question, a pinned judge, and the mean over several runs in which a missing
box counts as wrong. Box-only judging and the denominator cannot be set here, so they always hold.

Not seen: the search service, the reader and the extractor, which change figures as much and are everybody's own.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from mirothinker_jax.config import PRESETS, SAMPLING, Config, TasksConfig
from mirothinker_jax.evals.catalogue import BENCHMARKS, OWN

_RELEASES = ("v1.0", "v1.5", "v1.7")


def differences(
    name: str,
    config: Config,
    *,
    runs: int,
    remarks: Sequence[str],
    prompt: str,
    day: datetime.date,
) -> list[str]:
    """What sets an evaluation of the benchmark `name` apart from published ones, a line each.

    Args:
      remarks: of benchmarks.Questions.
      prompt: all that the policy is told before the question.
      day: on which the run began.
    """
    benchmark = BENCHMARKS[name]
    if name == OWN:
        return ["nobody has published figures of your own questions"]
    found = list(remarks)
    if not benchmark.scored:
        found.append("predictions are scored when their time has come, by whoever asked for them")
    found += _scaffold(config)
    if not _says_day(prompt, day):
        found.append(f"the prompt does not say the date ({day.isoformat()})")
    missing = [word for word in benchmark.refuse if word not in config.tools.refuse]
    if missing:
        found.append(f"the leak guard does not refuse {', '.join(missing)} (tools.refuse)")
    if benchmark.reading:
        found += _judge(name, config.tasks)
    if runs < benchmark.runs:
        found.append(f"{runs} runs, and papers made {benchmark.runs}")
    return found


def line(reasons: Sequence[str]) -> str:
    """For people.

    >>> line([]), line(["3 runs, and papers made 8"])
    ('comparable with published: yes', 'comparable with published: no, because 3 runs, and papers made 8')
    """
    return f"comparable with published: {'no, because ' + '; '.join(reasons) if reasons else 'yes'}"


def _scaffold(config: Config) -> list[str]:
    agent = config.agent
    if agent.preset not in _RELEASES:
        return [f"agent.preset is {agent.preset!r}, and not one of {', '.join(_RELEASES)}"]
    published = (("agent", agent, PRESETS), ("evaluation", config.evaluation, SAMPLING))
    return [
        f"{group}.{key} is {getattr(settings, key)}, and {agent.preset} has {value}"
        for group, settings, presets in published
        for key, value in presets[agent.preset].items()
        if getattr(settings, key) != value
    ]


def _judge(name: str, tasks: TasksConfig) -> list[str]:
    benchmark = BENCHMARKS[name]
    if tasks.grader != "judge":
        return [f"tasks.grader is {tasks.grader!r}, and papers have {benchmark.judge or 'a judge'}"]
    found = []
    # A service may say the publisher, too: openai/gpt-4.1.
    if benchmark.judge and tasks.judge_model.rpartition("/")[2] != benchmark.judge:
        found.append(f"the judge is {tasks.judge_model}, and papers have {benchmark.judge}")
    if tasks.judge_reading != benchmark.reading:
        found.append(f"tasks.judge_reading is {tasks.judge_reading!r}, and papers have {benchmark.reading!r}")
    if not tasks.judge_prompt_file:
        found.append("the judge's words are our own (tasks.judge_prompt_file takes the published ones)")
    return found


def _says_day(prompt: str, day: datetime.date) -> bool:
    months = day.strftime("%B"), day.strftime("%b")
    numbers = f"{day.year}-{day.month:02}-{day.day:02}", f"{day.year}/{day.month:02}/{day.day:02}"
    chinese = f"{day.year}年{day.month}月{day.day}日"
    words = [f"{month} {day.day}, {day.year}" for month in months]
    words += [f"{day.day} {month} {day.year}" for month in months]
    return any(form in prompt for form in (*numbers, chinese, *words))
