"""The pool's bookkeeping, against a model of what the device's pages then hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirothinker_jax.rollout.local.pages import OutOfPages, Pages

SIZE, COUNT = 4, 12


class Device:
    """Pages and leases together with what every page really holds: (version, the whole context up to a token), by
    place, as copies and writes put it there."""

    def __init__(self, count=COUNT):
        self.pages, self.held = Pages(count, SIZE), np.full((count, SIZE), None, object)
        self.sequences, self.version, self.now = [], 0, 1

    def check(self):
        """No page leaks, none is two things at once, and a lease's tokens lie where it says."""
        pool = self.pages
        used = [n.page for n in pool._idle] + pool._free
        nodes = {id(n): n for lease, _, _ in self.sequences for n in lease.nodes}
        for node in nodes.values():
            assert node.references == sum(node in lease.nodes for lease, _, _ in self.sequences)
        used += [n.page for n in nodes.values()] + [p for lease, _, _ in self.sequences for p in lease.own]
        assert sorted(used) == list(range(pool.count))
        assert all(n.references == 0 for n in pool._idle)
        order = list(pool._idle)
        for i, node in enumerate(order):  # a page goes before the one that leads to it
            if node.parent in order:
                assert order.index(node.parent) > i
        for lease, ids, version in self.sequences:
            for place in range(lease.length):
                page = lease.pages[place // SIZE]
                assert self.held[page, place % SIZE] == (version, tuple(ids[: place + 1]))

    def begin(self, ids):
        """A sequence's context: all but the last token may be found; the rest is written."""
        lease = self.pages.lease(self.version)
        copy = self.pages.extend(lease, ids[:-1], self.now)
        if copy is not None:
            self.held[copy.target] = self.held[copy.source]
        self.sequences.append((lease, ids, self.version))
        self.check()
        if self.write(len(self.sequences) - 1, len(ids) - lease.length) is None:
            self.end(len(self.sequences) - 1, keep=False)
        self.now += 1
        return lease

    def write(self, index, count):
        lease, ids, version = self.sequences[index]
        try:
            self.pages.grow(lease, count)
        except OutOfPages:
            return None
        for place in range(lease.length, lease.length + count):
            self.held[lease.pages[place // SIZE], place % SIZE] = (version, tuple(ids[: place + 1]))
        lease.length += count
        self.pages.commit(lease, ids, self.now)
        return count

    def decode(self, index, ids):
        lease, known, version = self.sequences[index]
        ids = np.concatenate([known, ids])
        self.sequences[index] = (lease, ids, version)
        if self.write(index, len(ids) - len(known)) is None:
            self.sequences[index] = (lease, known, version)
        self.now += 1

    def end(self, index, keep=True):
        lease, ids, _ = self.sequences.pop(index)
        self.pages.release(lease, ids, self.now - 1, keep)


def tokens(*values):
    return np.asarray(values, np.int32)


few = st.lists(st.integers(0, 1), min_size=1, max_size=14)
steps = st.one_of(
    st.tuples(st.just("begin"), few),
    st.tuples(st.just("decode"), st.integers(0, 9), few),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("publish")),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=30))
def test_no_page_leaks_and_none_is_freed_or_written_while_in_use(history):
    """Contexts over two tokens, so that they often agree; a pool so small that pages must go."""
    device = Device()
    for step in history:
        live = len(device.sequences)
        match step:
            case ("begin", ids):
                device.begin(tokens(*ids))
            case ("decode", i, ids) if live:
                device.decode(i % live, tokens(*ids))
            case ("end", i, keep) if live:
                device.end(i % live, keep)
            case ("publish",):
                device.version += 1
                device.pages.drop_versions(device.version)
        device.check()
    while device.sequences:
        device.end(0)
    device.check()
    assert device.pages.available == COUNT


def found(device, ids):
    """How many tokens of a context are found; nothing is written."""
    lease = device.pages.lease(device.version)
    copy = device.pages.extend(lease, tokens(*ids), device.now)
    length = lease.length
    device.pages.release(lease, tokens(*ids), device.now - 1, keep=False)
    return length, copy is not None


def test_the_longest_common_prefix_is_found():
    device = Device()
    device.begin(tokens(*range(10)))
    assert found(device, range(8)) == (8, False)  # whole pages are shared while their writer is at work
    assert found(device, range(10)) == (8, False)  # the page that is not full is its own
    assert found(device, [0, 1, 2, 3, 4, 5, 99]) == (6, True)  # what agrees of a page is copied
    assert found(device, [1, 2, 3]) == (0, False)
    device.end(0)
    assert found(device, [*range(9), 99]) == (9, True)
    assert found(device, [*range(10), 99]) == (10, False)  # nobody's page is taken over


def test_what_a_dispatch_writes_is_shared_in_it_but_not_copied():
    device = Device()
    device.begin(tokens(*range(8)))
    lease = device.pages.lease(0)
    assert device.pages.extend(lease, tokens(*range(4), 4, 5, 9), device.now - 1) is None
    assert lease.length == 4


def test_another_version_finds_nothing_and_the_old_ones_pages_are_free():
    device = Device()
    device.begin(tokens(*range(10)))
    device.begin(tokens(*range(6)))
    device.end(0)
    device.version = 1
    device.pages.drop_versions(1)
    assert found(device, range(10)) == (0, False)
    assert device.pages.available == COUNT - 2
    device.end(0)
    assert device.pages.available == COUNT


def test_the_least_recently_used_goes_first():
    device = Device(4)
    for first in (10, 20):
        device.begin(tokens(*range(first, first + 8)))
        device.end(0)
    assert found(device, range(10, 18)) == (8, False)  # and is used now
    device.begin(tokens(1, 2, 3, 4))
    assert found(device, range(10, 18)) == (8, False) and found(device, range(20, 28)) == (4, False)


def test_more_than_there_is_changes_nothing():
    device = Device(2)
    device.begin(tokens(*range(8)))
    lease = device.pages.lease(0)
    with pytest.raises(OutOfPages, match="1 pages are wanted, 0 of 2 are free"):
        device.pages.grow(lease, 1)
    assert lease.pages == []
