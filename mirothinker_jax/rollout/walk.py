"""GRPO's shuffled walk through the questions, epoch by epoch: which episode has which question, seed and name.

All of it follows from the run's seed, the place in the walk and the member's number, whatever is sampled when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mirothinker_jax.rollout.collect import EpisodeSpec
from mirothinker_jax.tasks.types import Task


@dataclass(frozen=True)
class Walk:
    """`questions` are those of a step, where nothing is sampled ahead."""

    tasks: Sequence[Task]
    questions: int
    seed: int

    def part(self, place: int) -> int:
        """Which journal has a place's episodes: the step whose places these are."""
        return place // self.questions

    def episodes(self, place: int, members: Sequence[int], version: int) -> list[EpisodeSpec]:
        """Of one place, sampled by this version of the policy."""
        step, total = self.part(place), len(self.tasks)
        order = np.random.default_rng((self.seed, place // total)).permutation(total)
        task = self.tasks[int(order[place % total])]
        seeds = [int(np.random.default_rng((self.seed, step, place, m)).integers(2**31)) for m in members]
        return [
            EpisodeSpec(episode_name(self.questions, place, member), task, seed, version=version)
            for member, seed in zip(members, seeds, strict=True)
        ]


def episode_name(questions: int, place: int, member: int) -> str:
    """Of one member of a place, where a step has so many questions."""
    return f"grpo-{place // questions}-{place}-{member}"


def part_of(episode: str) -> int:
    """Which journal has the episode of this name."""
    return int(episode.split("-")[1])


def part_name(number: int) -> str:
    """Of a journal's file."""
    return f"step_{number:06d}.jsonl"
