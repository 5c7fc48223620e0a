"""Which page of the device's memory holds which tokens' keys and values: bookkeeping on the host, without a device.

A page whose tokens are known is a node of a tree: its parent is the page before it, its name are its own tokens. A
context finds what is computed of it by walking down from the root of the policy version. So members of a group share
their prompt, a conversation finds its earlier turns, and an edited context keeps what precedes the edit, all by the
same look-up. Sequences keep nothing between turns: pages that nobody uses stay in the tree until their room is needed,
the least recently used first.

Only whole pages are shared as they are, since whoever holds one may not write to it. Of a page that agrees in part,
the tokens that agree are copied into a page of one's own; one that nobody uses is taken over without a copy, if all of
its tokens agree.

Names are compared token by token, so no two contexts are ever taken for one another.

With room in the host's memory (host.py), a page that has to go leaves its node in the tree, and comes back when a
context finds it. Nodes on the device are always above those that are not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mirothinker_jax.rollout.local.host import HostPages

NOWHERE = -1  # the page of a node that is not on the device


class OutOfPages(Exception):
    """Every page is in use."""


@dataclass(eq=False)
class Node:
    """A page of known tokens. `since` is the dispatch that wrote it there; `routes` are its tokens', where they are
    kept."""

    parent: Node | None
    ids: bytes  # int32, at most a page of them
    page: int
    since: int
    routes: np.ndarray | None = None  # int16 [page, L, k]
    references: int = 0
    children: dict[int, dict[bytes, Node]] = field(default_factory=dict)  # by first token, then by all


@dataclass(eq=False)
class Lease:
    """The pages of a sequence at work: shared ones, of the tree, and then its own. `length` tokens are computed, or
    will be by what was dispatched."""

    root: Node
    nodes: list[Node] = field(default_factory=list)
    own: list[int] = field(default_factory=list)
    own_routes: list[np.ndarray | None] = field(default_factory=list)
    length: int = 0

    @property
    def pages(self) -> list[int]:
        """In the order of the tokens."""
        return [node.page for node in self.nodes] + self.own

    @property
    def routes(self) -> list[np.ndarray | None]:
        """Of every page."""
        return [node.routes for node in self.nodes] + self.own_routes

    @property
    def last(self) -> Node:
        """The node that the next one hangs from."""
        return self.nodes[-1] if self.nodes else self.root


@dataclass(frozen=True)
class Copy:
    """The first tokens of a page that are to be copied on the device, before anything else is written."""

    source: int
    target: int
    source_routes: np.ndarray | None
    target_routes: np.ndarray | None


class Pages:
    """A pool of `count` pages of `size` tokens. `routes` is the (L, k) of what is kept beside them, if anything; `host`
    the number of pages that the host's memory has room for."""

    def __init__(self, count: int, size: int, routes: tuple[int, int] | None = None, host: int = 0):
        self.count, self.size, self._routes, self.host = count, size, routes, HostPages[Node](host)
        self.clear()

    def clear(self) -> None:
        """Forgets everything, of all versions: no lease may be alive."""
        self._free = list(range(self.count))[::-1]
        self._idle: OrderedDict[Node, None] = OrderedDict()  # nobody's, in the order in which they may go
        self._roots: dict[int, Node] = {}
        self.host.clear()

    @property
    def available(self) -> int:
        """Pages that can be had."""
        return len(self._free) + len(self._idle)

    def lease(self, version: int) -> Lease:
        """An empty one, of contexts that this version of the policy computes."""
        return Lease(self._roots.setdefault(version, Node(None, b"", -1, 0)))

    def drop_versions(self, current: int) -> None:
        """Frees what only other versions' contexts could find; of what is in use, when its lease ends."""
        for version in [v for v in self._roots if v != current]:
            for node in list(_below(self._roots.pop(version))):
                self.host.drop(node)
                if node.references == 0:
                    self._remove(node)
                    if node.page != NOWHERE:
                        self._free.append(node.page)

    def extend(
        self, lease: Lease, ids: np.ndarray, now: int, whole_pages: bool = False, from_host: bool = False
    ) -> Copy | None:
        """Adds to the lease what is computed of `ids` (int32; all of them may be found) beyond its length.

        A lease that ends within a page stays as it is. `now` is the dispatch that is being planned: what it writes
        itself can be shared, but not be copied. With `whole_pages` nothing is taken of a page that agrees in part.
        With `from_host`, what is in the host's memory comes back, as far as there are pages for it.
        """
        if lease.length % self.size or lease.own:
            return None
        while lease.length + self.size <= len(ids):
            name = ids[lease.length : lease.length + self.size]
            node = lease.last.children.get(int(name[0]), {}).get(name.tobytes())
            if node is None or not (node.page != NOWHERE or (from_host and self._come(node, now))):
                break
            self._hold(node)
            lease.nodes.append(node)
            lease.length += self.size
        rest = ids[lease.length : lease.length + self.size]
        if whole_pages or not len(rest):
            return None
        best, agreed = None, 0
        for node in lease.last.children.get(int(rest[0]), {}).values():
            theirs = np.frombuffer(node.ids, np.int32)[: len(rest)]
            same = shared(theirs, rest[: len(theirs)])
            there = node.page != NOWHERE or (from_host and self.host.content(node) is not None)
            if same > agreed and node.since < now and there:
                best, agreed = node, same
        if best is None:
            return None
        if best.page == NOWHERE:
            self._come_in_part(best, agreed, lease, now)
            return None
        if best.references == 0 and len(best.ids) == 4 * agreed and agreed < self.size:
            self._remove(best)
            lease.own, lease.own_routes, lease.length = [best.page], [best.routes], lease.length + agreed
            return None
        self._hold(best)  # or its own page might be the one that goes
        try:
            self.grow(lease, 1, now)
        except OutOfPages:
            return None
        finally:
            self._let_go(best)
        lease.length += agreed
        return Copy(best.page, lease.own[0], best.routes, lease.own_routes[0])

    def _come(self, node: Node, now: int) -> bool:
        """Whether the node comes back from the host."""
        if self.host.content(node) is None or not self.available:
            return False
        page = self._page(now, wanted=node)
        self.host.come(node, page)
        node.page, node.since = page, now
        return True

    def _come_in_part(self, node: Node, agreed: int, lease: Lease, now: int) -> None:
        """The first tokens of a page come back from the host, into one of the lease's own."""
        if not self.available:
            return
        lease.own = [self._page(now, wanted=node)]
        lease.own_routes = [None if node.routes is None else node.routes.copy()]
        self.host.come(node, lease.own[0])
        lease.length += agreed

    def missing(self, lease: Lease, tokens: int) -> int:
        """Pages that `tokens` more would take."""
        return max(0, -(-(lease.length + tokens) // self.size) - len(lease.nodes) - len(lease.own))

    def grow(self, lease: Lease, tokens: int, now: int) -> None:
        """Makes room for `tokens` more. Raises OutOfPages, and then changes nothing."""
        wanted = self.missing(lease, tokens)
        if wanted > self.available:
            raise OutOfPages(f"{wanted} pages are wanted, {self.available} of {self.count} are free")
        for _ in range(wanted):
            lease.own.append(self._page(now))
            shape = None if self._routes is None else (self.size, *self._routes)
            lease.own_routes.append(None if shape is None else np.full(shape, -1, np.int16))

    def _page(self, now: int, wanted: Node | None = None) -> int:
        """A page that nobody uses, though somebody may have. `wanted` does not go to make room for what was in it."""
        if self._free:
            page = self._free.pop()
        else:
            oldest = next(iter(self._idle))
            page = oldest.page
            # What this dispatch writes is not there yet: it cannot leave.
            if self.host.count and (oldest in self.host or oldest.since < now):
                del self._idle[oldest]
                oldest.page = NOWHERE
                for node in self.host.leave(oldest, page, wanted):
                    if node.page == NOWHERE:
                        assert not node.children, (
                            "a page leaves after all that follow it, and so is forgotten later"
                        )
                        self._remove(node)
            else:
                self._remove(oldest)
        self.host.taken(page)
        return page

    def commit(self, lease: Lease, ids: np.ndarray, now: int) -> None:
        """Puts the lease's own pages that are full into the tree. `ids`, int32, are its tokens as far as they are known
        and computed."""
        while lease.own and (len(lease.nodes) + 1) * self.size <= min(len(ids), lease.length):
            start = len(lease.nodes) * self.size
            name, page = ids[start : start + self.size], lease.own.pop(0)
            routes = lease.own_routes.pop(0)
            node = lease.last.children.get(int(name[0]), {}).get(name.tobytes())
            if node is None:
                node = self._add(lease.last, name, page, routes, now)
            elif node.page == NOWHERE:  # it was computed again
                node.page, node.since = page, now
            else:  # somebody computed the same meanwhile
                self._free.append(page)
            self._hold(node)
            lease.nodes.append(node)

    def release(self, lease: Lease, ids: np.ndarray, now: int, keep: bool = True) -> None:
        """Ends the lease. With `keep`, what is computed of `ids` can be found again, the page that is not full too."""
        findable = lease.root in self._roots.values()
        if keep and findable:
            self.commit(lease, ids, now)
            rest = ids[len(lease.nodes) * self.size : lease.length]
            if lease.own and len(rest):
                name = rest.tobytes()
                if name not in lease.last.children.get(int(rest[0]), {}):
                    node = self._add(lease.last, rest, lease.own.pop(0), lease.own_routes.pop(0), now)
                    self._idle[node] = None
        self._free += lease.own
        for node in reversed(lease.nodes):  # so that a page always goes before the one that leads to it
            self._let_go(node, findable)
        lease.nodes, lease.own, lease.own_routes, lease.length = [], [], [], 0

    def _add(self, parent: Node, ids: np.ndarray, page: int, routes: np.ndarray | None, now: int) -> Node:
        node = Node(parent, ids.tobytes(), page, now, routes)
        parent.children.setdefault(int(ids[0]), {})[node.ids] = node
        return node

    def _remove(self, node: Node) -> None:
        """From the tree; the page is the caller's."""
        assert node.references == 0 and node.parent is not None
        self._idle.pop(node, None)
        self.host.drop(node)
        first = int(np.frombuffer(node.ids, np.int32)[0])
        siblings = node.parent.children.get(first, {})
        siblings.pop(node.ids, None)
        if not siblings:
            node.parent.children.pop(first, None)

    def _hold(self, node: Node) -> None:
        node.references += 1
        self._idle.pop(node, None)

    def _let_go(self, node: Node, findable: bool = True) -> None:
        node.references -= 1
        if node.references == 0:
            self._idle[node] = None
            if not findable:
                self._remove(node)
                self._free.append(node.page)


def shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two arrays of one length have in common from the start on."""
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else len(a)


def _below(node: Node) -> Iterator[Node]:
    """All nodes under this one, children before their parents."""
    for siblings in list(node.children.values()):
        for child in list(siblings.values()):
            yield from _below(child)
            yield child
