"""Token sequences laid out in rows of fixed length, in plain numpy.

Unusual: what a query may see is told by spans (types.Spans), never by a mask, so preference pairs can share
their prompt: a row holds the prompt once, as a *trunk*, and both continuations as *branches* of it. Shifting
(position t asks for token t + 1) happens here and only here, sample by sample, so no prediction crosses from
one sample into the next. A trajectory whose context was edited is a trunk with branches too (trajectory/tree.py).

Left out: splitting a sample over rows; one that does not fit is an error, because cutting it would train the
model to stop anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.weights import loss_weights
from mirothinker_jax.types import Batch

ALIGNED = ("advantages", "sampler_logprobs", "ref_logprobs")


@dataclass(frozen=True)
class Sample:
    """One token sequence. The float arrays say something about the *prediction* of each token.

    Worked example, trained on `b <e>`:

        tokens            <s>  a   b    <e>
        trained           0    0   1    1
        sampler_logprobs  0    0   -.7  -.1
    """

    tokens: np.ndarray  # int32 [n], n ≥ 1
    trained: np.ndarray  # bool [n]
    advantages: np.ndarray | None = None  # float32 [n]; None: zeros
    sampler_logprobs: np.ndarray | None = None
    ref_logprobs: np.ndarray | None = None
    routes: np.ndarray | None = None  # int16 [n, L, k], of the tokens themselves (types.Batch)

    def __post_init__(self):
        if not len(self.tokens):
            raise ValueError("a sample without tokens cannot be packed; drop it")
        for name in ("trained", *ALIGNED, "routes"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.tokens):
                raise ValueError(
                    f"{name} has {len(value)} entries for {len(self.tokens)} tokens; give one each"
                )

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Branch:
    """A stretch of tokens that sees the first `seen` tokens of a trunk, and itself. Its first token is never trained:
    no token of the branch stands before it."""

    seen: int
    sample: Sample


@dataclass(frozen=True)
class Tree:
    """A sequence with branches, which share what they see of it. One sequence, as objectives count.

    Worked example, of a trunk a b c d e and a branch b X Y with seen = 1:

        tokens     a  b  c  d  e  b  X  Y
        targets    b  c  d  e  0  X  Y  0
        positions  0  1  2  3  4  1  2  3
        trunk      -  -  -  -  -  a  a  a

    `of_tokens`: the trained tokens of the whole sequence, where this is a part of it (data/weights.py).
    """

    trunk: Sample
    branches: tuple[Branch, ...] = ()
    of_tokens: int | None = None

    def __post_init__(self):
        for branch in self.branches:
            assert 0 <= branch.seen <= len(self.trunk), (branch.seen, len(self.trunk))

    def __len__(self) -> int:
        return len(self.trunk) + sum(len(branch.sample) for branch in self.branches)


@dataclass(frozen=True)
class Pair:
    """A prompt and two continuations of it. The continuations' arrays do not include the prompt."""

    prompt: np.ndarray  # int32 [p], p ≥ 1
    chosen: Sample
    rejected: Sample

    def __post_init__(self):
        if not len(self.prompt):
            raise ValueError("a pair without a prompt: nothing predicts the first token of its continuations")

    def __len__(self) -> int:
        """Tokens of a row that the pair takes: the prompt's last token stands in each branch."""
        return len(self.prompt) + 1 + len(self.chosen) + len(self.rejected)


@dataclass(frozen=True)
class TreePair:
    """Two sequences, of one tree or several each, that share nothing in a row: of episodes whose context was edited."""

    chosen: tuple[Tree, ...]
    rejected: tuple[Tree, ...]

    def __len__(self) -> int:
        return sum(map(len, self.chosen + self.rejected))


def shift(sample: Sample, aggregate: str = "token-mean") -> dict[str, np.ndarray]:
    """`tokens`, `targets`, `weights`, `denominator` (both by data/weights.py) and the given float arrays, [n] each:
    position t speaks of token t + 1. Routes are those of token t.

    The last position predicts nothing: its weight is 0.
    """
    weights, denominator = loss_weights(_next(sample.trained, np.bool_), aggregate)
    columns = {
        "tokens": np.asarray(sample.tokens, np.int32),
        "targets": _next(sample.tokens, np.int32),
        "weights": weights,
        "denominator": denominator,
    }
    for name in ALIGNED:
        value = getattr(sample, name)
        if value is not None:
            columns[name] = _next(value, np.float32)
    if sample.routes is not None:
        columns["routes"] = sample.routes
    return columns


def tree_columns(tree: Tree, aggregate: str) -> list[dict[str, np.ndarray]]:
    """`shift` of the trunk and of each branch, with the weights and the denominator of all of them as one sequence."""
    columns = [shift(sample) for sample in (tree.trunk, *(branch.sample for branch in tree.branches))]
    trained = np.concatenate([c["weights"] > 0 for c in columns])
    ends = np.cumsum([len(c["tokens"]) for c in columns])[:-1]
    weights, denominator = (np.split(x, ends) for x in loss_weights(trained, aggregate, tree.of_tokens))
    return [
        c | {"weights": w, "denominator": d} for c, w, d in zip(columns, weights, denominator, strict=True)
    ]


def pack_rows(
    samples: Sequence[Sample | Tree],
    sequence_length: int,
    row_multiple: int = 1,
    routes: tuple[int, int] | None = None,
    aggregate: str = "token-mean",
) -> Batch:
    """Packs samples and trees by first-fit-decreasing: longest first, each into the first row that has room.

    Deterministic. `sequence` numbers the samples of a row from 0. Rows of padding are added until their
    count is a multiple of `row_multiple` (of the micro-batch, say); no sample is split or dropped. The batch has
    the samples' routes where `routes` says their (L, k). `aggregate` says how losses are averaged (data/weights.py).

    Raises:
      ConfigError: a sample longer than a row.
    """
    sizes = [len(sample) for sample in samples]
    _check_sizes("sample", sizes, sequence_length)
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])  # stable: equals stay in order
    rows = first_fit([sizes[i] for i in order], sequence_length)
    batch = Batch.empty(_round_up(len(rows), row_multiple), sequence_length, routes)
    for row, members in enumerate(rows):
        start = 0
        for sequence, member in enumerate(members):
            item = samples[order[member]]
            tree = item if isinstance(item, Tree) else Tree(item)
            start = _put_tree(batch, row, start, tree, sequence, aggregate)
    return batch


def pack_pairs(
    pairs: Sequence[Pair | TreePair], sequence_length: int, pairs_per_row: int, row_multiple: int = 1
) -> Batch:
    """Packs preference pairs, first fit in the given order, at most `pairs_per_row` to a row.

    Of pair i of a row, the chosen sequence is 2i, the rejected one 2i + 1. The last prompt token predicts
    the first token of both continuations, so it is no part of the trunk and begins each branch instead:

        prompt p q r   chosen c d   rejected e
        tokens      p  q  r  c  d  r  e
        targets     q  r  c  d  0  e  0
        positions   0  1  2  3  4  2  3
        trunk       -  -  pq pq pq pq pq
        sequence   -1 -1  0  0  0  1  1

    A pair adds 1 to the denominator, at its chosen sequence's first position, if both sequences have a trained token.

    Raises:
      ConfigError: a pair longer than a row.
    """
    sizes = [len(pair) for pair in pairs]
    _check_sizes("pair (prompt + 1 + chosen + rejected)", sizes, sequence_length)
    rows = first_fit(sizes, sequence_length, pairs_per_row)
    batch = Batch.empty(_round_up(len(rows), row_multiple), sequence_length)
    for row, members in enumerate(rows):
        start = 0
        for i, member in enumerate(members):
            pair = pairs[member]
            if isinstance(pair, Pair):
                start = _put_pair(batch, row, start, pair, first_sequence=2 * i)
            else:
                start = _put_tree_pair(batch, row, start, pair, first_sequence=2 * i)
    return batch


def digest_of_rows(batch: Batch) -> str:
    """64 hexadecimal digits of what rows (numpy) hold and what of it is trained."""
    digest = hashlib.sha256()
    for part in (batch.tokens, batch.targets, batch.weights, batch.positions, batch.sequence):
        digest.update(np.asarray(part).tobytes())
    return digest.hexdigest()


def first_fit(sizes: Iterable[int], capacity: int, most: int | None = None) -> list[list[int]]:
    """Indices of `sizes` by bin: each goes into the first bin with room, and fewer than `most` items.

    Quadratic in the number of bins, at numpy's speed.
    """
    bins: list[list[int]] = []
    room = np.zeros(0, np.int64)
    for index, size in enumerate(sizes):
        fits = np.flatnonzero(room >= size)[:1]
        if fits.size:
            chosen = int(fits[0])
        else:
            chosen = len(bins)
            bins.append([])
            if chosen == len(room):  # room is over-allocated, as a list would be; -1 fits nothing
                room = np.concatenate([room, np.full(max(16, chosen), -1)])
            room[chosen] = capacity
        bins[chosen].append(index)
        room[chosen] = room[chosen] - size if len(bins[chosen]) != most else -1
    return bins


def _put_tree(batch: Batch, row: int, start: int, tree: Tree, sequence: int, aggregate: str) -> int:
    """Writes a trunk and its branches from `start` on, and returns where they end."""
    end = start
    seen = (0, *(branch.seen for branch in tree.branches))
    for tokens, columns in zip(seen, tree_columns(tree, aggregate), strict=True):
        trunk = (start, start + tokens) if tokens else (0, 0)
        _put(batch, row, end, columns, sequence=sequence, position=tokens, trunk=trunk)
        end += len(columns["tokens"])
    return end


def _put_pair(batch: Batch, row: int, start: int, pair: Pair, first_sequence: int) -> int:
    """Writes a pair's trunk and branches from `start` on, and returns where it ends."""
    prompt = np.asarray(pair.prompt, np.int32)
    trunk = len(prompt) - 1
    untrained = Sample(prompt, np.zeros(len(prompt), bool))
    _put(batch, row, start, {name: column[:trunk] for name, column in shift(untrained).items()})
    end = start + trunk
    for sequence, continuation in enumerate((pair.chosen, pair.rejected), first_sequence):
        branch = _after(prompt[-1], continuation)
        columns = shift(branch, "token-sum")
        _put(batch, row, end, columns, sequence=sequence, position=trunk, trunk=(start, start + trunk))
        end += len(branch)
    batch.denominator[row, start + trunk] = float(pair.chosen.trained.any() and pair.rejected.trained.any())
    return end


def _put_tree_pair(batch: Batch, row: int, start: int, pair: TreePair, first_sequence: int) -> int:
    """Writes the trees of both sequences from `start` on, and returns where they end."""
    end, tokens = start, []
    for sequence, trees in enumerate((pair.chosen, pair.rejected), first_sequence):
        before = end
        for tree in trees:
            end = _put_tree(batch, row, end, tree, sequence, "token-sum")
        tokens.append(batch.weights[row, before:end].sum())
    batch.denominator[row, start] = float(min(tokens) > 0)
    return end


def _after(token: np.integer, sample: Sample) -> Sample:
    """`sample` with one untrained token before it."""
    floats = {name: getattr(sample, name) for name in ALIGNED}
    return Sample(
        tokens=np.concatenate([[token], sample.tokens]).astype(np.int32),
        trained=np.concatenate([[False], sample.trained]).astype(bool),
        **{
            k: None if v is None else np.concatenate([[0.0], v]).astype(np.float32) for k, v in floats.items()
        },
    )


def _put(
    batch: Batch,
    row: int,
    start: int,
    columns: dict[str, np.ndarray],
    sequence: int = -1,
    position: int = 0,
    trunk: tuple[int, int] = (0, 0),
) -> None:
    """Writes shifted columns at `start` of a row; they see themselves, causally, and the trunk."""
    here = slice(start, start + len(columns["tokens"]))
    for name, column in columns.items():
        getattr(batch, name)[row, here] = column
    batch.positions[row, here] = np.arange(position, position + len(columns["tokens"]))
    batch.spans.trunk_lo[row, here], batch.spans.trunk_hi[row, here] = trunk
    batch.spans.own_lo[row, here] = start
    batch.sequence[row, here] = sequence


def _next(values: np.ndarray, dtype: type) -> np.ndarray:
    return np.append(values[1:], 0).astype(dtype)


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _check_sizes(what: str, sizes: Sequence[int], sequence_length: int) -> None:
    for i, size in enumerate(sizes):
        if size > sequence_length:
            raise ConfigError(
                f"{what} {i} has {size} tokens, a row {sequence_length}; raise sequence_length to at least {size}, "
                "or leave the example out"
            )
