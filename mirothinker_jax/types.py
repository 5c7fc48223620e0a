"""The data that every room shares, and THE axis legend. A leaf: it imports jax and numpy only.

Axis legend (every einsum and every shape comment obeys it; an *axis* is of the mesh, a *dim* of an array):

    B  rows of a batch            T  tokens of a row (queries)      S  keys a query may see (a cache, or T)
    D  hidden size                H  query heads                    K  key/value heads
    G  query heads per kv head    E  head size                      F  feed-forward size
    V  vocabulary                 L  layers                         M  micro-batches of a step
    N  sequences of a row         X  experts of a layer             k  experts a token is sent to
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = Any  # jax.Array or numpy.ndarray


class Spans(NamedTuple):
    """Which keys each query of a row may see: the spans `[trunk_lo, trunk_hi)` and `[own_lo, own index]`.

    Three int32 arrays [B, T] say it all. A plain causal row has an empty trunk and own_lo = 0. Packed samples
    have own_lo = the sample's start. Branches that share a prompt see the part of it that lies before them as
    trunk, and themselves from own_lo on. A padding position has own_lo = its own index: it sees itself alone.
    (A relative: FlashMask, arXiv 2410.01359.)
    """

    trunk_lo: Array
    trunk_hi: Array
    own_lo: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What a training step sees, whatever the objective. All arrays [B, T] (or [M, B, T] in a step).

    Position t holds input token `tokens[t]` and asks for `targets[t]`, the token that follows it in its
    sample. `weights[t]` is what that prediction's loss counts for, 0 where it is not trained. The step's loss is the
    weighted sum of its tokens' losses over the sum of `denominator`, not divided where that is 0 (data/weights.py).
    Worked example, one sample `<s> user q <e> assistant a <e>` of which `a <e>` is trained, for the mean over tokens:

        tokens       <s>   user  q     <e>   assistant  a    <e>
        targets      user  q     <e>   asst  a          <e>  0
        weights      0     0     0     0     1          1    0
        denominator  0     0     0     0     1          1    0

    Fields after `spans` belong to some objectives only and are zeros, or None, where unused:
      sequence: index, within the row, of the sequence a position belongs to; −1 for none. DPO puts the
        chosen sequence of pair i at 2i and the rejected one at 2i + 1.
      advantages: A of the sequence, repeated on each of its positions (GRPO).
      sampler_logprobs: log-prob of targets[t] under the distribution it was sampled from (GRPO).
      ref_logprobs: log-prob of targets[t] under the reference model (DPO; GRPO with a KL term).
      routes: int16 [B, T, L, k], the experts that tokens[t] was sent to when it was sampled with, −1 where that is
        not known; None: the routers choose (everywhere but in GRPO with replayed routes).
    """

    tokens: Array  # int32
    targets: Array  # int32
    weights: Array  # float32
    denominator: Array  # float32
    positions: Array  # int32, rotary positions: they restart in each sample
    spans: Spans
    sequence: Array  # int32
    advantages: Array  # float32
    sampler_logprobs: Array  # float32
    ref_logprobs: Array  # float32
    routes: Array | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, T], or [M, B, T] of a step."""
        return self.tokens.shape

    @staticmethod
    def empty(rows: int, sequence_length: int, routes: tuple[int, int] | None = None) -> Batch:
        """A batch of padding, in numpy: nothing is trained and every position sees itself alone. `routes` is (L, k)
        where it has room for routes."""
        shape = (rows, sequence_length)
        ints = lambda: np.zeros(shape, np.int32)  # noqa: E731
        floats = lambda: np.zeros(shape, np.float32)  # noqa: E731
        own = np.broadcast_to(np.arange(sequence_length, dtype=np.int32), shape).copy()
        return Batch(
            tokens=ints(),
            targets=ints(),
            weights=floats(),
            denominator=floats(),
            positions=ints(),
            spans=Spans(ints(), ints(), own),
            sequence=np.full(shape, -1, np.int32),
            advantages=floats(),
            sampler_logprobs=floats(),
            ref_logprobs=floats(),
            routes=None if routes is None else np.full((*shape, *routes), -1, np.int16),
        )

    def padded(self, rows: int) -> Batch:
        """This batch (numpy) with `rows` rows of padding after its own."""
        routes = None if self.routes is None else self.routes.shape[2:]
        return jax.tree.map(
            lambda a, b: np.concatenate([a, b]), self, Batch.empty(rows, self.shape[1], routes)
        )


class LossOutput(NamedTuple):
    """An objective's answer: `total` is the weighted sum of a micro-batch's losses, which the step divides ONCE by the
    whole step's denominator, so packing and sharding cannot change the loss. `metrics` maps a name to (sum, weight);
    each is divided by its own weight, over all micro-batches and devices."""

    total: Array
    metrics: dict[str, tuple[Array, Array]]


# (logprobs [B, T] of the targets, entropy [B, T], batch) → LossOutput. Pure.
Objective = Callable[[Array, Array, Batch], LossOutput]


class BatchSource(Protocol):
    """Where the training loop's batches come from: a packed corpus, preference pairs, or fresh rollouts."""

    # Whether `next` samples from the parameters it is given, and so waits for the step that makes them.
    on_policy: bool

    def next(self, step: int, params: Any) -> tuple[Batch, dict[str, float]]:
        """This process's share of step's batch, numpy [rows, T], and figures for the log.

        `params` are the current parameters, for sources that sample. The number of rows may change from
        step to step where the source says so; it is a multiple of the process's share of a micro-batch, and
        the same on every process.
        """
        ...

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on exactly after the last batch given out; JSON-serialisable."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on after the batch that `state` was taken after. Raises ConfigError for another source's state."""
        ...
