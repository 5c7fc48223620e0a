"""A run from start to report: (train → evaluate) per stage, then summary and report.

Every phase leaves a whole file or checkpoint behind and is skipped if it is there, so the same command that
started a run also resumes it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
from pathlib import Path
from typing import Any

import jax

from mirothinker_jax.agent.policy import evaluation_sampling
from mirothinker_jax.agent.prompt import today, with_date
from mirothinker_jax.config import Config, TrainingConfig, check
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.evals.heldout import Evaluation, assess, budget_specs
from mirothinker_jax.evals.summary import write_summary
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.parallel.processes import gather_texts, start_processes
from mirothinker_jax.pipeline.claim import MADE_BY, check_same, claim, exists_any, nothing_left_of_a_refusal
from mirothinker_jax.pipeline.inputs import Inputs
from mirothinker_jax.pipeline.lock import RunLock
from mirothinker_jax.pipeline.params import LazyParams, StepLost, load_step
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.pipeline.preflight import check_data, check_settings, check_tokens, sampled_setting
from mirothinker_jax.pipeline.prepare import (
    Acting,
    Place,
    Prepared,
    open_acting,
    open_collector,
    open_learner,
    open_text,
)
from mirothinker_jax.pipeline.stages import STAGES
from mirothinker_jax.trainer import loop
from mirothinker_jax.trainer.checkpoint import load_params, read_item
from mirothinker_jax.trainer.metrics import MetricsLog
from mirothinker_jax.trainer.steps import trained_steps

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
        config = with_date(config, gather_texts(_date(folder))[0])
        place = Place(config, folder, Phases(folder / "phases.json", first))
        resized = check_same(folder, to_plain(config))
        check_settings(config)
        acting = open_acting(config, stack)
        check_data(place, inputs)
        claim(folder, config, resized, first)
        log = stack.enter_context(MetricsLog(folder, enabled=first))
        fresh = not exists_any(folder, MADE_BY["sft"])
        ready = _prepare(place, acting, inputs, fresh, stack)
        while (evaluations := _run_stages(ready, log)) is None:
            pass
        return _conclude(ready, evaluations) if first else {}


def _date(folder: Path) -> str:
    """The day that the run began with; today's where it begins now."""
    path = folder / "config.json"
    known = json.loads(path.read_text())["agent"].get("date", "") if path.exists() else ""
    return known or today()


def _prepare(
    place: Place, acting: Acting | None, inputs: Inputs, fresh: bool, stack: contextlib.ExitStack
) -> Prepared:
    """Whatever else the stages need. `fresh`: SFT has not begun."""
    c = place.config
    text = open_text(place, acting, inputs)
    samples = acting is not None and set(acting.tasks) != {"expert"}
    setting = sampled_setting(c, acting, text) if acting is not None and samples else None
    survey = c.data.survey and "sft" in c.stages and fresh
    lengths = check_tokens(place, text, setting, survey)
    learner = open_learner(c, place.folder, text.tokenizer)
    collector = None
    if acting is not None and setting is not None:
        collector = open_collector(c, acting, text, learner, setting, stack)
    return Prepared(place, acting, text, learner, collector, lengths)


def _run_stages(ready: Prepared, log: MetricsLog) -> dict[str, Evaluation] | None:
    """What was measured after each stage; None where one that was done has to do its last steps again."""
    evaluations = {}
    params = LazyParams(lambda: _initial(ready))
    try:
        for stage in ready.place.config.stages:
            params = _train(ready, log, stage, params)
            if ready.place.config.evaluation.questions:
                evaluations[stage] = _evaluate(ready, stage, params)
    except StepLost:  # whoever set the step aside has said so; one step fewer is left each time
        return None
    return evaluations


def _initial(ready: Prepared) -> Params:
    c, learner = ready.place.config, ready.learner
    if c.model.init_from:
        return load_params(c.model.init_from, learner.model, learner.identity, c.seed)
    return learner.model.init(c.seed)


def _train(ready: Prepared, log: MetricsLog, stage: str, before: LazyParams) -> LazyParams:
    """What the stage ends with. A stage that is done is left on disk until somebody asks for its parameters."""
    place, model, identity = ready.place, ready.learner.model, ready.learner.identity
    checkpoints = place.folder / stage / "checkpoints"
    trained = int(gather_texts(str(trained_steps(checkpoints)))[0])  # as the first process sees it

    def load(step: int) -> Params:
        return load_step(checkpoints, step, model, identity)

    if trained and _is_last(checkpoints / str(trained), stage, getattr(place.config, stage).training):
        logger.info("%s: its %d steps are done", stage, trained)
        return LazyParams(lambda: load(trained))
    if not trained:
        before.get()  # what is wrong with them is said before the stage has a folder
    training, source, objective, validation, close = STAGES[stage](ready, before)
    check(
        training.steps >= trained,
        f"config.{stage}.training asks for {training.steps} steps, and {checkpoints} has step {trained}; "
        "give more steps or epochs",
    )
    if trained:
        before.drop()  # the stage goes on from its own checkpoint, for which there must be room
    config = to_plain(place.config)
    config[stage]["training"]["steps"] = training.steps  # also where epochs say how many
    job = loop.Job(
        stage=stage,
        folder=place.folder / stage,
        training=training,
        model=model,
        initial=before.take,
        source=source,
        objective=objective,
        log=log,
        identity=identity,
        config=config,
        validation=validation,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(place.phases(f"{stage} training"))
        stack.callback(close)
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


def _evaluate(ready: Prepared, stage: str, params: LazyParams) -> Evaluation:
    """On held-out questions, each allowed budget of calls apart."""
    place, c = ready.place, ready.place.config.evaluation
    assert ready.acting is not None and ready.collector is not None
    specs = budget_specs(stage, ready.acting.tasks["evaluation"], c.budgets, place.config.seed)
    path = place.folder / stage / "eval_trajectories.jsonl"
    phase = place.phase(f"{stage} evaluation", "episode")
    sampling = evaluation_sampling(c)
    return assess(ready.collector.run(params.get, specs, path, sampling, phase)[0])


def _conclude(ready: Prepared, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    folder, phases = ready.place.folder, ready.place.phases
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
        seed=ready.place.config.seed,
        phases=phases.seconds,
        device=f"{jax.device_count()} × {jax.devices()[0].device_kind}, {os.cpu_count()} cores",
        versions={"jax": jax.__version__},
    )
    # Only now: what draws takes a second to import.
    from mirothinker_jax.evals.report import write_report

    write_report(folder, ready.text.tokenizer.decode)
    return summary
