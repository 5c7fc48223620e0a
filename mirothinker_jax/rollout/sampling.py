"""Drawing the next token, with its log-prob under the very distribution it was drawn from."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_p 1 keeps the whole distribution (training needs exactly that). With `routes` the
    experts of every token are recorded."""

    temperature: float = 1.0
    top_p: float = 1.0
    routes: bool = False


def sample(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> tuple[jax.Array, jax.Array]:
    """One token per row and its log-prob.

    Args:
      logits: float32 [B, V]; keys: one PRNG key per row, [B].

    Returns:
      int32 [B] tokens; float32 [B] log-probs under the tempered, truncated, renormalised distribution
      (greedy: under the untempered one).
    """
    if sampling.temperature == 0:
        tokens = jnp.argmax(logits, -1).astype(jnp.int32)
        return tokens, _pick(jax.nn.log_softmax(logits), tokens)
    scaled = logits / sampling.temperature
    if sampling.top_p < 1:
        scaled = _nucleus(scaled, sampling.top_p)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[-1:], jnp.float32))(keys)
    tokens = jnp.argmax(scaled + noise, -1).astype(jnp.int32)
    return tokens, _pick(jax.nn.log_softmax(scaled), tokens)


def _nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """−inf outside the smallest set of tokens whose probability reaches top_p (arXiv 1904.09751); tokens as
    likely as the least likely of them stay too.

    The threshold is found by bisection over the float32 numbers themselves, in their order as integers: exact,
    and on a CPU several times as fast as sorting the vocabulary.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    ranks = bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))  # ordered as the logits are

    def halve(_, bounds) -> tuple[Any, ...]:
        low, high = bounds  # the tokens from `low` on reach top_p; those from `high` on do not
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        enough = jnp.where(ranks >= middle, probs, 0.0).sum(-1, keepdims=True) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    bounds = ranks.min(-1, keepdims=True), ranks.max(-1, keepdims=True) + 1
    low, _ = jax.lax.fori_loop(0, 32, halve, bounds)
    return jnp.where(ranks >= low, logits, -jnp.inf)


def _pick(logprobs: jax.Array, tokens: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logprobs, tokens[:, None], -1)[:, 0]
