"""From a trajectory to rows: every sampled token trained once, behind id for id the context that it was sampled in.

A plain episode is one sequence. Where results were hidden, turns taken back or the episode begun anew, its turns were
sampled in contexts that are not prefixes of each other. A row for each turn would be right, and cost ten to thirty
times the tokens. But contexts share long beginnings, and a token's spans (types.Spans) can say "that beginning, and my
own stretch". So a row has a *trunk*, the whole of one turn's context and the turn, and *branches*: what other contexts
have behind the beginning that they share with the trunk, with their turns. With the last one result kept (P: turn, R:
result, h: its short form):

    turns      P1 in p      P2 in p P1 R1      P3 in p P1 h1 P2 R2      P4 in p P1 h1 P2 h2 P3 R3
    trunk      p P1 h1 P2 h2 P3 R3 P4               trains P1 and P4
    branches         R1 P2                          sees p P1,       trains P2
                           R2 P3                    sees p P1 h1 P2, trains P3

A branch begins with the last token it shares, because that predicts its first own one; positions go on from there.

How it is found: turns whose contexts extend each other lie on one *path*, which is trained in one place. Paths in the
order of their segments are the leaves of a tree in depth-first order, so two of them share the least that neighbours
between them share. Cutting this list into rows, and choosing each row's trunk, so that the tokens are fewest is dynamic
programming.

Left out: trunks that are no turn's context, and branches of branches, for which two spans are too few.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mirothinker_jax.data.packing import Branch, Sample, Tree
from mirothinker_jax.trajectory.types import Segment, TurnContext

Path = tuple[int, ...]  # indices of segments: a turn's context, and the turn


@dataclass(frozen=True)
class Stretch:
    """What stands in a row beside other stretches.

    Attributes:
      segments: its own, by their indices.
      seen: how many tokens of the trunk it sees; 0 for the trunk. The next token of the trunk stands before its own.
      trained: those of its segments that are trained here.
    """

    segments: Path
    seen: int
    trained: frozenset[int]


Row = tuple[Stretch, ...]  # the trunk, then its branches


def tree_rows(segments: Sequence[Segment], turns: Sequence[TurnContext], row_tokens: int) -> list[Row]:
    """The rows of fewest tokens in which each turn is trained once.

    None has more than `row_tokens`, but where a single context and its turn have.
    """
    sequences = sorted((*turn.context, turn.segment) for turn in turns)
    paths = [s for s, after in pairwise([*sequences, ()]) if after[: len(s)] != s]
    sizes = np.asarray([len(segment.tokens) for segment in segments], np.int64)
    assert all(sizes[list(turn.context)].sum() > 0 for turn in turns), "nothing predicts a turn's first token"
    arrays = [np.asarray(path) for path in paths]
    lengths = [int(sizes[path].sum()) for path in arrays]
    shared = [_common(a, b) for a, b in pairwise(arrays)]  # segments
    # In tokens, less the one that stands in the branch too.
    saved = [max(0, int(sizes[path[:n]].sum()) - 1) for path, n in zip(arrays, shared, strict=False)]
    homes = [bisect_left(paths, turn) for turn in sequences]  # the first path that extends each
    rows = []
    for first, end in pairwise(_cuts(lengths, saved, row_tokens)):
        *_, gains = _gains(saved[first : end - 1])
        trunk = int(first + np.flatnonzero(gains == gains.max())[-1])
        trained: dict[int, set[int]] = {path: set() for path in range(first, end)}
        for turn, path in zip(sequences, homes, strict=True):
            if first <= path < end:
                on_trunk = paths[trunk][: len(turn)] == turn
                trained[trunk if on_trunk else path].add(turn[-1])
        row = [Stretch(paths[trunk], 0, frozenset(trained[trunk]))]
        for path in range(first, end):
            if path != trunk:
                between = slice(min(path, trunk), max(path, trunk))
                own = paths[path][min(shared[between]) :]
                row.append(Stretch(own, min(saved[between]), frozenset(trained[path])))
        rows.append(tuple(row))
    return rows


def row_length(segments: Sequence[Segment], row: Row) -> int:
    """Tokens of a row."""
    return sum(len(segments[i].tokens) for part in row for i in part.segments) + len(row) - 1


def trees(
    segments: Sequence[Segment], turns: Sequence[TurnContext], row_tokens: int, advantage: float
) -> list[Tree]:
    """What `tree_rows` says, as packing takes it. Together they count as one sequence (data/weights.py)."""
    whole = sum(len(segments[turn.segment].tokens) for turn in turns)
    found = []
    for trunk, *branches in tree_rows(segments, turns, row_tokens):
        sample = _sample(segments, trunk, advantage)
        parts = [
            Branch(b.seen, _sample(segments, b, advantage, int(sample.tokens[b.seen]))) for b in branches
        ]
        found.append(Tree(sample, tuple(parts), whole))
    return found


def _sample(
    segments: Sequence[Segment], stretch: Stretch, advantage: float, before: int | None = None
) -> Sample:
    """A stretch's tokens, behind the token `before`."""
    lead = [] if before is None else [before]
    none = np.zeros(len(lead), np.float32)
    tokens, trained, logprobs = [np.asarray(lead, np.int32)], [none > 0], [none]
    for index in stretch.segments:
        segment, here = segments[index], index in stretch.trained
        count = len(segment.tokens)
        tokens.append(np.asarray(segment.tokens, np.int32))
        trained.append(np.full(count, here))
        logprobs.append(np.asarray(segment.logprobs if here else np.zeros(count), np.float32))
    is_trained = np.concatenate(trained)
    advantages = np.where(is_trained, np.float32(advantage), np.float32(0))
    return Sample(np.concatenate(tokens), is_trained, advantages, np.concatenate(logprobs))


def _common(a: np.ndarray, b: np.ndarray) -> int:
    """How many segments two paths begin with alike."""
    shorter = min(len(a), len(b))
    differs = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differs[0]) if differs.size else shorter


def _gains(saved: Sequence[int]) -> Iterator[np.ndarray]:
    """For the first 1, 2, … paths of a list whose neighbours share `saved`: the tokens that are saved with each of them
    as the trunk, int64 [1], [2], …"""
    gains, shared = np.zeros(1, np.int64), np.zeros(0, np.int64)
    yield gains
    for tokens in saved:
        shared = np.minimum(np.append(shared, tokens), tokens)  # by each path so far with the next one
        gains = np.append(gains + shared, shared.sum())
        yield gains


def _cuts(lengths: Sequence[int], saved: Sequence[int], row_tokens: int) -> list[int]:
    """Where the list of paths is cut into rows, from 0 to its length, so that tokens are fewest."""
    count = len(lengths)
    best, came_from = [0, *[np.inf] * count], [0] * (count + 1)
    for first in range(count):
        total = 0
        for last, gains in enumerate(_gains(saved[first:]), first):
            total += lengths[last]
            tokens = total - int(gains.max())
            if last > first and (tokens > row_tokens or saved[last - 1] == 0):
                break  # too long, or nothing in common; so is every longer stretch
            if best[first] + tokens <= best[last + 1]:
                best[last + 1], came_from[last + 1] = best[first] + tokens, first
    cuts = [count]
    while cuts[-1]:
        cuts.append(came_from[cuts[-1]])
    return cuts[::-1]
