"""The pool's bookkeeping, against a model of what the device's pages then hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirothinker_jax.rollout.local.pages import NOWHERE, OutOfPages, Pages, _below

SIZE, COUNT = 4, 12


class Device:
    """Pages and leases together with what every page really holds: (version, the whole context up to a token), by
    place, as copies and writes put it there. A dispatch is in the order of the engine's: what leaves for the host,
    copies, what comes back, writes. What left arrives a dispatch later."""

    def __init__(self, count=COUNT, host=0):
        self.pages, self.held = Pages(count, SIZE, host=host), np.full((count, SIZE), None, object)
        self.sequences, self.version, self.now, self.flying = [], 0, 1, []

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
        known = {node for root in pool._roots.values() for node in _below(root)}
        assert len(pool.host._kept) <= pool.host.count and pool.host._kept.keys() <= known
        for root in pool._roots.values():
            for node in _below(root):  # whoever is not on the device is on the host, below those that are
                assert node.page != NOWHERE or (node in pool.host and not node.references)
                above = node.parent
                assert above is not None and (node.page == NOWHERE or above is root or above.page != NOWHERE)

    def begin(self, *contexts, preempt=False):
        """Contexts of sequences, in one dispatch: all but the last token may be found; the rest is written. `preempt`:
        the last one gives way again, before anything is written. How many pages came back."""
        begun, copies, writes = [], [], []
        for ids in contexts:
            lease = self.pages.lease(self.version)
            copies.append(self.pages.extend(lease, ids[:-1], self.now, from_host=True))
            begun.append((lease, ids, self.version))
        if preempt:
            lease, ids, _ = begun.pop()
            self.pages.release(lease, ids, self.now)
        failed = []
        for sequence in begun:
            lease, ids, _ = sequence
            copies.append(self.pages.extend(lease, ids[:-1], self.now, from_host=True))
            if not self.plan(sequence, len(ids), writes):
                failed.append(sequence)
        came = self.dispatch(copies, writes)
        self.sequences += begun
        self.check()
        for lease, *_ in failed:
            self.end(next(i for i, s in enumerate(self.sequences) if s[0] is lease), keep=False)
        return came

    def plan(self, sequence, end, writes):
        """Room for the sequence's tokens up to `end`, and what is written there; False: there is none."""
        lease, ids, version = sequence
        first = lease.length
        try:
            self.pages.grow(lease, end - first, self.now)
        except OutOfPages:
            return False
        lease.length = end
        self.pages.commit(lease, ids, self.now)
        writes += [
            (lease.pages[i // SIZE], i % SIZE, (version, tuple(ids[: i + 1]))) for i in range(first, end)
        ]
        return True

    def dispatch(self, copies, writes):
        leaving, coming = self.pages.host.moves()
        carried = [(node, self.held[page].copy()) for node, page in leaving]
        for copy in copies:
            if copy is not None:
                self.held[copy.target] = self.held[copy.source]
        for page, content in coming:
            self.held[page] = content
        for page, place, content in writes:
            self.held[page, place] = content
        self.now += 1
        for node, content in self.flying:
            self.pages.host.arrive(node, content)
        self.flying = carried
        return len(coming)

    def decode(self, index, ids):
        lease, known, version = self.sequences[index]
        longer, writes = (lease, np.concatenate([known, ids]), version), []
        if self.plan(longer, len(longer[1]), writes):
            self.sequences[index] = longer
        self.dispatch([], writes)

    def end(self, index, keep=True):
        lease, ids, _ = self.sequences.pop(index)
        self.pages.release(lease, ids, self.now - 1, keep)


def tokens(*values):
    return np.asarray(values, np.int32)


few = st.lists(st.integers(0, 1), min_size=1, max_size=14)
steps = st.one_of(
    st.tuples(st.just("begin"), st.lists(few, min_size=1, max_size=3), st.booleans()),
    st.tuples(st.just("decode"), st.integers(0, 9), few),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans()),
    st.tuples(st.just("publish")),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=30), st.sampled_from([0, 1, 5, 40]))
def test_no_page_leaks_and_none_is_freed_or_written_while_in_use(history, host):
    """Contexts over two tokens, so that they often agree; a pool so small that pages must go, to a host with some room
    or none."""
    device = Device(host=host)
    for step in history:
        live = len(device.sequences)
        match step:
            case ("begin", contexts, preempt):
                device.begin(*(tokens(*ids) for ids in contexts), preempt=preempt)
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


@pytest.mark.parametrize("host", [1, 4, 20])
def test_pages_come_back_whole_however_they_went(host):
    """Contexts of one stem each, so many at once that pages go and come back all the time."""
    rng, device = np.random.default_rng(host), Device(host=host)
    stems, came = rng.integers(0, 2, (5, 16)), 0
    for _ in range(1500):
        while len(device.sequences) > rng.integers(0, 3):
            device.end(int(rng.integers(len(device.sequences))), keep=rng.random() < 0.8)
        contexts = []
        for _ in range(rng.integers(1, 4)):
            stem = stems[rng.integers(5), : rng.integers(1, 17)]
            contexts.append(tokens(*stem, *rng.integers(0, 2, rng.integers(1, 4))))
        came += device.begin(*contexts, preempt=rng.random() < 0.3)
        if rng.random() < 0.02:
            device.version += 1
            device.pages.drop_versions(device.version)
        device.check()
    assert came > 20


def found(device, ids, from_host=False):
    """How many tokens of a context are found; nothing is written."""
    lease = device.pages.lease(device.version)
    copy = device.pages.extend(lease, tokens(*ids), device.now, from_host=from_host)
    device.dispatch([copy], [])
    length = lease.length
    device.pages.release(lease, tokens(*ids), device.now - 1, keep=False)
    return length, copy is not None


def test_what_had_to_go_comes_back_from_the_host_as_far_as_it_has_room():
    """Whole pages, and the part of one that agrees."""
    device = Device(4, host=3)
    for first in (10, 30):
        device.begin(tokens(*range(first, first + 14)))
        device.end(0)
        device.begin(tokens(1))  # a dispatch later it has arrived
        device.end(0, keep=False)
    assert found(device, range(10, 24)) == (0, False)
    assert found(device, [*range(10, 16), 99], from_host=True) == (6, False)
    assert found(device, range(10, 24), from_host=True) == (8, False)  # two more were too many
    assert device.pages.available == 4


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
        device.pages.grow(lease, 1, device.now)
    assert lease.pages == []


def test_what_comes_back_for_a_turn_that_gives_way_is_not_written_over_who_takes_its_page():
    device = Device(count=2, host=4)
    first, second = tokens(1, 1, 1, 1, 1), tokens(0, 0, 0, 0)
    device.begin(first)
    device.end(0)
    device.begin(second)
    device.begin(tokens(2, 2))  # the last page of the first context leaves
    device.end(1, keep=False)
    device.dispatch([], [])
    gives_way = device.pages.lease(device.version)
    device.pages.extend(gives_way, first[:-1], device.now, from_host=True)
    assert gives_way.length == 4
    device.pages.release(gives_way, first, device.now)
    device.begin(tokens(0, 0, 1))  # two tokens of it are copied
