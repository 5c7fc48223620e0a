"""Which sequences are fed next, which sampled, and which give up their pages: a pure function, without a device.

A step feeds new contexts in blocks of a fixed number of tokens, up to a number of blocks, and then samples several
tokens in every sequence that is fed. So long contexts are fed in pieces while others are sampled. Who came first goes
first. Where pages run out, who came last gives up its own, and begins again when there is room; a pool that holds
one whole context therefore always gets on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """What the plan needs to know of a sequence.

    Attributes:
      feed: tokens that are not fed yet; 0: it is being sampled.
      room: tokens that its pages still hold.
      own: pages that only it uses.
      ahead: tokens that sampling may add to its pages by the end of the next step; 0: it will have ended before.
    """

    feed: int
    room: int
    own: int
    ahead: int


@dataclass(frozen=True)
class Limits:
    """The shape of a step."""

    block: int  # tokens
    blocks: int  # of all sequences together
    page: int  # tokens


@dataclass(frozen=True)
class Plan:
    """Indices of the sequences, oldest first. `feed` is (index, tokens)."""

    feed: tuple[tuple[int, int], ...]
    sample: tuple[int, ...]
    preempt: tuple[int, ...]


def plan(views: Sequence[View], free: int, limits: Limits) -> Plan:
    """The next step of sequences, oldest first, where `free` pages can be had."""
    last, preempted = len(views), []

    def pages(view: View, tokens: int) -> int:
        return max(0, -(-(tokens - view.room) // limits.page))

    def make_room(index: int, wanted: int) -> bool:
        """Takes pages from the youngest on, as long as they are younger than `index`."""
        nonlocal last, free
        while wanted > free and last - 1 > index:
            last -= 1
            preempted.append(last)
            free += views[last].own
        if wanted > free:
            return False
        free -= wanted
        return True

    sample, feed, blocks = [], [], limits.blocks
    for index, view in enumerate(views):
        if index >= last:
            break
        if not view.feed and view.ahead:
            if make_room(index, pages(view, view.ahead)):
                sample.append(index)
        elif view.feed and blocks:
            tokens = min(view.feed, blocks * limits.block)
            if not make_room(index, pages(view, tokens)):
                tokens = min(tokens, (view.room + free * limits.page) // limits.block * limits.block)
                free -= pages(view, tokens)
            if tokens:
                feed.append((index, tokens))
                blocks -= -(-tokens // limits.block)
    return Plan(tuple(feed), tuple(sample), tuple(preempted))


def buckets(most: int, parts: Sequence[int]) -> tuple[int, ...]:
    """The numbers of rows that are compiled: `most`, and parts of it."""
    return tuple(sorted({-(-most // part) for part in (1, *parts)}))


def bucket(count: int, sizes: Sequence[int]) -> int:
    """The smallest of them that holds `count` rows."""
    return next(size for size in sizes if size >= count)
