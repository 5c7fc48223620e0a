"""How many batches a pass over the conversations takes.

Only packing tells how full rows get, so the lengths are packed as the loader packs the conversations: the same shards
and order, first-fit into as many open bins, all of which are given out when something fits none of them. A batch holds
rows of one pass and of the next, so this is a mean: so many batches hold as many tokens as the conversations have.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mirothinker_jax.config import DataConfig
from mirothinker_jax.data.loader import shard_numbers

_TIMES = 16  # that bins are given out: where a pass fills few rows, the mean is over several


def batches_per_epoch(
    lengths: np.ndarray, settings: DataConfig, sequence_length: int, rows: int, seed: int
) -> float:
    """Of `rows` rows each, for conversations of these lengths in tokens, int [examples], all ≤ sequence_length."""
    needed = 0.0
    for shard in range(settings.shards):
        numbers = shard_numbers(settings, len(lengths), shard, seed)
        sizes = [int(lengths[numbers[i]]) for i in range(len(numbers))]
        needed += sum(sizes) / (sequence_length * _fill(sizes, settings.open_bins, sequence_length))
    return needed / rows


def _fill(sizes: Sequence[int], bins: int, capacity: int) -> float:
    """The share of rows' tokens that is in use, over a pass or more: until rows were given out often enough."""
    room = np.full(bins, capacity)
    packed = times = waiting = 0
    for place, size in enumerate(itertools.cycle(sizes)):
        if place >= len(sizes) and times >= _TIMES:
            break
        fits = np.flatnonzero(room >= size)
        if not fits.size:
            packed, times, waiting = packed + waiting, times + 1, 0
            room[:] = capacity
        room[fits[0] if fits.size else 0] -= size
        waiting += size
    return packed / (times * bins * capacity)
