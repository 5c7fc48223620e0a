"""One step after the other: the schedule's plan becomes arrays for the device, and what it sampled becomes turns.

Nothing here waits. `send` dispatches a step and returns at once; `read` waits for the device, and belongs in a thread;
`apply` takes what was read. A step may be sent before the last one is applied: what is not known yet is bounded, and
rows that ended meanwhile do nothing on the device, which runs steps in their order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import jax
import numpy as np

from mirothinker_jax.agent.policy import Sampling, Turn
from mirothinker_jax.rollout.local.device import CARRIED, Device, Sampled
from mirothinker_jax.rollout.local.pages import Copy, Lease, Node, Pages
from mirothinker_jax.rollout.local.schedule import Limits, bucket, plan
from mirothinker_jax.rollout.local.turns import Running
from mirothinker_jax.rollout.sampling import Settings


@dataclass(frozen=True)
class Block:
    """A stretch of a context: `count` tokens from `place` on; `last`: its row begins after it. `routes` are those of
    its pages, from the one with its first token on."""

    turn: Running
    lease: Lease
    place: int
    count: int
    last: bool
    routes: list[np.ndarray | None]


@dataclass(frozen=True)
class Work:
    """A step that was sent: whose every row is (None: nobody's), and where the device leaves what it sampled."""

    version: int
    copies: list[Copy]
    rows: list[tuple[Running, Lease] | None]
    decoded: Sampled | None
    blocks: list[Block | None]
    fed: Sampled | None
    leaving: list[list[Node]]  # of each shard, whose pages leave for the host, `carried` in batches
    carried: list[jax.Array]


class Steps:
    """The turns of a device, those that wait and those at work."""

    def __init__(self, device: Device, version: int = 0):
        config, c = device.config, device.model.config
        kept = (c.layers, c.moe.experts_per_token) if device.record_routes else None
        self._device, self.version, self._now = device, version, 1
        self._pages = [
            Pages(device.pages, config.page_tokens, kept, device.host_pages) for _ in range(device.shards)
        ]
        self._rows = [list(range(device.rows))[::-1] for _ in range(device.shards)]
        self._active: list[list[Running]] = [[] for _ in range(device.shards)]  # of each shard, oldest first
        self._waiting: deque[Running] = deque()
        self._limits = Limits(config.prefill_tokens, device.blocks, config.page_tokens)
        self.sampled_tokens = self.fed_tokens = self.preemptions = self._count = self.restored_pages = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to send or to wait for."""
        return bool(self._waiting) or any(self._active)

    @property
    def turns(self) -> list[Running]:
        """All of them, those at work first."""
        return [turn for active in self._active for turn in active] + [*self._waiting]

    def add(self, turn: Running) -> None:
        """A turn waits from now on."""
        turn.number = self._count = self._count + 1
        self._waiting.append(turn)

    def drop(self, turn: Running) -> None:
        """Nobody waits for the turn any more; what is computed of it can be found."""
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.lease is not None and turn in self._active[turn.shard]:
            self._leave(turn)

    def publish(self, version: int) -> None:
        """The policy is another one from now on: turns at work keep their tokens, and are fed again. Nothing may be
        unread."""
        assert version != self.version, f"the policy is at version {version} already"
        self._wait_again()
        self.version = version
        for pages in self._pages:
            pages.drop_versions(version)

    def clear(self) -> None:
        """The pages are gone: turns at work keep their tokens, and are fed again. Nothing may be unread."""
        self._wait_again()
        for pages in self._pages:
            pages.clear()

    def _wait_again(self) -> None:
        again = [turn for active in self._active for turn in active]
        for turn in again:
            self._leave(turn, keep=False)
        self._waiting.extendleft(sorted(again, key=lambda t: -t.number))

    def _leave(self, turn: Running, keep: bool = True, planned: bool = False) -> None:
        """Gives back the row and the pages; `planned`: some of what these hold may be of the dispatch being planned."""
        assert turn.lease is not None
        # Sampled tokens' keys are of another shape of computation than a context's.
        keep = keep and not self._device.config.deterministic
        self._pages[turn.shard].release(turn.lease, turn.context, self._now - (not planned), keep)
        self._rows[turn.shard].append(turn.row)
        self._active[turn.shard].remove(turn)
        turn.row, turn.lease, turn.fed, turn.unread = -1, None, False, 0

    def _admit(self) -> None:
        """Rows to those who wait, on the shard with the fewest turns at work, as long as a context fits there."""
        while self._waiting:
            turn = self._waiting[0]
            open_shards = [s for s, rows in enumerate(self._rows) if rows]
            if not open_shards:
                return
            shard = min(open_shards, key=lambda s: len(self._active[s]))
            pages, wanted = self._pages[shard], turn.known + self._device.config.decode_steps
            lease = pages.lease(self.version)
            pages.extend(lease, turn.context[:-1], self._now, whole_pages=True)
            if self._active[shard] and pages.missing(lease, wanted - lease.length) > pages.available:
                pages.release(lease, turn.context, self._now - 1, keep=False)
                return
            turn.shard, turn.row, turn.lease = shard, self._rows[shard].pop(), lease
            self._active[shard].append(turn)
            self._active[shard].sort(key=lambda t: t.number)  # one that had to give way was there before
            self._waiting.popleft()

    def send(self) -> Work | None:
        """Plans and dispatches a step; None: there is nothing to do before what is unread is read."""
        self._admit()
        copies: list[list[Copy]] = []
        blocks: list[list[Block]] = []
        rows: list[list[Running]] = []
        for shard, pages in enumerate(self._pages):
            copies.append([])
            active = list(self._active[shard])
            for turn in active:
                self._extend(turn, copies[-1])
            views = [t.view(self._limits.page, self._device.config.decode_steps) for t in active]
            chosen = plan(views, pages.available, self._limits)
            for index in chosen.preempt:  # the youngest first, so that the oldest is the first to come back
                self._preempt(active[index])
            for index in chosen.sample:
                pages.grow(_lease(active[index]), views[index].ahead, self._now)
            rows.append([active[index] for index in chosen.sample])
            blocks.append([])
            for index, tokens in chosen.feed:
                blocks[-1] += self._stretch(active[index], tokens, copies[-1])
        moves = [pages.host.moves() for pages in self._pages]
        leaving, coming = [out for out, _ in moves], [back for _, back in moves]
        if not any((*rows, *blocks, *copies, *leaving, *coming)):
            return None
        self._now += 1
        carried = self._device.carry_out([[page for _, page in part] for part in leaving])
        if any(copies):
            self._device.copy([[(c.source, c.target) for c in part] for part in copies])
        self._device.carry_in(coming)
        self.restored_pages += sum(map(len, coming))
        every_row, decoded = self._decode(rows)
        every_block, fed = self._feed(blocks)
        flat = [c for part in copies for c in part]
        nodes = [[node for node, _ in part] for part in leaving]
        return Work(self.version, flat, every_row, decoded, every_block, fed, nodes, carried)

    def _extend(self, turn: Running, copies: list[Copy]) -> None:
        if not turn.fed:
            whole, pages, lease = self._device.config.deterministic, self._pages[turn.shard], _lease(turn)
            # What comes back takes pages: not before the whole context has room.
            room = pages.missing(lease, turn.known - lease.length) <= pages.available
            copy = pages.extend(lease, turn.context[:-1], self._now, whole, from_host=room)
            copies += [] if copy is None else [copy]

    def _preempt(self, turn: Running) -> None:
        self.preemptions += 1
        self._leave(turn, planned=True)
        if self._device.config.deterministic:
            turn.restart()  # a sampled token that was fed as context would differ in its last bits
        self._waiting.appendleft(turn)

    def _stretch(self, turn: Running, tokens: int, copies: list[Copy]) -> list[Block]:
        """Blocks of up to `tokens` of the turn's context. What the blocks before it hold is not fed again."""
        lease, pages, block, page = (
            _lease(turn),
            self._pages[turn.shard],
            self._limits.block,
            self._limits.page,
        )
        self._extend(turn, copies)
        first = lease.length
        end = min(first + tokens, turn.known)
        pages.grow(lease, end - first, self._now)
        lease.length, turn.fed = end, end == turn.known
        turn.unread += turn.fed
        self.fed_tokens += end - first
        routes = lease.routes
        blocks = [
            Block(turn, lease, p, min(block, end - p), turn.fed and p + block >= end, routes[p // page :])
            for p in range(first, end, block)
        ]
        pages.commit(lease, turn.context, self._now)
        return blocks

    def _decode(self, rows: list[list[Running]]) -> tuple[list[tuple[Running, Lease] | None], Sampled | None]:
        if not any(rows):
            return [], None
        device, steps = self._device, self._device.config.decode_steps
        size = bucket(max(map(len, rows)), device.decode_rows)
        every: list[tuple[Running, Lease] | None] = [None] * (size * device.shards)
        index, tables = np.full(len(every), device.config.slots, np.int32), device.table(len(every))
        for shard, part in enumerate(rows):
            for i, turn in enumerate(part, shard * size):
                every[i] = turn, _lease(turn)
                index[i] = shard * device.rows + turn.row
                tables[i, : len(_lease(turn).pages)] = _lease(turn).pages
                turn.unread += steps
        return every, device.decode(index, tables)

    def _feed(self, blocks: list[list[Block]]) -> tuple[list[Block | None], Sampled | None]:
        if not any(blocks):
            return [], None
        device = self._device
        size = bucket(max(map(len, blocks)), device.feed_rows)
        every: list[Block | None] = [None] * (size * device.shards)
        for shard, part in enumerate(blocks):
            every[shard * size : shard * size + len(part)] = part
        count = len(every)
        tokens, tables = np.zeros((count, self._limits.block), np.int32), device.table(count)
        places, start = np.full_like(tokens, -1), device.start(count)
        settings: list[tuple[Sampling, int]] = [(Sampling(), 0)] * count
        seen: list[np.ndarray | None] = [None] * count
        for i, block in enumerate(every):
            if block is None:
                continue
            turn, stretch = block.turn, slice(block.place, block.place + block.count)
            tokens[i, : block.count] = turn.ids[stretch]
            places[i, : block.count] = np.arange(stretch.start, stretch.stop)
            tables[i, : len(block.lease.pages)] = block.lease.pages
            if block.last:
                sampling = turn.request.sampling
                start.row[i] = turn.shard * device.rows + turn.row
                start.last[i], start.budget[i] = block.count - 1, turn.left
                start.stop_ids[i, : len(turn.request.stop_ids)] = turn.request.stop_ids
                settings[i] = sampling, turn.request.seed
                seen[i] = turn.context if sampling.repetition_penalty != 1 else None
        start = start._replace(settings=Settings.rows(settings), seen=device.seen(seen, count))
        return every, device.feed(tokens, places, tables, start)

    def read(self, work: Work) -> tuple[Sampled | None, Sampled | None, list[tuple[int, Node, np.ndarray]]]:
        """What the step sampled, and the pages of each (shard, node) that left, on the host. Waits for the device;
        changes nothing."""
        contents = [np.asarray(batch) for batch in work.carried]
        arrived = [
            (shard, node, contents[i // CARRIED][:, shard * CARRIED + i % CARRIED].copy())
            for shard, nodes in enumerate(work.leaving)
            for i, node in enumerate(nodes)
        ]
        return *jax.tree.map(np.asarray, (work.decoded, work.fed)), arrived

    def apply(
        self,
        work: Work,
        decoded: Sampled | None,
        fed: Sampled | None,
        arrived: list[tuple[int, Node, np.ndarray]],
    ) -> list[tuple[Running, Turn]]:
        """The turns that ended by what was read of the oldest step that is not applied yet."""
        page, ended = self._limits.page, []
        for shard, node, content in arrived:
            self._pages[shard].host.arrive(node, content)
        for copy in work.copies:
            if copy.source_routes is not None and copy.target_routes is not None:
                copy.target_routes[:] = copy.source_routes
        for i, row in enumerate(work.rows):
            if row is None or decoded is None or row[0].lease is not row[1]:
                continue
            turn, lease = row
            turn.unread -= self._device.config.decode_steps
            count = int((decoded.tokens[i] >= 0).sum())
            if decoded.routes is not None:
                _fill(lease.routes[lease.length // page :], lease.length % page, decoded.routes[i, :count])
            ended += self._take(turn, decoded, i, count, work.version)
        for i, block in enumerate(work.blocks):
            if block is None or fed is None:
                continue
            if fed.routes is not None:
                _fill(block.routes, block.place % page, fed.routes[i, : block.count])
            if block.last and block.turn.lease is block.lease:
                block.turn.unread -= 1
                ended += self._take(block.turn, fed, i, 1, work.version)
        return ended

    def _take(
        self, turn: Running, sampled: Sampled, row: int, count: int, version: int
    ) -> list[tuple[Running, Turn]]:
        assert count, "a row that was not known to have ended samples something"
        # The device may have gone on beyond a string that ends the turn: nothing of that is kept.
        count, stop = turn.cut(sampled.tokens[row, :count].tolist(), self._device.end_ids)
        one = sampled.tokens[row, :count], sampled.logprobs[row, :count], sampled.raw_logprobs[row, :count]
        turn.take(*one, version)
        _lease(turn).length = turn.known - 1  # a sampled token means that the one before it was fed
        self.sampled_tokens += count
        complete = stop is None and turn.tokens[-1] in self._device.end_ids
        if complete or stop is not None or not turn.left:
            result = turn.result(complete, stop, self._limits.page)
            self._leave(turn)
            return [(turn, result)]
        if not self._device.config.deterministic:
            self._pages[turn.shard].commit(_lease(turn), turn.context, self._now - 1)
        return []


def _lease(turn: Running) -> Lease:
    assert turn.lease is not None
    return turn.lease


def _fill(parts: list[np.ndarray | None], offset: int, routes: np.ndarray) -> None:
    """Writes the routes of tokens into those of their pages, from `offset` of the first one on."""
    for part in parts:
        if not len(routes):
            return
        assert part is not None
        count = min(len(part) - offset, len(routes))
        part[offset : offset + count] = routes[:count]
        offset, routes = 0, routes[count:]
