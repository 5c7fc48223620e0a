"""A run from start to report: (train → evaluate) per stage, then summary and report.

Every phase leaves a whole file or checkpoint behind and is skipped if it is there, so the same command that
started a run also resumes it.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

from mirothinker_jax.config import Config
from mirothinker_jax.config_tree import ConfigError, difference, to_plain
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.evals.heldout import Evaluation, assess, evaluate
from mirothinker_jax.evals.report import write_report
from mirothinker_jax.evals.summary import write_summary
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.processes import barrier, start_processes
from mirothinker_jax.pipeline.inputs import Inputs
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.pipeline.preflight import check_run, check_tokens
from mirothinker_jax.pipeline.records import read_or_sample
from mirothinker_jax.pipeline.stages import STAGES
from mirothinker_jax.pipeline.workshop import Workshop, task
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.checkpoint import load_params
from mirothinker_jax.trainer.metrics import MetricsLog
from mirothinker_jax.trajectory.types import Trajectory

# A run may be continued with other values of these; any other change would mix two experiments in one folder.
FREE = ("run_dir", "stages", "rollout.", "tools.deadline_s", "tools.concurrency")
# And of these until the run has left something behind that was made with them. A start that failed before that leaves
# nothing that other settings could contradict.
FREE_UNTIL = {
    "sft.training.": ("sft/checkpoints/*",),
    "dpo.": ("dpo/samples.jsonl", "dpo/checkpoints/*"),
    "grpo.": ("grpo/rollouts/*", "grpo/checkpoints/*"),
    "evaluation.": ("*/eval_trajectories.jsonl",),
}
MADE = ("data/*", *(pattern for patterns in FREE_UNTIL.values() for pattern in patterns))


def run(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Runs every stage that is not done yet; returns the summary (on the first process).

    Raises ConfigError or DataError, one line each, for whatever the user can mend.
    """
    start_processes()
    first, folder = jax.process_index() == 0, Path(config.run_dir)
    phases = Phases(folder / "phases.json", first)
    evaluations: dict[str, Evaluation] = {}
    with Workshop(config, folder, phases, inputs) as shop:
        _check_same(folder, to_plain(config))
        check_run(shop)
        _claim(folder, config, first)
        with MetricsLog(folder, enabled=first) as log:
            fresh = not _exists_any(folder, ("sft/checkpoints/*",))
            check_tokens(shop, survey_data=config.data.survey and "sft" in config.stages and fresh)
            params = _initial(shop)
            for stage in config.stages:
                params = _train(shop, log, stage, params)
                if config.evaluation.questions:
                    evaluations[stage] = _evaluate(shop, stage, params)
    return _conclude(config, folder, phases, evaluations) if first else {}


def _claim(folder: Path, config: Config, first: bool) -> None:
    """Writes the resolved config into the run folder, when every process has read the one that was there."""
    path = folder / "config.json"
    barrier("config read")
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(to_plain(config), indent=2))
    barrier("config")
    if not path.exists():
        raise ConfigError(
            f"config.run_dir: {folder} is not the first process's folder of that name; "
            "give a folder on a file system that all processes share"
        )


def _check_same(folder: Path, new: dict[str, Any]) -> None:
    """Raises ConfigError where the run folder was made with settings that contradict these."""
    path = folder / "config.json"
    if not path.exists() or not _exists_any(folder, MADE):
        return
    old = json.loads(path.read_text())
    free = (*FREE, *(key for key, patterns in FREE_UNTIL.items() if not _exists_any(folder, patterns)))
    changed = [line for line in difference(old, new) if not line.removeprefix("config.").startswith(free)]
    if changed:
        raise ConfigError(
            f"{folder} was made with other settings ({'; '.join(changed[:5])}); "
            "give another config.run_dir, or the settings it was made with"
        )
    done = tuple(old["stages"])
    if tuple(new["stages"][: len(done)]) != done:
        raise ConfigError(
            f"{folder} was made with the stages {', '.join(done)}, not {', '.join(new['stages'])}; stages can only "
            "be added behind those: give another config.run_dir, or the stages it was made with"
        )


def _exists_any(folder: Path, patterns: Iterable[str]) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _initial(shop: Workshop) -> Params:
    c = shop.config
    if c.model.init_from:
        return load_params(c.model.init_from, shop.model, shop.identity, c.seed)
    return shop.model.init(c.seed)


def _train(shop: Workshop, log: MetricsLog, stage: str, before: Params) -> Params:
    training, source, objective, validation = STAGES[stage](shop, before)
    job = loop.Job(
        stage=stage,
        folder=shop.folder / stage,
        training=training,
        model=shop.model,
        initial=lambda: before,
        source=source,
        objective=objective,
        log=log,
        identity=shop.identity,
        config=to_plain(shop.config),
        validation=validation,
    )
    with shop.phases(f"{stage} training"):
        return loop.run(job).params


def _evaluate(shop: Workshop, stage: str, params: Params) -> Evaluation:
    """On held-out questions, each allowed budget of calls apart."""
    c, phase = shop.config, f"{stage} evaluation"

    def sample(index: int, count: int) -> list[Trajectory]:
        tasks = [task(q) for q in shop.questions("evaluation")[index::count]]
        total = len(tasks) * len(c.evaluation.budgets)
        with shop.phases(phase), shop.bar(total, phase, "episode") as bar:
            return evaluate(stage, params, tasks, shop.collector, is_correct, c.evaluation, c.seed, bar)

    return assess(read_or_sample(shop.folder / stage / "eval_trajectories.jsonl", sample))


def _conclude(
    config: Config, folder: Path, phases: Phases, evaluations: dict[str, Evaluation]
) -> dict[str, Any]:
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    summary = write_summary(
        folder,
        accuracy={s: e.accuracy for s, e in evaluations.items()},
        scaling={s: e.scaling for s, e in evaluations.items()},
        by_hops={s: e.by_hops for s, e in evaluations.items()},
        stop_reasons={s: e.stops for s, e in evaluations.items()},
        calls_per_episode={s: e.calls for s, e in evaluations.items()},
        wall_s=phases.wall_s(),
        peak_rss_gib=round(peak / 2**20, 3),
        seed=config.seed,
        phases=phases.seconds,
        device=f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        versions={"jax": jax.__version__},
    )
    write_report(folder)
    return summary
