"""Episodes judged once more, by another judge or another template, without running any of them again.

All are judged before anything is written, so a journal never holds verdicts of two judges side by side: where too many
cannot be judged, it stays as it was, and the judge's own memory (tasks.judge_cache_file) keeps what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from mirothinker_jax.rollout.collect import OutageError
from mirothinker_jax.tasks.types import Grader, Task, Verdict
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.trajectory.types import Stop, Trajectory

UNJUDGED_SHARE = 0.01  # of the answers, at most


async def verdicts(
    trajectories: Iterable[Trajectory], tasks: Mapping[str, Task], grader: Grader, tries: int = 3
) -> dict[str, Verdict]:
    """What `grader` says of each episode that ended and whose question is in `tasks` (by id), by the episode's id.
    Episodes that services broke are left out."""

    async def one(trajectory: Trajectory) -> Verdict:
        verdict = Verdict(None, "not asked")
        for _ in range(tries):
            verdict = await grader(tasks[trajectory.question_id], trajectory)
            if verdict.correct is not None:
                break
        return verdict

    asked = [t for t in trajectories if t.stop is not Stop.INFRASTRUCTURE and t.question_id in tasks]
    said = await asyncio.gather(*map(one, asked))
    return {trajectory.id: verdict for trajectory, verdict in zip(asked, said, strict=True)}


async def rejudge(path: Path, tasks: Mapping[str, Task], grader: Grader, tries: int = 3) -> int:
    """Judges the episodes of the journal at `path`, writes the verdicts into it, and returns how many changed.

    Raises OutageError where more than 1% cannot be judged.
    """
    history = History(path)
    said = await verdicts(history.trajectories(), tasks, grader, tries)
    refuse_unjudged(said.values())
    with Journal(path) as journal:
        for episode, verdict in said.items():
            journal.verdict(episode, verdict)
    nothing = Verdict(None)
    return sum(
        history.verdicts.get(episode, nothing).correct is not verdict.correct
        for episode, verdict in said.items()
    )


def refuse_unjudged(said: Iterable[Verdict]) -> None:
    """Raises OutageError, one line, where more than 1% of the verdicts say neither right nor wrong: a figure of the
    rest would be one of the answers that are easy to judge."""
    said = list(said)
    missing = [v for v in said if v.correct is None or v.terms.get("unparsable")]
    if len(missing) > UNJUDGED_SHARE * len(said):
        raise OutageError(
            f"{len(missing)} of {len(said)} answers could not be judged, more than {UNJUDGED_SHARE:.0%} "
            f"({missing[0].reason or 'what the judge said has no verdict in it'}); mend the judge, and judge again "
            "with --rejudge: no episode is lost"
        )
