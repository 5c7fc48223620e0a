"""The device side of sampling: a KV cache of slots, a prefill and a decode function.

Tokens in, tokens out. A slot holds its cached tokens and one *pending* token, sampled but not yet fed.
Prefill feeds a few slots a chunk of given tokens; decode feeds every running slot its pending token,
several times per dispatch. Randomness is counter-based: a token's key is folded from its turn's seed
and its place, so what an episode samples does not depend on what runs beside it.

Left out: paged memory, prefix sharing between slots, a cache across hosts, repetition penalties (they need the set of
tokens of a context on the device).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mirothinker_jax.agent.policy import Capabilities, Sampling
from mirothinker_jax.config import RolloutConfig
from mirothinker_jax.models.head import full_logits
from mirothinker_jax.models.moe import Routing
from mirothinker_jax.models.qwen import Params, merge
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.attend import CACHE_AXES, empty_cache, make_cached_attend
from mirothinker_jax.parallel.mesh import check_rows
from mirothinker_jax.parallel.sharding import spec
from mirothinker_jax.rollout.sampling import Settings, sample, uniforms

NO_PENALTY = frozenset({"temperature", "top_p", "top_k", "min_p"})


class Slots(NamedTuple):
    """The host's view of a set of slots, numpy [n] each."""

    length: np.ndarray  # int32, tokens in the cache
    pending: np.ndarray  # int32, the token to feed next
    budget: np.ndarray  # int32, tokens the slot may still sample; 0: it is not running
    settings: Settings  # of the slots' turns


class Decoded(NamedTuple):
    """What a dispatch sampled, [rows, n]; a slot that stopped on the way has −1 from there on."""

    tokens: np.ndarray  # int32
    logprobs: np.ndarray  # float32
    raw_logprobs: np.ndarray  # float32
    routes: (
        np.ndarray | None
    )  # int16 [rows, fed, L, k], of the tokens that the dispatch fed, where they are asked for


class Engine:
    """Slots on one mesh. One dispatch at a time: sampler.py gives it an asynchronous face."""

    def __init__(self, model: ModelSpec, config: RolloutConfig, context_tokens: int, end_ids: Sequence[int]):
        """`context_tokens` is the room of a slot; each of `end_ids` ends a turn."""
        self.capabilities = Capabilities(sampling=NO_PENALTY, routes=model.config.moe.experts > 0)
        check_rows(model.mesh.shape, "rollout.slots", config.slots)
        self.model, self.config, self.context = model, config, context_tokens
        self.end_ids = frozenset(end_ids)
        self.params: Params | None = None
        # A dispatch reads no more of the cache than its longest slot needs: two shapes of each function.
        self._contexts = sorted({-(-context_tokens // 2), context_tokens})
        self._prefill_lengths = sorted({-(-config.prefill_tokens // 2), config.prefill_tokens})
        self._cache = self._allocate()

    def _allocate(self) -> list[tuple[jax.Array, jax.Array]]:
        c = self.model.config
        sizes = (self.config.slots, c.kv_heads, c.head_dim, self.context, c.compute_dtype)
        sharding = NamedSharding(self.model.mesh, spec(*CACHE_AXES))
        make = jax.jit(functools.partial(empty_cache, *sizes), out_shardings=sharding)
        return [make() for _ in range(c.layers)]

    def load(self, params: Params) -> None:
        """Takes the parameters to sample with (resharded to this mesh where they lie otherwise)."""
        self.params = jax.device_put(params, self.model.shardings)

    def unload(self) -> None:
        """Lets go of the parameters: the trainer is about to donate them."""
        self.params = None

    def prefill(
        self, slots: np.ndarray, tokens: list[np.ndarray], state: Slots, record_routes: bool
    ) -> Decoded:
        """Feeds chunk i (at most prefill_tokens, at least one token) to slot slots[i] and samples one
        token after each chunk: [rows, 1]. `state` is that of these slots, before the chunk."""
        rows, width = self.config.prefill_slots, max(len(t) for t in tokens)
        width = next(n for n in self._prefill_lengths if n >= width)
        fed = np.zeros((rows, width), np.int32)
        places = np.full((rows, width), self.context, np.int32)  # beyond the cache: not written
        index = np.zeros(rows, np.int32)
        last = np.zeros(rows, np.int32)
        settings = _rows(rows, state.settings)
        for i, chunk in enumerate(tokens):
            fed[i, : len(chunk)] = chunk
            places[i, : len(chunk)] = state.length[i] + np.arange(len(chunk))
            index[i], last[i] = slots[i], len(chunk) - 1
        longest = max(int(n) + len(chunk) for n, chunk in zip(state.length, tokens, strict=True))
        context = next(c for c in self._contexts if c >= longest)
        with jax.set_mesh(self.model.mesh):
            self._cache, drawn, routes = self._prefill(
                self.params, self._cache, fed, places, index, last, settings, context, record_routes
            )
        drawn, routes = jax.tree.map(lambda x: np.asarray(x)[: len(slots)], (drawn, routes))
        return Decoded(drawn.tokens[:, None], drawn.logprobs[:, None], drawn.raw_logprobs[:, None], routes)

    def decode(self, state: Slots, record_routes: bool) -> Decoded:
        """Samples up to decode_steps tokens in every running slot: [slots, decode_steps]."""
        longest = int((state.length * (state.budget > 0)).max()) + self.config.decode_steps
        context = next((c for c in self._contexts if c >= longest), self.context)
        with jax.set_mesh(self.model.mesh):
            self._cache, *drawn = self._decode(self.params, self._cache, *state, context, record_routes)
        return Decoded(*jax.tree.map(np.asarray, drawn))

    @functools.partial(jax.jit, static_argnums=(0, 8, 9), donate_argnums=2)
    def _prefill(
        self, params, cache, fed, places, index, last, settings: Settings, context, record_routes
    ) -> tuple[Any, ...]:
        module = merge(self.model.graph, params)
        attend = make_cached_attend(places, index, context)
        hidden, cache, routing = module(fed, places, attend, cache)
        final = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        place = jnp.take_along_axis(places, last[:, None], axis=1)[:, 0]
        logits = full_logits(final, module.head_weight)
        drawn = sample(logits, uniforms(settings.seed, place), settings)
        return cache, drawn, _routes(routing, record_routes)

    @functools.partial(jax.jit, static_argnums=(0, 7, 8), donate_argnums=2)
    def _decode(
        self, params, cache, length, pending, budget, settings: Settings, context, record_routes
    ) -> tuple[Any, ...]:
        module = merge(self.model.graph, params)

        def one(i, carry) -> tuple[Any, ...]:
            cache, length, pending, budget, filled = carry
            running = budget > 0
            places = jnp.where(running, length, self.context)
            attend = make_cached_attend(places[:, None], None, context)
            hidden, cache, routing = module(pending[:, None], places[:, None], attend, cache)
            logits = full_logits(hidden[:, 0], module.head_weight)
            drawn = sample(logits, uniforms(settings.seed, length), settings)
            tokens, logprobs, raw, routes = filled
            tokens = tokens.at[:, i].set(jnp.where(running, drawn.tokens, -1))
            logprobs = logprobs.at[:, i].set(jnp.where(running, drawn.logprobs, 0.0))
            raw = raw.at[:, i].set(jnp.where(running, drawn.raw_logprobs, 0.0))
            if (chosen := _routes(routing, record_routes)) is not None:
                routes = routes.at[:, i].set(chosen[:, 0])
            length = length + running.astype(jnp.int32)
            ends = (drawn.tokens == i for i in sorted(self.end_ids))
            budget = jnp.where(functools.reduce(jnp.logical_or, ends, ~running), 0, budget - 1)
            pending = jnp.where(running, drawn.tokens, pending)
            return cache, length, pending, budget, (tokens, logprobs, raw, routes)

        c, shape = self.model.config, (pending.shape[0], self.config.decode_steps)
        zeros, routes = jnp.zeros(shape, jnp.float32), None
        if record_routes:
            routes = jnp.zeros((*shape, c.layers, c.moe.experts_per_token), jnp.int16)
        carry = (cache, length, pending, budget, (jnp.zeros(shape, jnp.int32), zeros, zeros, routes))
        cache, *_, filled = jax.lax.fori_loop(0, self.config.decode_steps, one, carry)
        return cache, *filled


def _rows(count: int, settings: Settings) -> Settings:
    """Settings of `count` rows, the last ones of which nobody reads."""
    filler = Settings.rows([(Sampling(), 0)] * (count - len(settings.seed)))
    return Settings(*(np.concatenate(pair) for pair in zip(settings, filler, strict=True)))


def _routes(routing: Routing | None, record: bool) -> jax.Array | None:
    """int16 [B, T, L, k] of what the routers chose, where it is asked for."""
    if not record:
        return None
    assert routing is not None, "a dense model has no routes"
    return jnp.moveaxis(routing.chosen, 0, 2).astype(jnp.int16)
