"""The device side of the local engine: pages, rows, and the functions that touch them.

A row is a turn that is being sampled: its pending token, sampled but not fed, its length, its settings, all of which
stay on the device, so that the next step can be sent before the tokens of the last one are read. `feed` writes blocks
of contexts and begins rows; `decode` samples several tokens in chosen rows; `copy` copies pages, and `carry_out` and
`carry_in` carry them to the host's memory and back.

Every function is compiled for a few numbers of rows when the parameters come, and for no other afterwards. On several
devices each has pages and rows of its own, and arguments are those of the devices one after the other.

Randomness is counter-based: a token's number follows from its turn's seed and its place in the context.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mirothinker_jax.agent.policy import Capabilities, Sampling
from mirothinker_jax.config import ConfigError, RolloutConfig
from mirothinker_jax.models.head import full_logits
from mirothinker_jax.models.moe import Routing
from mirothinker_jax.models.qwen import STACKED, Params, merge
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import BATCH_AXES
from mirothinker_jax.parallel.paged import PagedKernels, Pool
from mirothinker_jax.parallel.sharding import replicated_sharding
from mirothinker_jax.rollout.local.layout import pages_of_copy
from mirothinker_jax.rollout.local.schedule import buckets
from mirothinker_jax.rollout.local.weights import abstract, place
from mirothinker_jax.rollout.sampling import Settings, sample, uniforms

COPIES = 16  # pages copied at once, on each device
CARRIED = 4  # pages carried to or from the host at once, of each device
STOP_IDS = 8  # of a request, beside the model's own
PLAIN = Settings.rows([(Sampling(), 0)])  # the model's own distribution


class Rows(NamedTuple):
    """The turns that are being sampled, arrays [rows] on the device."""

    pending: jax.Array  # int32, the token to feed next
    length: jax.Array  # int32, tokens in the pages
    budget: jax.Array  # int32, tokens the turn may still sample; 0: it has ended
    stop_ids: jax.Array  # int32 [rows, STOP_IDS], which end the turn, too; −1: none
    settings: Settings
    seen: jax.Array  # bool [rows, V], tokens of the context


class Start(NamedTuple):
    """Rows that begin where a block ends, arrays [blocks]; a row beyond the last one is none."""

    row: np.ndarray  # int32
    last: np.ndarray  # int32, the index in the block of the context's last token
    budget: np.ndarray  # int32
    stop_ids: np.ndarray  # int32 [blocks, STOP_IDS]; −1: none
    settings: Settings
    seen: jax.Array  # uint8 [blocks, ⌈V / 8⌉], the tokens of the context as bits


class Sampled(NamedTuple):
    """What a step sampled, [rows, n], on the device until somebody reads it; −1 from where a row ended on."""

    tokens: Any  # int32
    logprobs: Any  # float32, under the distribution drawn from
    raw_logprobs: Any  # float32, under the model's own
    routes: Any  # int16 [rows, fed, L, k] of the tokens that were fed, where they are recorded


class Device:
    """Pages and rows on one mesh."""

    def __init__(
        self,
        model: ModelSpec,
        config: RolloutConfig,
        context_tokens: int,
        end_ids: Sequence[int],
        record_routes: bool = False,
    ):
        """`context_tokens` is the most that a context with its turn may take; each of `end_ids` ends a turn."""
        self.shards = math.prod(model.mesh.shape[a] for a in BATCH_AXES)
        assert model.mesh.shape["context"] == 1, "a sequence lies on one copy's devices"
        self.pages = pages_of_copy(self.shards, config, context_tokens)
        self.model, self.config, self.context = model, config, context_tokens
        self.end_ids, self.record_routes = frozenset(end_ids), record_routes
        assert not record_routes or model.config.moe.experts, "a dense model has no routes"
        self.capabilities = Capabilities(routes=record_routes, stop_ids=STOP_IDS)
        # A block may reach beyond the context's end.
        self.columns = -(-(context_tokens + config.prefill_tokens) // config.page_tokens)
        c = model.config
        page_bytes = (
            2 * c.layers * config.page_tokens * c.kv_heads * c.head_dim * jnp.dtype(c.compute_dtype).itemsize
        ) // model.key_copies
        self.host_pages = int(config.host_gib * 2**30 / page_bytes) // self.shards
        if config.host_gib and not self.host_pages:
            raise ConfigError(
                f"config.rollout.host_gib is {config.host_gib}, less than a page of {page_bytes} bytes for each of "
                f"{self.shards} devices; give 0 for none, or {page_bytes * self.shards / 2**30:.3g} or more"
            )
        self.rows = config.slots // self.shards
        one = config.deterministic
        self.decode_rows = buckets(self.rows, () if one else (2, 4, 8))
        self.blocks = max(1, config.prefill_slots // self.shards)
        self.feed_rows = buckets(self.blocks, () if one else (4, 16))
        self._kernels = PagedKernels(model.mesh, model.key_copies)
        self._params: Params | None = None
        self._pools: list[Pool] | None = None
        self._state: Rows | None = None
        self._unseen: dict[int, jax.Array] = {}  # no tokens, by number of blocks

    @property
    def loaded(self) -> bool:
        """Whether there are parameters and pages."""
        return self._params is not None

    def load(self, params: Params) -> None:
        """Takes the parameters to sample with, wherever they lie, and makes room for pages. What the pages held is
        another policy's from now on."""
        self._params = None  # there need not be room for both
        self._params = place(self.model, params)
        if self._pools is not None:
            return
        with jax.set_mesh(self.model.mesh):
            self._pools = [self._empty() for _ in range(self.model.config.layers)]
            self._state = self._fresh()
        if not self._unseen:
            self._warm()

    def unload(self) -> None:
        """Lets go of parameters and pages: the memory is the trainer's."""
        self._params = None
        self._pools = self._state = None

    def feed(self, tokens: np.ndarray, places: np.ndarray, tables: np.ndarray, start: Start) -> Sampled:
        """Writes blocks of contexts and samples the first token of the rows that begin.

        tokens, places: int32 [blocks, prefill_tokens], −1 where a place is padding. tables: int32 [blocks, columns].
        """
        with jax.set_mesh(self.model.mesh):
            self._pools, self._state, sampled = self._feed(
                self._params, self._pools, self._state, tokens, places, tables, start
            )
        return sampled

    def decode(self, rows: np.ndarray, tables: np.ndarray) -> Sampled:
        """Samples up to decode_steps tokens in each of these rows, int32 [n]; a row beyond the last one is none."""
        with jax.set_mesh(self.model.mesh):
            self._pools, self._state, sampled = self._decode(
                self._params, self._pools, self._state, rows, tables
            )
        return sampled

    def copy(self, pairs: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Copies pages, (source, target) of each device, one after the other."""
        for first in range(0, max(map(len, pairs)), COPIES):
            table = np.full((2, self.shards, COPIES), -1, np.int32)
            table[0] = 0
            for shard, part in enumerate(pairs):
                for i, pair in enumerate(part[first : first + COPIES]):
                    table[:, shard, i] = pair
            source, target = table.reshape(2, -1)
            with jax.set_mesh(self.model.mesh):
                self._pools = self._copy(self._pools, source, target)

    def carry_out(self, pages: Sequence[Sequence[int]]) -> list[jax.Array]:
        """Starts to carry pages of each device to the host: their contents, [layers · parts, shards · CARRIED, …], in
        batches of CARRIED pages of each."""
        contents = []
        for first in range(0, max(map(len, pages)), CARRIED):
            table = np.zeros((self.shards, CARRIED), np.int32)
            for shard, part in enumerate(pages):
                batch = part[first : first + CARRIED]
                table[shard, : len(batch)] = batch
            with jax.set_mesh(self.model.mesh):
                contents.append(self._take(self._pools, table.reshape(-1)))
            contents[-1].copy_to_host_async()
        return contents

    def carry_in(self, pages: Sequence[Sequence[tuple[int, np.ndarray]]]) -> None:
        """Writes pages of each device: (page, content [layers · parts, …])."""
        for first in range(0, max(map(len, pages)), CARRIED):
            table = np.full((self.shards, CARRIED), -1, np.int32)
            some = next(part[0][1] for part in pages if part)
            contents = np.zeros((len(some), self.shards * CARRIED, *some.shape[1:]), some.dtype)
            for shard, part in enumerate(pages):
                for i, (page, content) in enumerate(part[first : first + CARRIED]):
                    table[shard, i] = page
                    contents[:, shard * CARRIED + i] = content
            layout = NamedSharding(self.model.mesh, self._kernels.contents)
            with jax.set_mesh(self.model.mesh):
                self._pools = self._put(self._pools, table.reshape(-1), jax.device_put(contents, layout))

    def seen(self, contexts: Sequence[np.ndarray | None], rows: int) -> jax.Array:
        """The tokens of contexts as bits, for `Start`; None: nobody asks. All None: an array that is there already."""
        if all(ids is None for ids in contexts):
            return self._unseen[rows]
        bits = np.zeros((rows, self.model.vocab_size), bool)
        for row, ids in enumerate(contexts):
            if ids is not None:
                bits[row, ids] = True
        return self._spread(np.packbits(bits, axis=1, bitorder="little"))

    def _spread(self, values: np.ndarray) -> jax.Array:
        """On every device. One that is there already and one that comes now must lie alike, or two shapes compile."""
        return jax.device_put(values, replicated_sharding(self.model.mesh))

    def _warm(self) -> None:
        """Runs every shape once, on rows and places that are none."""
        sizes = [n * self.shards for n in self.feed_rows]
        self._unseen = {n: self._spread(np.zeros((n, self._bytes), np.uint8)) for n in sizes}
        for n in sizes:
            self.feed(*self._no_blocks(n, self._unseen[n]))
        for n in (size * self.shards for size in self.decode_rows):
            self.decode(*self._no_rows(n))
        self.copy([[(0, 0)]] * self.shards)
        if self.host_pages:
            (contents,) = self.carry_out([[0]] * self.shards)
            self.carry_in([[(0, np.asarray(contents)[:, 0])]] * self.shards)

    def table(self, rows: int) -> np.ndarray:
        """Page numbers of rows that have none, int32 [rows, columns]."""
        return np.zeros((rows, self.columns), np.int32)

    def start(self, blocks: int) -> Start:
        """No row begins."""
        return self._no_start(blocks, self._unseen[blocks])

    def _no_start(self, blocks: int, unseen: Any) -> Start:
        settings = Settings.rows([(Sampling(), 0)] * blocks)
        none, zeros = np.full(blocks, self.config.slots, np.int32), np.zeros(blocks, np.int32)
        stops = np.full((blocks, STOP_IDS), -1, np.int32)
        return Start(none, zeros, zeros.copy(), stops, settings, unseen)

    def _no_blocks(self, blocks: int, unseen: Any) -> tuple[Any, ...]:
        nowhere = np.full((blocks, self.config.prefill_tokens), -1, np.int32)
        return np.zeros_like(nowhere), nowhere, self.table(blocks), self._no_start(blocks, unseen)

    def _no_rows(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(rows, self.config.slots, np.int32), self.table(rows)

    @property
    def _bytes(self) -> int:
        """Of a vocabulary's bits."""
        return -(-self.model.vocab_size // 8)

    def lower_decode(self) -> jax.stages.Lowered:
        """The largest step of `decode`, for devices that need not be there: nothing has to be loaded."""
        with jax.set_mesh(self.model.mesh):
            decode: Any = type(self)._decode
            return decode.lower(self, *self._abstract(), *self._no_rows(self.rows * self.shards))

    def lower_feed(self) -> jax.stages.Lowered:
        """The largest step of `feed`, as `lower_decode`."""
        blocks, everywhere = self.blocks * self.shards, replicated_sharding(self.model.mesh)
        unseen = jax.ShapeDtypeStruct((blocks, self._bytes), np.uint8, sharding=everywhere)
        with jax.set_mesh(self.model.mesh):
            feed: Any = type(self)._feed
            return feed.lower(self, *self._abstract(), *self._no_blocks(blocks, unseen))

    def _abstract(self) -> tuple[Any, ...]:
        """Parameters, pages and rows as shapes that say where they lie."""
        pages = NamedSharding(self.model.mesh, self._kernels.pages)
        shapes = jax.eval_shape(self._empty), jax.eval_shape(self._fresh)
        pool, state = (
            jax.tree.map(
                lambda x, layout=layout: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout), shape
            )
            for shape, layout in zip(shapes, (pages, replicated_sharding(self.model.mesh)), strict=True)
        )
        return abstract(self.model), [pool] * self.model.config.layers, state

    @functools.partial(jax.jit, static_argnums=0)
    def _empty(self) -> Any:
        c, pages = self.model.config, self.pages * self.shards
        pool = self._kernels.empty(pages, self.config.page_tokens, c.kv_heads, c.head_dim, c.compute_dtype)
        layout = NamedSharding(self.model.mesh, self._kernels.pages)
        return tuple(jax.lax.with_sharding_constraint(x, layout) for x in pool)

    @functools.partial(jax.jit, static_argnums=0)
    def _fresh(self) -> Rows:
        rows = self.config.slots
        ints = jnp.zeros(rows, jnp.int32)
        settings = Settings(*(jnp.zeros(rows, x.dtype) for x in Settings.rows([(Sampling(), 0)])))
        stops = jnp.full((rows, STOP_IDS), -1, jnp.int32)
        made = Rows(ints, ints, ints, stops, settings, jnp.zeros((rows, self.model.vocab_size), bool))
        return self._everywhere(made)

    def _everywhere(self, tree: Any) -> Any:
        """Rows are few: every device has all of them."""
        return jax.lax.with_sharding_constraint(tree, replicated_sharding(self.model.mesh))

    def _module(self, params) -> Any:
        return merge(self.model.graph, params | {STACKED: params[STACKED][0]})

    def _routes(self, routing: Routing | None) -> jax.Array | None:
        """int16 [B, T, L, k] of what the routers chose."""
        if not self.record_routes:
            return None
        assert routing is not None
        return jnp.moveaxis(routing.chosen, 0, 2).astype(jnp.int16)

    def _ended(self, tokens: jax.Array, stop_ids: jax.Array) -> jax.Array:
        """bool [B] of tokens, int32 [B], in rows with these stop ids."""
        own = (tokens[:, None] == stop_ids).any(axis=1)
        return functools.reduce(jnp.logical_or, (tokens == i for i in sorted(self.end_ids)), own)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
    def _feed(self, params, pools, state: Rows, tokens, places, tables, start: Start) -> tuple[Any, ...]:
        module = self._module(params)
        attend = self._kernels.attend(tables, places)
        positions = jnp.maximum(places, 0)
        hidden, pools, routing = module(tokens, positions, attend, pools, unstacked=params[STACKED])
        final = jnp.take_along_axis(hidden, start.last[:, None, None], axis=1)[:, 0]
        place = jnp.take_along_axis(positions, start.last[:, None], axis=1)[:, 0]
        logits = full_logits(final, module.head_weight)
        seen = jnp.unpackbits(start.seen, axis=1, count=logits.shape[1], bitorder="little") > 0
        drawn = sample(logits, uniforms(start.settings.seed, place), start.settings, seen)
        stop_ids = jnp.asarray(start.stop_ids)
        budget = jnp.where(self._ended(drawn.tokens, stop_ids), 0, start.budget - 1)
        seen = seen.at[jnp.arange(len(seen)), drawn.tokens].set(True)
        begun = Rows(drawn.tokens, place + 1, budget, stop_ids, start.settings, seen)
        state = jax.tree.map(lambda old, new: old.at[start.row].set(new, mode="drop"), state, begun)
        one = drawn.tokens[:, None], drawn.logprobs[:, None], drawn.raw_logprobs[:, None]
        sampled = Sampled(*one, self._routes(routing))
        return pools, self._everywhere(state), self._everywhere(sampled)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3))
    def _decode(self, params, pools, state: Rows, rows, tables) -> tuple[Any, ...]:
        module, steps = self._module(params), self.config.decode_steps
        chosen = jax.tree.map(lambda x: x.at[rows].get(mode="fill", fill_value=0), state)
        settings: Settings = chosen.settings
        # A row that is none asks for nothing.
        at_work = chosen.budget > 0
        settings = Settings(*(jnp.where(at_work, x, y) for x, y in zip(settings, PLAIN, strict=True)))

        def one(carry) -> tuple[Any, ...]:
            i, pools, row, filled = carry
            running = row.budget > 0
            attend = self._kernels.attend(tables, jnp.where(running, row.length, -1)[:, None])
            positions = jnp.where(running, row.length, 0)
            hidden, pools, routing = module(
                row.pending[:, None], positions[:, None], attend, pools, unstacked=params[STACKED]
            )
            logits = full_logits(hidden[:, 0], module.head_weight)
            drawn = sample(logits, uniforms(settings.seed, positions), settings, row.seen)
            tokens = jnp.where(running, drawn.tokens, -1)
            new = (tokens, *(jnp.where(running, x, 0.0) for x in drawn[1:]))
            if (routes := self._routes(routing)) is not None:
                new = (*new, routes[:, 0])
            filled = [x.at[:, i].set(y) for x, y in zip(filled, new, strict=True)]
            ended = self._ended(drawn.tokens, row.stop_ids) | ~running
            row = row._replace(
                pending=jnp.where(running, drawn.tokens, row.pending),
                length=row.length + running.astype(jnp.int32),
                budget=jnp.where(ended, 0, row.budget - 1),
                seen=row.seen.at[jnp.arange(len(tokens)), drawn.tokens].set(True),
            )
            return i + 1, pools, row, filled

        c, shape = self.model.config, (rows.shape[0], steps)
        filled = [
            jnp.full(shape, -1, jnp.int32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros(shape, jnp.float32),
        ]
        if self.record_routes:
            filled.append(jnp.zeros((*shape, c.layers, c.moe.experts_per_token), jnp.int16))
        carry = (jnp.int32(0), pools, chosen, filled)
        more = lambda carry: (carry[0] < steps) & jnp.any(carry[2].budget > 0)  # noqa: E731
        _, pools, chosen, filled = jax.lax.while_loop(more, one, carry)
        state = jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), state, chosen)
        sampled = Sampled(*filled, *(() if self.record_routes else (None,)))
        return pools, self._everywhere(state), self._everywhere(sampled)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _copy(self, pools, source, target) -> Any:
        return self._kernels.copy(pools, source, target)

    @functools.partial(jax.jit, static_argnums=0)
    def _take(self, pools, pages) -> jax.Array:
        contents = self._kernels.take(pools, pages)
        layout = NamedSharding(self.model.mesh, self._kernels.contents)
        return jax.lax.with_sharding_constraint(contents, layout)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _put(self, pools, pages, contents) -> Any:
        return self._kernels.put(pools, pages, contents)
