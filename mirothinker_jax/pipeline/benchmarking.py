"""What an evaluation does beside asking, where its questions are a benchmark's: who grades, what is refused, what the
figures are worth, and whether they may stand beside published ones."""

from __future__ import annotations

import dataclasses
import datetime
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.config import Config, ConfigError
from mirothinker_jax.config_tree import check, one_of
from mirothinker_jax.evals.agreement import Agreement, agreement, read_people
from mirothinker_jax.evals.attacks import Attacked, attack
from mirothinker_jax.evals.benchmark_environment import BenchmarkEnvironment
from mirothinker_jax.evals.benchmarks import open_reference
from mirothinker_jax.evals.catalogue import BENCHMARKS
from mirothinker_jax.evals.comparable import differences, line
from mirothinker_jax.evals.estimate import estimate
from mirothinker_jax.evals.figures import figures, predictions
from mirothinker_jax.evals.rejudge import refuse_unjudged
from mirothinker_jax.evals.rejudge import verdicts as verdicts_of
from mirothinker_jax.evals.scoring import grading, open_scorer
from mirothinker_jax.tasks.judge_meter import Meter
from mirothinker_jax.tasks.judge_prompt import is_bait
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.trajectory.types import Stop, Trajectory


def with_benchmark(config: Config, name: str) -> Config:
    """The config, graded as the benchmark is, with its names refused. Raises ConfigError where it is unknown, has no
    file or no judge."""
    one_of("--benchmark", name, tuple(BENCHMARKS))
    check(
        bool(config.tasks.heldout),
        f"--benchmark is {name}; give its file with --tasks FILE, as it was published",
    )
    words = (*config.tools.refuse, *(w for w in BENCHMARKS[name].refuse if w not in config.tools.refuse))
    tools = dataclasses.replace(config.tools, refuse=words)
    return dataclasses.replace(config, tools=tools, tasks=grading(name, config.tasks))


def open_benchmark(
    config: Config, name: str, tools: Callable[[], Sequence[Tool]] = tuple
) -> BenchmarkEnvironment:
    """The benchmark in the file config.tasks.heldout. Raises ConfigError or DataError."""
    return BenchmarkEnvironment(name, config.tasks.heldout, config.tasks, tools)


def cost_line(config: Config, name: str, limit: int, runs: int) -> str:
    """What judging would take, before anything is run; `limit` of the questions, 0 for all."""
    tasks = open_benchmark(config, name).tasks("heldout", limit or sys.maxsize, config.seed)
    return f"{len(tasks)} questions × {runs}; {estimate(tasks, runs, config.tasks).line()}"


@dataclass(frozen=True)
class Assessed:
    """The figures, for summary.json and for people, and the verdicts that they rest on."""

    figures: dict[str, Any]
    rows: str
    verdicts: tuple[Verdict, ...]

    def refuse_unjudged(self) -> None:
        """Raises OutageError where more than 1% of the answers could not be judged."""
        refuse_unjudged(self.verdicts)


async def assess(
    environment: BenchmarkEnvironment,
    name: str,
    config: Config,
    runs: Sequence[Sequence[Trajectory]],
    *,
    tasks: Sequence[Task],
    prompt: str,
    began: datetime.datetime,
    second_judge: str = "",
    people: str = "",
) -> Assessed:
    """The figures of the episodes of each run of `tasks`; the judge, where there is one, is put to the test.

    Args:
      prompt: all that the policy is told before the question.
      second_judge: another model of the judge's endpoint, which judges beside it; "" for none.
      people: a table of people's verdicts; "" for none.

    Raises ConfigError or DataError for a table that cannot be used.
    """
    found = figures(name, runs)
    remarks = list(environment.questions.remarks)
    asked, there = len(tasks), len(environment.questions.tasks)
    if asked < there:
        remarks.append(f"{asked:,} of {there:,} questions were asked")
    reasons = differences(
        name,
        config,
        runs=len(runs),
        remarks=remarks,
        prompt=prompt,
        day=began.date(),
    )
    found["comparable"] = {"published": not reasons, "because": reasons}
    attacked, judge = None, environment.scorer.judge
    if judge is not None:
        attacked = await attack(judge, tasks)
        found["attacks"] = dataclasses.asdict(attacked)
        meter = dataclasses.asdict(judge.meter)
        del meter["settings"]
        found["judge"] = meter | {"cost": judge.meter.cost}
    if not BENCHMARKS[name].scored:
        found["predictions"] = predictions(runs)
    agreements: dict[str, Agreement] = {}
    if second_judge:
        agreements[second_judge] = await _beside(environment, name, second_judge, runs, tasks)
    if people:
        said = {t.id: t.correct for run in runs for t in run}
        try:
            agreements["people"] = agreement(said, read_people(people))
        except ValueError as error:
            raise ConfigError(f"--people {people}: {error}") from None
    if agreements:
        found["agreement"] = {
            who: dataclasses.asdict(a) | {"kappa": a.kappa} for who, a in agreements.items()
        }
    verdicts = tuple(
        Verdict(t.correct, t.reason, t.terms)
        for run in runs
        for t in run
        if t.stop is not Stop.INFRASTRUCTURE and BENCHMARKS[name].scored
    )
    rows = _rows(found, attacked, judge and judge.meter)
    rows += "".join(f"the judge and {who}: {a.line()}\n" for who, a in agreements.items())
    return Assessed(found, f"{rows}{line(reasons)}\n", verdicts)


async def _beside(
    environment: BenchmarkEnvironment,
    name: str,
    model: str,
    runs: Sequence[Sequence[Trajectory]],
    tasks: Sequence[Task],
) -> Agreement:
    """The judge's agreement with another model on what either was really asked: not on what is right or wrong as it
    stands, on which any two judges agree."""
    second = open_scorer(name, dataclasses.replace(environment.settings, judge_model=model))
    by_id = {task.id: task for task in tasks}
    asked = {
        t.id: t
        for run in runs
        for t in run
        if t.answer is not None
        and not is_bait(t.answer)
        and not is_correct(open_reference(by_id[t.question_id]).answer, t.answer)
    }
    said = await verdicts_of(asked.values(), by_id, second.grader)
    try:
        return agreement({e: t.correct for e, t in asked.items()}, {e: v.correct for e, v in said.items()})
    except ValueError:
        raise ConfigError(
            f"--second-judge {model}: there is no answer that it and the first judge were both asked about"
        ) from None


_SHOWN = {
    "string_accuracy": "by the string scorer",
    "accuracy_without_restarts": "without restarts",
    "std_over_runs": "std over runs",
    "standard_error": "standard error",
    "calibration_error": "calibration",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "attempted": "attempted",
}


def _rows(found: dict[str, Any], attacked: Attacked | None, meter: Meter | None) -> str:
    lines = [f"{what}: {found[key]:.3f}" for key, what in _SHOWN.items() if found.get(key) is not None]
    for key, what in (("pass_at", "pass@"), ("majority_at", "maj@")):
        lines += [f"{what}{k}: {value:.3f}" for k, value in found.get(key, {}).items() if value is not None]
    said = ["; ".join(lines)] if lines else []
    if attacked is not None and attacked.judged:
        said.append(attacked.line())
    if meter is not None:
        price = f", {meter.cost:.2f} at the prices given" if meter.cost else ""
        said.append(
            f"the judge: {meter.calls:,} calls of this start, {meter.remembered:,} verdicts remembered{price}"
        )
    return "".join(f"{text}\n" for text in said)
