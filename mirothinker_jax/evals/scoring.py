"""Who grades a benchmark: what equals the reference, else a rule or a judge, as the catalogue says.

Of an encoded benchmark, the reference is decoded here and nowhere else, for as long as a verdict takes, and a verdict's
reason, which may repeat it, is left out. Predictions about what nobody knows yet get a verdict too, since an episode
without one is asked again; it says that there is no reference, and no accuracy is made of it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.config_tree import check
from mirothinker_jax.evals.benchmarks import open_reference
from mirothinker_jax.evals.catalogue import BENCHMARKS, OWN
from mirothinker_jax.tasks.graders import open_grader
from mirothinker_jax.tasks.judge import Judge
from mirothinker_jax.tasks.types import Attempt, Grader, Task, Verdict

NO_REFERENCE = "a prediction: there is no reference"
_TOLD_CHARS = 80  # of what a judge's failure says, where the reference must stay unsaid


def grading(name: str, settings: TasksConfig) -> TasksConfig:
    """The settings that the benchmark `name` is graded by: its own rule, or the judge of `settings` read in the
    benchmark's way. A rule or a function of one's own, set in place of the judge, is kept.

    Raises ConfigError for a benchmark that is judged, where no judge is named.
    """
    benchmark = BENCHMARKS[name]
    if name == OWN or not benchmark.scored:
        return settings
    if benchmark.rule:
        judge = ("judge_url", "judge_model", "judge_prompt_file", "judge_cache_file", "judge_reading")
        absent = {field.name: field.default for field in dataclasses.fields(TasksConfig)}
        changes = {key: absent[key] for key in judge} | {"grader": benchmark.rule}
    elif settings.grader == "judge":
        # A template of one's own is read as one says.
        changes = {} if settings.judge_prompt_file else {"judge_reading": benchmark.reading}
    else:
        other = f", or tasks.grader={benchmark.string_rule}" if benchmark.string_rule else ""
        check(
            settings.grader != "text",
            f"{name} is graded by a judge: set tasks.grader=judge, tasks.judge_url and tasks.judge_model{other}",
        )
        changes = {}
    return dataclasses.replace(settings, **changes)


@dataclass(frozen=True)
class Scorer:
    """Who grades, and the judge behind it where there is one (for its meter, and for what else it is asked)."""

    grader: Grader
    judge: Judge | None = None


def open_scorer(name: str, settings: TasksConfig) -> Scorer:
    """Who grades the benchmark `name`, with the settings that `grading` gave.

    Raises ConfigError as `tasks.graders.open_grader`.
    """
    if not BENCHMARKS[name].scored:
        return Scorer(_predicted)
    grader = open_grader(settings)
    return Scorer(graded_in_memory(grader), grader if isinstance(grader, Judge) else None)


def graded_in_memory(grader: Grader) -> Grader:
    """`grader`, which is given references of encoded tasks in clear, and whose verdicts do not tell them."""

    async def grade(task: Task, attempt: Attempt) -> Verdict:
        opened = open_reference(task)
        verdict = await grader(opened, attempt)
        if opened is task:
            return verdict
        reason = verdict.reason[:_TOLD_CHARS] if verdict.reason.startswith("the judge: ") else ""
        return dataclasses.replace(verdict, reason=reason)

    return grade


async def _predicted(task: Task, attempt: Attempt) -> Verdict:
    return Verdict(False, NO_REFERENCE)
