"""Which groups are sampled, which wait, and which are trained next: the numbers only. No clock, no episode, no file.

There are (k + 1) · P slots, where a step trains P groups and k is grpo.staleness. A group takes a slot when it is
admitted, and gives it back when weights that it was trained for are published, or when it is replaced. A batch is P
finished groups, the oldest first, none of them W or more behind the oldest that is left. So no group is trained with
weights more than k + ⌈(W − 1) / P⌉ versions newer than those it was admitted with, and none is ever dropped
(MiniMax, arXiv 2605.26494).

Of several processes each has a buffer of its own, with its share of P, and nobody asks the others: a step takes what
is oldest of each share. A share's window is so much narrower that the bound above holds as it stands.

Why: when a group is admitted, at most (k + 1) · P − 1 others hold a slot, and at most W − 1 younger ones can be taken
before it.

A group may be finished without some of its members. They go to the head of the queue, and are members of the next group
that is admitted, beside new ones of the same question. For that group the versions count anew from there.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Slots:
    """The settings (GRPOConfig): `questions` is P, `window` W; of one process's share, where there are `count` of them.

    Attributes:
      refill: groups that may be replaced for one batch.
      batches: of the whole run; nothing is admitted that none of them would train.
      index: of this share.
    """

    questions: int
    group: int
    staleness: int = 0
    window: int = 1
    refill: int = 0
    batches: int = 1 << 40
    index: int = 0
    count: int = 1

    def share(self, index: int, count: int) -> Slots:
        """The `index`th of `count` equal shares of these, as which a process has no older groups than one alone."""
        assert self.questions % count == 0, (self.questions, count)
        return replace(
            self,
            questions=self.questions // count,
            window=(self.window - 1) // count + 1,
            refill=self.refill // count + (index < self.refill % count),
            index=index,
            count=count,
        )

    def place(self, number: int) -> int:
        """Where in the walk the share's question of this number is: every step's places are dealt in stretches."""
        step, rest = divmod(number, self.questions)
        return (step * self.count + self.index) * self.questions + rest

    @property
    def bound(self) -> int:
        """The most versions between a group's admission and the step that trains it."""
        return self.staleness + math.ceil((self.window - 1) / self.questions)


@dataclass(frozen=True)
class Group:
    """Episodes of one question that are compared with each other.

    Attributes:
      number: counts the groups in the order of their admission.
      place: in the walk through the questions; several groups may have the same one.
      members: their numbers, of all episodes of the place, ascending.
      version: of the policy when the group was admitted.
    """

    number: int
    place: int
    members: tuple[int, ...]
    version: int


class Buffer:
    """The state. What is done to it in the same order leads to the same."""

    def __init__(self, slots: Slots):
        self.slots, self.version = slots, 0
        self.batches = 0  # that were taken
        self.replaced = 0
        self._admitted = self._places = 0
        self._spent = 0  # of slots.refill, for the next batch
        self._open: dict[int, Group] = {}
        self._finished: dict[int, Group] = {}
        self._rest: deque[Group] = deque()  # number and version are of the group that they were left by
        self._members: dict[int, int] = {}  # of the queue's places, how many members they have had

    @property
    def open(self) -> list[Group]:
        """The groups that are being sampled, oldest first."""
        return list(self._open.values())

    @property
    def waiting(self) -> list[Group]:
        """The finished groups that no batch has taken."""
        return list(self._finished.values())

    @property
    def queue(self) -> list[Group]:
        """Members that a group was finished without, as far as they are in no other one."""
        return list(self._rest)

    @property
    def charged(self) -> int:
        """Slots in use."""
        unpublished = max(0, self.batches - self.version)
        return len(self._open) + len(self._finished) + unpublished * self.slots.questions

    def publish(self, version: int) -> None:
        """Weights of so many steps are sampled with from now on."""
        assert version >= self.version, (version, self.version)
        self.version = version

    def admit(self, again: bool = False) -> Group | None:
        """The next group to sample; None where no slot is free, or no batch is left for it. `again`: it was admitted
        before, perhaps in a run of more batches."""
        s = self.slots
        wanted = again or self._admitted - self.replaced < s.batches * s.questions
        if not wanted or self.charged >= (s.staleness + 1) * s.questions:
            return None
        if self._rest:
            rest = self._rest.popleft()
            place, first = rest.place, self._members.pop(rest.place)
            members = (*rest.members, *range(first, first + s.group - len(rest.members)))
        else:
            place, members = s.place(self._places), tuple(range(s.group))
            self._places += 1
        group = Group(self._admitted, place, members, self.version)
        self._admitted += 1
        self._open[group.number] = group
        return group

    def finish(self, number: int, members: Sequence[int]) -> None:
        """The group is these members of it, and waits for a batch."""
        self._finished[number] = self._close(number, members)

    @property
    def may_replace(self) -> bool:
        """Whether `refill` allows one more for the next batch."""
        return self._spent < self.slots.refill

    def replace(self, number: int, members: Sequence[int]) -> None:
        """These members of the group say nothing: another group takes its slot."""
        self._close(number, members)
        self._spent += 1
        self.replaced += 1

    def _close(self, number: int, members: Sequence[int]) -> Group:
        group = self._open.pop(number)
        kept = tuple(m for m in group.members if m in members)
        assert kept, f"group {number} is finished without a member"
        if rest := tuple(m for m in group.members if m not in members):
            self._members[group.place] = group.members[-1] + 1
            self._rest.append(replace(group, members=rest))
        return replace(group, members=kept)

    def take(self) -> list[Group] | None:
        """The next batch, in the order of admission; None while there are too few finished groups in the window."""
        chosen: list[int] = []
        finished = sorted(self._finished)
        left = sorted([*self._open, *finished])
        for number in finished:  # the oldest that is left moves on with every one that is chosen
            while left and left[0] in chosen:
                left.pop(0)
            if len(chosen) == self.slots.questions or number >= left[0] + self.slots.window:
                break
            chosen.append(number)
        if len(chosen) < self.slots.questions:
            return None
        self.batches += 1
        self._spent = 0
        return [self._finished.pop(number) for number in chosen]
