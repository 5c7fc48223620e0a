"""Preference pairs as a batch source: packed once, reference log-probs computed once, then shuffled epochs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mirothinker_jax.config import ConfigError, check
from mirothinker_jax.data.packing import Pair, TreePair, digest_of_rows, pack_pairs
from mirothinker_jax.types import Batch

logger = logging.getLogger(__name__)


class PreferenceSource:
    """Rows of pairs (data/packing.py), the same on every process; each takes its block of a step's rows."""

    on_policy = False

    def __init__(
        self,
        pairs: Sequence[Pair | TreePair],
        reference: Callable[[Batch], Batch],
        *,
        sequence_length: int,
        pairs_per_row: int,
        rows: int,
        seed: int,
        shard: tuple[int, int] = (0, 1),
    ):
        """`reference` fills in `ref_logprobs`; `shard` is this process's (index, count) of row blocks.

        Pairs longer than a row are left out, with a warning: episodes whose context was edited have no length known
        before. Raises ConfigError where no pairs are left.
        """
        if not pairs:
            raise ConfigError(
                "no preference pairs: every question was answered always right or always wrong; "
                "remove the run's dpo folder, and raise dpo.questions or dpo.samples"
            )
        fitting = [pair for pair in pairs if len(pair) <= sequence_length]
        if len(fitting) < len(pairs):
            note = (
                f"{len(pairs) - len(fitting)} of {len(pairs)} preference pairs are longer than "
                f"dpo.training.sequence_length ({sequence_length}); the longest has {max(map(len, pairs))} tokens"
            )
            check(bool(fitting), f"{note}: raise it")
            logger.warning("%s: left out", note)
        packed = pack_pairs(fitting, sequence_length, pairs_per_row)
        self._sha256 = digest_of_rows(packed)
        self._batch = reference(packed)
        self._batch_size, self._seed, self._shard, self._position = rows, seed, shard, 0
        self.pairs, self.rows = len(fitting), self._batch.shape[0]

    def next(self, step: int, params: Any) -> tuple[Batch, dict[str, float]]:
        index, count = self._shard
        places = np.arange(self._position, self._position + self._batch_size)
        mine = places.reshape(count, -1)[index]
        total = self.rows
        chosen = [self._order(place // total)[place % total] for place in mine]
        self._position += self._batch_size
        return jax.tree.map(lambda x: x[chosen], self._batch), {"epoch": self._position / total}

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(self.rows)

    def get_state(self) -> dict[str, Any]:
        return {"position": self._position, "sha256": self._sha256}

    def set_state(self, state: dict[str, Any]) -> None:
        was, now = str(state.get("sha256")), self._sha256
        if was != now:
            raise ConfigError(
                f"the run's preference pairs have changed (SHA-256 {was[:12]}… → {now[:12]}…); put dpo/samples.jsonl "
                "back, or remove the run's dpo folder to train it anew"
            )
        self._position = state["position"]
