"""Bookkeeping of groups: how stale they can become, that none is lost or taken twice, and that a log brings it back."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirothinker_jax import checked_lines
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.rollout.buffer import Buffer, Slots
from mirothinker_jax.rollout.group_log import NAME, GroupLog

SLOTS = st.builds(
    Slots,
    questions=st.integers(1, 4),
    group=st.just(4),
    staleness=st.integers(0, 3),
    window=st.integers(1, 9),
    refill=st.integers(0, 2),
    batches=st.integers(1, 12),
)


class Run:
    """A run in which a stream of numbers decides what happens next: who finishes, with how many of its members, and
    when the trainer is ready. `book` is a Buffer or a GroupLog."""

    def __init__(self, slots, book, split):
        self.slots, self.book, self.split = slots, book, split
        self.buffer = getattr(book, "buffer", book)
        self.admitted, self.trained, self.ages, self.said = [], [], [], []
        self.version = self.buffer.version

    def step(self, choice):
        """One thing; False where the run is over."""
        while (group := self.book.admit()) is not None:
            self.admitted.append(group)
        assert self.buffer.charged <= (self.slots.staleness + 1) * self.slots.questions
        if self.version == self.slots.batches:
            return False
        if choice % 3 == 0 and self.buffer.batches == self.version:
            if (groups := self.book.take()) is not None:
                self.ages += [self.version - group.version for group in groups]
                self.trained.append(groups)
                return True
        elif choice % 3 == 1 and self.buffer.batches > self.version:
            self.version += 1
            self.buffer.publish(self.version)
            return True
        if self.buffer.open:
            group = self.buffer.open[choice // 3 % len(self.buffer.open)]
            members = group.members[: 2 + choice % 3] if self.split else group.members
            if choice % 5 == 0 and self.buffer.may_replace:
                self.book.replace(group.number, members)
            else:
                self.book.finish(group.number, members)
        elif self.buffer.batches > self.version:
            return self.step(1)
        else:
            assert self.buffer.waiting, "nothing is sampled, and nothing waits to be trained"
            return self.step(0)
        return True


def trained(run):
    return Counter((group.place, m) for groups in run.trained for group in groups for m in group.members)


@settings(deadline=None, max_examples=150)
@given(SLOTS, st.lists(st.integers(0, 59), max_size=300), st.booleans())
def test_the_bound_holds_and_nothing_is_lost(slots, choices, split):
    run = Run(slots, Buffer(slots), split)
    going = all(run.step(choice) for choice in choices)
    while going:  # what was begun comes to its end
        going = run.step(2)
    assert len(run.trained) == slots.batches and all(len(b) == slots.questions for b in run.trained)
    assert max(run.ages) <= slots.bound
    assert set(trained(run).values()) == {1}
    if slots.refill == 0 and not split:  # then also which groups are trained does not depend on who was fast
        expected = {(p, m) for p in range(slots.batches * slots.questions) for m in range(slots.group)}
        assert set(trained(run)) == expected and not run.buffer.open and not run.buffer.waiting
    placed = Counter((g.place, m) for g in run.admitted for m in g.members)
    left = Counter((g.place, m) for g in run.buffer.queue for m in g.members)
    assert all(placed[key] >= 1 for key in left), "only what was begun is in the queue"


@settings(deadline=None, max_examples=100)
@given(SLOTS, st.integers(1, 4))
def test_shares_are_the_whole(slots, count):
    whole = replace(slots, questions=slots.questions * count)
    shares = [whole.share(index, count) for index in range(count)]
    assert max(share.bound for share in shares) <= whole.bound
    assert sum(share.refill for share in shares) == whole.refill
    dealt = sorted(share.place(n) for share in shares for n in range(3 * slots.questions))
    assert dealt == list(range(3 * whole.questions))
    for share in shares:  # each step's places are dealt, as where nothing is sampled ahead
        steps = {share.place(n) // whole.questions for n in range(slots.questions)}
        assert steps == {0}


@pytest.mark.parametrize(
    ("staleness", "window", "bound"), [(0, 1, 0), (1, 1, 1), (1, 2, 2), (1, 5, 2), (2, 6, 4)]
)
def test_the_bound_is_reached(staleness, window, bound):
    """One group is slow: it ends as late as it may."""
    slots = Slots(questions=4, group=2, staleness=staleness, window=window)
    assert slots.bound == bound
    worst = 0
    for slow in range(4, 4 * (staleness + 2)):
        buffer, version, ages = Buffer(slots), 0, {}
        while version < 8:
            while buffer.admit() is not None:
                pass
            for group in buffer.open:
                if group.number != slow:
                    buffer.finish(group.number, group.members)
            groups = buffer.take()
            if groups is None:
                buffer.finish(slow, next(g for g in buffer.open if g.number == slow).members)
                continue
            ages |= {group.number: version - group.version for group in groups}
            version += 1
            buffer.publish(version)
        worst = max(worst, *ages.values())
    assert worst == bound


@settings(deadline=None, max_examples=60)
@given(SLOTS, st.lists(st.integers(0, 59), max_size=120), st.integers(0, 120), st.booleans())
def test_a_log_brings_the_buffer_back(slots, choices, at, split):
    """Stopped after so many events and read again, it goes on as if it had not stopped."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Run(slots, GroupLog(Path(folder) / "a", Buffer(slots)), split)
        parted = Run(slots, GroupLog(Path(folder) / "b", Buffer(slots)), split)
        for number, choice in enumerate(choices):
            if number == at:
                parted.book.close()
                parted.book = GroupLog(Path(folder) / "b", Buffer(slots))
                parted.buffer = parted.book.buffer
                parted.buffer.publish(parted.version)
                assert vars(parted.buffer) == vars(whole.buffer)
            assert parted.step(choice) == whole.step(choice)
        assert vars(parted.buffer) == vars(whole.buffer) and parted.trained == whole.trained
        assert parted.book.consumed == whole.book.consumed == whole.trained
        whole.book.close()
        parted.book.close()


def test_what_is_left_of_a_group_is_in_the_next_one():
    buffer = Buffer(Slots(questions=1, group=4, staleness=1))
    first, second = buffer.admit(), buffer.admit()
    assert buffer.admit() is None
    buffer.finish(first.number, (0, 2, 3))
    assert [g.members for g in buffer.take()] == [(0, 2, 3)]
    buffer.publish(1)
    third = buffer.admit()
    assert (third.place, third.members, third.version) == (first.place, (1, 4, 5, 6), 1)
    buffer.replace(third.number, (5, 6))
    fourth = buffer.admit()
    assert (fourth.place, fourth.members) == (first.place, (1, 4, 7, 8))
    buffer.finish(second.number, second.members)
    buffer.finish(fourth.number, fourth.members)
    buffer.take()
    buffer.publish(2)
    assert buffer.admit().place == second.place + 1


def test_a_damaged_log_is_not_guessed_at(tmp_path):
    log = GroupLog(tmp_path, Buffer(Slots(questions=2, group=2)))
    while log.admit():
        pass
    log.finish(0, (0, 1))
    log.close()
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])  # killed in the middle of the last line
    assert len(GroupLog(tmp_path, Buffer(Slots(questions=2, group=2))).buffer.open) == 2
    path.write_bytes(whole.replace(b'"place": 1', b'"place": 7'))
    with pytest.raises(DataError, match=r"groups\.jsonl:2: a damaged line \(it does not fit its checksum\)"):
        GroupLog(tmp_path, Buffer(Slots(questions=2, group=2)))
    path.write_bytes(b"")
    with checked_lines.open_for_append(path) as file:
        checked_lines.append(file, {"event": "consumed", "step": 0, "groups": [1]})
    with pytest.raises(DataError, match=r"groups\.jsonl:1: .* and step 0 had None"):
        GroupLog(tmp_path, Buffer(Slots(questions=2, group=2)))
