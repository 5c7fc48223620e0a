"""A policy on questions, several times each: from what was asked for to figures and exports. No jax here.

Everything goes to one folder, as it happens: manifest.json says what was asked, episodes.jsonl is the journal, and
answers.jsonl, summary.json and report.html are read off it at the end. The same command goes on with what was stopped
or broken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.agent.chat_engine import ChatEngine
from mirothinker_jax.agent.policy import evaluation_sampling
from mirothinker_jax.agent.prompt import with_date
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import check
from mirothinker_jax.data.atomic import write_json
from mirothinker_jax.evals.answers import write_answers
from mirothinker_jax.evals.benchmark_environment import BenchmarkEnvironment
from mirothinker_jax.evals.benchmarks import exportable
from mirothinker_jax.evals.manifest import (
    check_manifest,
    check_policy,
    make_manifest,
    read_manifest,
    write_manifest,
)
from mirothinker_jax.evals.measure import Measured, measure, question_specs
from mirothinker_jax.evals.rejudge import rejudge
from mirothinker_jax.pipeline.asking import open_tools
from mirothinker_jax.pipeline.benchmarking import assess, open_benchmark
from mirothinker_jax.pipeline.evaluation import Evaluation
from mirothinker_jax.pipeline.evaluation_exports import export_log, export_training_data
from mirothinker_jax.pipeline.inputs import open_tasks
from mirothinker_jax.pipeline.policies import Policy, open_policy, policy_setting
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.tasks.types import Environment, Task
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.trainer.metrics import progress
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.trajectory.types import Trajectory


@dataclass(frozen=True)
class Outcome:
    """The figures, and what else there is to say, a line each."""

    measured: Measured
    notes: tuple[str, ...]
    rows: str = ""  # of a benchmark, for people


async def evaluate(asked: Evaluation) -> Outcome:
    """Runs what is missing, and writes all files.

    Raises:
      ConfigError, DataError: one line, for whatever the user can mend.
      OutageError: services broke more than tasks.broken_share of the episodes; what is done is kept.
      OSError: the folder, or a file to export to, cannot be written.
    """
    before = read_manifest(asked.folder) or {"settings": {}}
    config = with_date(asked.config, before["settings"].get("agent.date", ""))
    asked = dataclasses.replace(asked, config=config)
    async with contextlib.AsyncExitStack() as stack:
        environment = _open_environment(asked, stack)
        tasks = _draw(environment, asked)
        if asked.sft or asked.pairs or asked.view:
            exportable([task.metadata for task in tasks], asked.allow_encoded)
        tools = list(environment.tools())
        servers = {tool.spec.name: tool.spec.server for tool in tools}
        policy = open_policy(asked.policy, config, asked.chat, servers)
        specs = question_specs(tasks, asked.runs, config.seed)
        setting = policy_setting(policy, [tool.spec for tool in tools], config)
        manifest = _manifest(asked, tasks, setting)
        executor = await stack.enter_async_context(ToolExecutor(tools, policy.tools, policy.codec.truncate))
        runtime = Runtime(
            executor=executor,
            chat=policy.chat,
            decode=policy.codec.decode,
            setting=setting,
            grader=environment.grader,
            concurrency=asked.concurrency,
            tries=config.tasks.tries,
            broken_share=config.tasks.broken_share,
        )
        if asked.rejudge:
            await rejudge(asked.folder / "episodes.jsonl", {t.id: t for t in tasks}, environment.grader)
        trajectories, notes = await _collect(asked, specs, policy, runtime, manifest)
    began = datetime.datetime.fromisoformat(manifest["began"])
    runs = [trajectories[i * len(tasks) : (i + 1) * len(tasks)] for i in range(asked.runs)]
    measured = measure(trajectories, asked.runs, policy.unit)
    write_answers(asked.folder, trajectories)
    assessed, summary = None, measured.to_json()
    figures = {"accuracy": measured.accuracy.mean} if measured.accuracy else {}
    if isinstance(environment, BenchmarkEnvironment):
        assessed = await assess(
            environment,
            asked.benchmark,
            config,
            runs,
            tasks=tasks,
            prompt=setting.system or "",
            began=began,
            second_judge=asked.second_judge,
            people=asked.people,
        )
        figures = summary["benchmark"] = assessed.figures
    write_json(asked.folder / "summary.json", summary)
    # Only now: what makes pages takes time to import.
    from mirothinker_jax.evals.report_evaluation import write_evaluation_report

    write_evaluation_report(asked.folder, decode=policy.codec.decode)
    notes += export_training_data(asked, trajectories, policy, setting)
    notes += export_log(asked, runs, began, figures)
    if assessed:
        assessed.refuse_unjudged()
    return Outcome(measured, tuple(notes), assessed.rows if assessed else "")


def _open_environment(asked: Evaluation, stack: contextlib.AsyncExitStack) -> Environment:
    config = asked.config

    def tools() -> Sequence[Tool]:
        return open_tools(config, stack)

    environment = (
        open_benchmark(config, asked.benchmark, tools) if asked.benchmark else open_tasks(config, tools)
    )
    stack.callback(environment.close)
    return environment


def _draw(environment: Environment, asked: Evaluation) -> list[Task]:
    """The questions; those of a file are all asked, where no limit is given."""
    config = asked.config
    every = sys.maxsize if config.tasks.source == "files" else config.evaluation.questions
    tasks = list(environment.tasks("heldout", asked.limit or every, config.seed))
    check(bool(tasks), "there are no questions; give --tasks FILE, or config.evaluation.questions")
    return tasks


def _manifest(asked: Evaluation, tasks: Sequence[Task], setting: Setting) -> dict[str, Any]:
    words = (
        setting.system,
        setting.functions,
        setting.final_request,
        setting.failure_request,
        setting.restart_prompt,
    )
    chars = asked.chat.chars_per_token if asked.chat.url else None
    manifest = make_manifest(asked.config, tasks, json.dumps(words), asked.runs, chars)
    return check_manifest(asked.folder, manifest, ("tasks.judge_", "tasks.grader") if asked.rejudge else ())


async def _collect(
    asked: Evaluation,
    specs: Sequence[EpisodeSpec],
    policy: Policy,
    runtime: Runtime,
    manifest: dict[str, Any],
) -> tuple[list[Trajectory], list[str]]:
    """The episodes, and what to say of the endpoint. It is not asked where nothing is missing."""
    path = asked.folder / "episodes.jsonl"
    history = History(path)
    judged = {
        spec.id: bool(v.correct)
        for spec in specs
        if (v := history.verdicts.get(spec.id)) and v.correct is not None
    }
    if len(judged) == len(specs):
        found = [history.trajectory(spec.id) for spec in specs]
        if all(found):
            write_manifest(asked.folder, manifest)
            return [t for t in found if t is not None], []
    sampling = evaluation_sampling(asked.config.evaluation)
    async with policy.engine() as (engine, identity, _):
        check_policy(asked.folder, manifest["policy"], identity)
        write_manifest(asked.folder, manifest | {"policy": dict(identity)})
        with (
            Journal(path) as journal,
            progress(len(specs), len(judged), "evaluating", "episode") as bar,
        ):

            def done(trajectory: Trajectory) -> None:
                if trajectory.correct is not None and trajectory.id not in judged:
                    judged[trajectory.id] = trajectory.correct
                    bar.advance({"accuracy": sum(judged.values()) / len(judged)})

            trajectories = await collect(
                specs,
                engine=engine,
                runtime=runtime,
                journal=journal,
                history=history,
                sampling=sampling,
                retry_broken=True,
                done=done,
            )
        return trajectories, _usage(engine)


def _usage(engine: Any) -> list[str]:
    if not isinstance(engine, ChatEngine) or not engine.usage.prompt_tokens:
        return []
    usage = engine.usage
    return [
        f"the server counted {usage.prompt_tokens:,} tokens read and {usage.completion_tokens:,} written in "
        f"{usage.requests:,} requests of this start"
    ]
