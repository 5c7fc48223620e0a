"""The device side of sampling: a KV cache of slots, a prefill and a decode function.

Tokens in, tokens out. A slot holds its cached tokens and one *pending* token, sampled but not yet fed.
Prefill feeds a few slots a chunk of given tokens; decode feeds every running slot its pending token,
several times per dispatch. Randomness is counter-based: a token's key is folded from its episode's seed
and its place, so what an episode samples does not depend on what runs beside it.

Left out: paged memory, prefix sharing between slots, a cache across hosts.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mirothinker_jax.config import RolloutConfig
from mirothinker_jax.models.head import full_logits
from mirothinker_jax.models.moe import Routing
from mirothinker_jax.models.qwen import Params, merge
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.attend import CACHE_AXES, empty_cache, make_cached_attend
from mirothinker_jax.parallel.mesh import check_rows
from mirothinker_jax.parallel.sharding import spec
from mirothinker_jax.rollout.sampling import Sampling, sample


class Slots(NamedTuple):
    """The host's view of a set of slots, numpy int32 [n] each."""

    length: np.ndarray  # tokens in the cache
    pending: np.ndarray  # the token to feed next
    seed: np.ndarray  # of the slot's episode
    budget: np.ndarray  # tokens the slot may still sample; 0: it is not running


class Decoded(NamedTuple):
    """What a dispatch sampled, [rows, n]; a slot that stopped on the way has −1 from there on."""

    tokens: np.ndarray  # int32
    logprobs: np.ndarray  # float32
    routes: (
        np.ndarray | None
    )  # int16 [rows, fed, L, k], of the tokens that the dispatch fed, where they are asked for


class Engine:
    """Slots on one mesh. One dispatch at a time: sampler.py gives it an asynchronous face."""

    def __init__(self, model: ModelSpec, config: RolloutConfig, context_tokens: int, end_ids: Sequence[int]):
        """`context_tokens` is the room of a slot; each of `end_ids` ends a turn."""
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
        self, slots: np.ndarray, tokens: list[np.ndarray], state: Slots, sampling: Sampling
    ) -> Decoded:
        """Feeds chunk i (at most prefill_tokens, at least one token) to slot slots[i] and samples one
        token after each chunk: [rows, 1]. `state` is that of these slots, before the chunk."""
        rows, width = self.config.prefill_slots, max(len(t) for t in tokens)
        width = next(n for n in self._prefill_lengths if n >= width)
        fed = np.zeros((rows, width), np.int32)
        places = np.full((rows, width), self.context, np.int32)  # beyond the cache: not written
        index = np.zeros(rows, np.int32)
        last = np.zeros(rows, np.int32)
        seeds = np.zeros(rows, np.int32)
        for i, chunk in enumerate(tokens):
            fed[i, : len(chunk)] = chunk
            places[i, : len(chunk)] = state.length[i] + np.arange(len(chunk))
            index[i], last[i], seeds[i] = slots[i], len(chunk) - 1, state.seed[i]
        longest = max(int(n) + len(chunk) for n, chunk in zip(state.length, tokens, strict=True))
        context = next(c for c in self._contexts if c >= longest)
        with jax.set_mesh(self.model.mesh):
            self._cache, drawn, logprobs, routes = self._prefill(
                self.params, self._cache, fed, places, index, last, seeds, context, sampling
            )
        kept = jax.tree.map(lambda x: np.asarray(x)[: len(slots)], Decoded(drawn, logprobs, routes))
        return kept._replace(tokens=kept.tokens[:, None], logprobs=kept.logprobs[:, None])

    def decode(self, state: Slots, sampling: Sampling) -> Decoded:
        """Samples up to decode_steps tokens in every running slot: [slots, decode_steps]."""
        longest = int((state.length * (state.budget > 0)).max()) + self.config.decode_steps
        context = next((c for c in self._contexts if c >= longest), self.context)
        with jax.set_mesh(self.model.mesh):
            self._cache, *drawn = self._decode(self.params, self._cache, *state, context, sampling)
        return Decoded(*jax.tree.map(np.asarray, drawn))

    @functools.partial(jax.jit, static_argnums=(0, 8, 9), donate_argnums=2)
    def _prefill(
        self, params, cache, fed, places, index, last, seeds, context, sampling: Sampling
    ) -> tuple[Any, ...]:
        module = merge(self.model.graph, params)
        attend = make_cached_attend(places, index, context)
        hidden, cache, routing = module(fed, places, attend, cache)
        final = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        place = jnp.take_along_axis(places, last[:, None], axis=1)[:, 0]
        logits = full_logits(final, module.head_weight)
        return cache, *sample(logits, _keys(seeds, place), sampling), _routes(routing, sampling)

    @functools.partial(jax.jit, static_argnums=(0, 7, 8), donate_argnums=2)
    def _decode(
        self, params, cache, length, pending, seed, budget, context, sampling: Sampling
    ) -> tuple[Any, ...]:
        module = merge(self.model.graph, params)

        def one(i, carry) -> tuple[Any, ...]:
            cache, length, pending, budget, tokens, logprobs, routes = carry
            running = budget > 0
            places = jnp.where(running, length, self.context)
            attend = make_cached_attend(places[:, None], None, context)
            hidden, cache, routing = module(pending[:, None], places[:, None], attend, cache)
            logits = full_logits(hidden[:, 0], module.head_weight)
            drawn, logprob = sample(logits, _keys(seed, length), sampling)
            tokens = tokens.at[:, i].set(jnp.where(running, drawn, -1))
            logprobs = logprobs.at[:, i].set(jnp.where(running, logprob, 0.0))
            if (chosen := _routes(routing, sampling)) is not None:
                routes = routes.at[:, i].set(chosen[:, 0])
            length = length + running.astype(jnp.int32)
            ended = functools.reduce(jnp.logical_or, (drawn == i for i in sorted(self.end_ids)), ~running)
            budget = jnp.where(ended, 0, budget - 1)
            return cache, length, jnp.where(running, drawn, pending), budget, tokens, logprobs, routes

        c, shape = self.model.config, (pending.shape[0], self.config.decode_steps)
        tokens, logprobs, routes = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32), None
        if sampling.routes:
            routes = jnp.zeros((*shape, c.layers, c.moe.experts_per_token), jnp.int16)
        carry = (cache, length, pending, budget, tokens, logprobs, routes)
        cache, *_, tokens, logprobs, routes = jax.lax.fori_loop(0, self.config.decode_steps, one, carry)
        return cache, tokens, logprobs, routes


def _routes(routing: Routing | None, sampling: Sampling) -> jax.Array | None:
    """int16 [B, T, L, k] of what the routers chose, where it is asked for."""
    if not sampling.routes:
        return None
    assert routing is not None, "a dense model has no routes"
    return jnp.moveaxis(routing.chosen, 0, 2).astype(jnp.int16)


def _keys(seeds: Any, places: Any) -> jax.Array:
    """One key per row, of the episode's seed and the place of the token that was just fed."""
    return jax.vmap(lambda s, p: jax.random.fold_in(jax.random.key(s), p))(seeds, places)
