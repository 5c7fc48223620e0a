"""Preference pairs as tokens, and as a batch source: packed once, reference log-probs computed once, then shuffled
epochs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mirothinker_jax.config import ConfigError, check
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.packing import Pair, Sample, TreePair, digest_of_rows, pack_pairs
from mirothinker_jax.data.preference_files import SIDES, PreferencePair
from mirothinker_jax.data.records import Record
from mirothinker_jax.data.strict_json import DataError
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
        origin: str = "dpo/samples.jsonl",
    ):
        """`reference` fills in `ref_logprobs`; `shard` is this process's (index, count) of row blocks, `origin` the
        file that the pairs are from.

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
        self._batch, self._origin = reference(packed), origin
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
                f"the run's preference pairs have changed (SHA-256 {was[:12]}… → {now[:12]}…); put {self._origin} back "
                "as it was, or remove the run's dpo folder to train it anew"
            )
        self._position = state["position"]


def render_pair(pair: PreferencePair, chat: Chat) -> Pair:
    """The pair's tokens: the prompt, up to where the sides part or the first trained token stands, and both
    continuations.

    Raises:
      DataError: FILE:LINE: field: what, as Chat.render.
    """
    sides = []
    for name in SIDES:
        record: Record = getattr(pair, name)
        prompt = [
            {**m, "weight": 0} if m["role"] == "assistant" else m for m in record["messages"][: pair.prompt]
        ]
        try:
            sides.append(chat.render([*prompt, *record["messages"][pair.prompt :]], record.get("tools")))
        except DataError as error:
            raise DataError(f"{pair.where}: {name}: {error}") from None
    chosen, rejected = sides
    shared = min(len(chosen.tokens), len(rejected.tokens))
    apart = np.flatnonzero(chosen.tokens[:shared] != rejected.tokens[:shared])
    ends = [int(apart[0]) if len(apart) else shared, *(int(np.argmax(side.trained)) for side in sides)]
    prompt = min(ends)
    return Pair(chosen.tokens[:prompt], *(Sample(s.tokens[prompt:], s.trained[prompt:]) for s in sides))
