"""A run from start to report: (train → evaluate) per stage, then summary and report.

Every phase leaves a whole file or checkpoint behind and is skipped if it is there, so the same command that
started a run also resumes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from pathlib import Path
from typing import Any

import jax

from mirothinker_jax.config import Config, TrainingConfig, check
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.data.loader import check_same_data
from mirothinker_jax.evals.heldout import Evaluation, assess, evaluate
from mirothinker_jax.evals.summary import write_summary
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.processes import gather_texts, start_processes
from mirothinker_jax.pipeline.claim import MADE_BY, check_same, claim, exists_any, nothing_left_of_a_refusal
from mirothinker_jax.pipeline.inputs import Inputs
from mirothinker_jax.pipeline.lock import RunLock
from mirothinker_jax.pipeline.params import LazyParams, StepLost, load_step
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.pipeline.preflight import check_run, check_tokens
from mirothinker_jax.pipeline.records import read_or_sample
from mirothinker_jax.pipeline.stages import STAGES
from mirothinker_jax.pipeline.workshop import Workshop, task
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.checkpoint import load_params, read_item
from mirothinker_jax.trainer.metrics import MetricsLog
from mirothinker_jax.trainer.steps import trained_steps
from mirothinker_jax.trajectory.types import Trajectory

logger = logging.getLogger(__name__)


def run(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Runs every stage that is not done yet; returns the summary (on the first process).

    Raises ConfigError or DataError, one line each, for whatever the user can mend.
    """
    start_processes()
    first, folder = jax.process_index() == 0, Path(config.run_dir)
    with contextlib.ExitStack() as stack:
        if first:
            stack.enter_context(RunLock(folder))
        stack.enter_context(nothing_left_of_a_refusal(folder, enabled=first))
        phases = Phases(folder / "phases.json", first)
        shop = stack.enter_context(Workshop(config, folder, phases, inputs))
        resized = check_same(folder, to_plain(config))
        check_run(shop)
        _check_data(shop)
        claim(folder, config, resized, first)
        log = stack.enter_context(MetricsLog(folder, enabled=first))
        fresh = not exists_any(folder, MADE_BY["sft"])
        check_tokens(shop, survey_data=config.data.survey and "sft" in config.stages and fresh)
        while (evaluations := _run_stages(shop, log)) is None:
            pass
        return _conclude(config, folder, phases, evaluations) if first else {}


def _check_data(shop: Workshop) -> None:
    """Raises ConfigError where SFT, done or not, was trained on other data than the settings name now."""
    checkpoints = shop.folder / "sft" / "checkpoints"
    step = trained_steps(checkpoints)
    if "sft" not in shop.config.stages or not step:
        return
    try:
        saved = read_item(checkpoints / str(step), "source")
    except (OSError, ValueError):  # damaged: the loop compares, with the step that it goes on from
        return
    check_same_data(saved, shop.conversations)


def _run_stages(shop: Workshop, log: MetricsLog) -> dict[str, Evaluation] | None:
    """What was measured after each stage; None where one that was done has to do its last steps again."""
    evaluations = {}
    params = LazyParams(lambda: _initial(shop))
    try:
        for stage in shop.config.stages:
            params = _train(shop, log, stage, params)
            if shop.config.evaluation.questions:
                evaluations[stage] = _evaluate(shop, stage, params)
    except StepLost:  # whoever set the step aside has said so; one step fewer is left each time
        return None
    return evaluations


def _initial(shop: Workshop) -> Params:
    c = shop.config
    if c.model.init_from:
        return load_params(c.model.init_from, shop.model, shop.identity, c.seed)
    return shop.model.init(c.seed)


def _train(shop: Workshop, log: MetricsLog, stage: str, before: LazyParams) -> LazyParams:
    """What the stage ends with. A stage that is done is left on disk until somebody asks for its parameters."""
    checkpoints = shop.folder / stage / "checkpoints"
    trained = int(gather_texts(str(trained_steps(checkpoints)))[0])  # as the first process sees it

    def load(step: int) -> Params:
        return load_step(checkpoints, step, shop.model, shop.identity)

    if trained and _is_last(checkpoints / str(trained), stage, getattr(shop.config, stage).training):
        logger.info("%s: its %d steps are done", stage, trained)
        return LazyParams(lambda: load(trained))
    if not trained:
        before.get()  # what is wrong with them is said before the stage has a folder
    training, source, objective, validation = STAGES[stage](shop, before)
    check(
        training.steps >= trained,
        f"config.{stage}.training asks for {training.steps} steps, and {checkpoints} has step {trained}; "
        "give more steps or epochs",
    )
    if trained:
        before.drop()  # the stage goes on from its own checkpoint, for which there must be room
    config = to_plain(shop.config)
    config[stage]["training"]["steps"] = training.steps  # also where epochs say how many
    job = loop.Job(
        stage=stage,
        folder=shop.folder / stage,
        training=training,
        model=shop.model,
        initial=before.take,
        source=source,
        objective=objective,
        log=log,
        identity=shop.identity,
        config=config,
        validation=validation,
    )
    with shop.phases(f"{stage} training"):
        return LazyParams(lambda: load(training.steps), loop.run(job).params)


def _is_last(step: Path, stage: str, training: TrainingConfig) -> bool:
    """Whether a stage's newest step is the last one that the settings ask for."""
    if not training.epochs:
        return int(step.name) == training.steps
    try:
        saved = read_item(step, "config")[stage]["training"]
    except (OSError, ValueError, KeyError):  # damaged: the loop will see to it
        return False
    return (saved["epochs"], saved["steps"]) == (training.epochs, int(step.name))


def _evaluate(shop: Workshop, stage: str, params: LazyParams) -> Evaluation:
    """On held-out questions, each allowed budget of calls apart."""
    c, phase = shop.config, f"{stage} evaluation"

    def sample(index: int, count: int) -> list[Trajectory]:
        tasks = [task(q) for q in shop.questions("evaluation")[index::count]]
        total = len(tasks) * len(c.evaluation.budgets)
        with shop.phases(phase), shop.bar(total, phase, "episode") as bar:
            return evaluate(stage, params.get(), tasks, shop.collector, is_correct, c.evaluation, c.seed, bar)

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
    # Only now: what draws takes a second to import.
    from mirothinker_jax.evals.report import write_report

    write_report(folder)
    return summary
