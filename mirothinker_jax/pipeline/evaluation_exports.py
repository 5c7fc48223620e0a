"""An evaluation's episodes for others: training data of a student, a log for inspect's viewer."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.data.atomic import write_json_lines
from mirothinker_jax.evals.export import Writing, pair_records, sft_records
from mirothinker_jax.evals.inspect_log import write_inspect_log
from mirothinker_jax.pipeline.evaluation import Evaluation
from mirothinker_jax.pipeline.policies import Policy
from mirothinker_jax.trajectory.types import Trajectory


def export_training_data(
    asked: Evaluation, trajectories: Sequence[Trajectory], policy: Policy, setting: Setting
) -> list[str]:
    """Writes what `asked.sft` and `asked.pairs` name; what became of each, a line each. Raises OSError."""
    config = asked.config
    writing = Writing(
        policy.template, config.data.call_format, setting.functions, policy.end_ids, policy.render
    )
    notes = []
    if asked.sft is not None:
        records, note = sft_records(trajectories, writing)
        write_json_lines(asked.sft, records)
        notes.append(f"{asked.sft}: {note}")
    if asked.pairs is not None:
        records, note = pair_records(trajectories, writing, config.dpo.pairs_per_question, config.seed)
        write_json_lines(asked.pairs, records)
        notes.append(f"{asked.pairs}: {note}")
    return notes


def export_log(
    asked: Evaluation,
    runs: Sequence[Sequence[Trajectory]],
    began: datetime.datetime,
    figures: Mapping[str, Any],
) -> list[str]:
    """Writes a log to `asked.view`, where it names a folder; how to look at it, in a line. Raises OSError."""
    if asked.view is None:
        return []
    written = write_inspect_log(
        asked.view,
        runs,
        task=asked.benchmark or "questions",
        model=asked.policy,
        created=began,
        call_format=asked.config.data.call_format,
        figures=figures,
        allow_encoded=asked.allow_encoded,
    )
    return [f"{written}: inspect view --log-dir {asked.view}"]
