"""Drawing the next token, with its log-prob under the very distribution it was drawn from.

Every setting is a traced number of its row: a new value compiles nothing, and rows of one batch may differ. A token
takes one uniform number, by the inverse of the cumulative distribution, and depends on its own row alone.

Not exact: the uniform has 23 bits, so a token much less likely than 1e-7 is drawn as often as the next multiple of
that, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mirothinker_jax.agent.policy import Sampling

BLOCK = 128  # tokens of the vocabulary that are summed at once


class Settings(NamedTuple):
    """The fields of Sampling and the seed, an array [B] each."""

    temperature: Any  # float32
    top_p: Any  # float32
    top_k: Any  # int32
    min_p: Any  # float32
    repetition_penalty: Any  # float32
    seed: Any  # uint32

    @staticmethod
    def rows(requests: Sequence[tuple[Sampling, int]]) -> Settings:
        """Numpy arrays of (sampling, seed) by row."""
        kinds = (np.float32, np.float32, np.int32, np.float32, np.float32, np.uint32)
        values = [
            (s.temperature, s.top_p, s.top_k, s.min_p, s.repetition_penalty, seed % 2**32)
            for s, seed in requests
        ]
        columns = zip(*values, strict=True) if values else [()] * len(kinds)
        return Settings(*(np.asarray(c, kind) for c, kind in zip(columns, kinds, strict=True)))


class Drawn(NamedTuple):
    """One token per row, [B] each."""

    tokens: Any  # int32
    logprobs: Any  # float32, under the distribution drawn from; greedy: as raw
    raw_logprobs: Any  # float32, under the model's own


def uniforms(seeds: jax.Array, places: jax.Array) -> jax.Array:
    """float32 [B] in [0, 1), of the turns' seeds, uint32 [B], and the tokens' places in their contexts, int32 [B]."""
    one = lambda seed, place: jax.random.uniform(jax.random.fold_in(jax.random.key(seed), place))  # noqa: E731
    return jax.vmap(one)(seeds, places)


def sample(logits: jax.Array, uniform: jax.Array, settings: Settings, seen: jax.Array | None = None) -> Drawn:
    """Draws a token for every row. What no row asks for is not computed.

    Args:
      logits: float32 [B, V]. uniform: float32 [B] in [0, 1).
      seen: bool [B, V], the tokens that the context holds; None: no row has a repetition penalty.
    """
    raw, greedy, penalised = logits, settings.temperature == 0, settings.repetition_penalty != 1
    if seen is not None:
        logits = _where_asked(penalised, lambda x: _penalise(x, seen, settings.repetition_penalty), logits)
    scaled = logits / jnp.where(greedy, 1.0, settings.temperature)[:, None]
    kept = _truncate(scaled, settings)
    likely = _Likelihood.of(kept)
    tokens = likely.invert(uniform)
    most = lambda x: jnp.where(greedy, jnp.argmax(x, -1).astype(jnp.int32), tokens)  # noqa: E731
    tokens = jax.lax.cond(jnp.any(greedy), most, lambda _: tokens, logits)
    logprobs = likely.logprob(kept, tokens)
    # Of rows that draw from the model's own distribution it is the same number, to the last bit.
    other = penalised | _truncates(settings) | (settings.temperature != 1)
    own = lambda x: jnp.where(other, _Likelihood.of(x).logprob(x, tokens), logprobs)  # noqa: E731
    raw_logprobs = jax.lax.cond(jnp.any(other), own, lambda _: logprobs, raw)
    return Drawn(tokens, jnp.where(greedy, raw_logprobs, logprobs), raw_logprobs)


def _where_asked(rows: jax.Array, change: Callable[[jax.Array], jax.Array], logits: jax.Array) -> jax.Array:
    """`change(logits)` if any of the rows, bool [B], asks for it; it leaves the others as they are."""
    return jax.lax.cond(jnp.any(rows), change, lambda x: x, logits)


def _penalise(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """CTRL's repetition penalty (arXiv 1909.05858, §4.1); a negative logit is multiplied, or it would become
    likelier."""
    penalty = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


class _Likelihood(NamedTuple):
    """The softmax of rows of logits, not normalised. A token is drawn by sums of blocks, which find the block, and sums
    within it, which find the token."""

    top: jax.Array  # [B], the largest logit
    weights: jax.Array  # [B, blocks, BLOCK], exp(logit − top)
    sums: jax.Array  # [B, blocks]

    @staticmethod
    def of(logits: jax.Array) -> _Likelihood:
        """Of float32 [B, V]."""
        top = logits.max(-1)
        weights = jnp.exp(logits - top[:, None])
        padded = jnp.pad(weights, ((0, 0), (0, -logits.shape[1] % BLOCK)))
        blocks = padded.reshape(len(logits), -1, BLOCK)
        return _Likelihood(top, blocks, blocks.sum(-1))

    def invert(self, uniform: jax.Array) -> jax.Array:
        """int32 [B]: the token at which the cumulative distribution of each row passes its uniform number. A token that
        cannot be drawn never is, also where rounding puts the number beyond the last sum."""
        block, rest = _passes(self.sums, uniform * self.sums.sum(-1))
        within = jnp.take_along_axis(self.weights, block[:, None, None], axis=1)[:, 0]
        return block * BLOCK + _passes(within, rest)[0]

    def logprob(self, logits: jax.Array, tokens: jax.Array) -> jax.Array:
        """float32 [B], of these tokens, int32 [B]."""
        picked = jnp.take_along_axis(logits, tokens[:, None], -1)[:, 0]
        return picked - self.top - jnp.log(self.sums.sum(-1))


def _passes(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """([B] the first place at which the cumulative sum of [B, n] exceeds the target, what is left of the target
    there); the last one with any weight where none does."""
    after = jnp.cumsum(weights, axis=-1)
    some = weights > 0
    found = some & (after > target[:, None])
    last = weights.shape[-1] - 1 - jnp.argmax(some[:, ::-1], -1)
    place = jnp.where(found.any(-1), jnp.argmax(found, -1), last).astype(jnp.int32)
    before = jnp.take_along_axis(after - weights, place[:, None], -1)[:, 0]
    return place, target - before


def _truncates(settings: Settings) -> jax.Array:
    """bool [B]: whether tokens may be left out."""
    return (settings.top_k > 0) | (settings.top_p < 1) | (settings.min_p > 0)


def _truncate(logits: jax.Array, settings: Settings) -> jax.Array:
    """−inf outside the k most likely tokens, outside the smallest set of them whose probability reaches top_p (arXiv
    1904.09751), and where a token is less than min_p times as likely as the first (arXiv 2407.01082). Tokens as likely
    as the least likely that is kept stay too."""
    top_k, top_p, min_p = settings.top_k, settings.top_p, settings.min_p

    def by_rank(logits: jax.Array) -> jax.Array:
        one = jnp.ones_like(logits)
        return _keep(logits, one, jnp.maximum(top_k, 1).astype(jnp.float32), top_k == 0)

    def by_mass(logits: jax.Array) -> jax.Array:
        return _keep(logits, jax.nn.softmax(logits, axis=-1), top_p, top_p >= 1)

    def by_share(logits: jax.Array) -> jax.Array:
        least = logits.max(-1) + jnp.log(min_p)  # −inf where it is off
        return jnp.where(logits >= least[:, None], logits, -jnp.inf)

    logits = _where_asked(top_k > 0, by_rank, logits)
    logits = _where_asked(top_p < 1, by_mass, logits)
    return _where_asked(min_p > 0, by_share, logits)


def _keep(logits: jax.Array, weights: jax.Array, reach: jax.Array, whole: jax.Array) -> jax.Array:
    """−inf outside the smallest set of the highest logits whose weights reach `reach`, float32 [B]; rows that are
    `whole`, bool [B], as they are.

    The threshold is found by bisection over the float32 numbers themselves, in their order as integers: exact,
    and on a CPU several times as fast as sorting the vocabulary.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    ranks = bits ^ ((bits >> 31) & jnp.int32(0x7FFFFFFF))  # ordered as the logits are

    def halve(_, bounds) -> tuple[Any, ...]:
        low, high = bounds  # the tokens from `low` on reach it; those from `high` on do not
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        enough = jnp.where(ranks >= middle, weights, 0.0).sum(-1, keepdims=True) >= reach[:, None]
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    bounds = ranks.min(-1, keepdims=True), ranks.max(-1, keepdims=True) + 1
    low, _ = jax.lax.fori_loop(0, 32, halve, bounds)
    return jnp.where((ranks >= low) | whole[:, None], logits, -jnp.inf)
