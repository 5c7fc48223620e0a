"""Conversations that are kept out of training, to tell what the model does on text it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.fingerprint import digest_of_parts
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.data.survey import check_length, render
from mirothinker_jax.types import Batch


class Selection:
    """A ConversationSource: some conversations of another, by their numbers."""

    def __init__(self, source: ConversationSource, numbers: Sequence[int]):
        self._source, self._numbers = source, numbers
        self.name = source.name
        self.fingerprint = digest_of_parts([source.fingerprint, repr(list(numbers))])

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        return self._source[self._numbers[index]]

    def location(self, index: int) -> str:
        return self._source.location(self._numbers[index])


def split(source: ConversationSource, fraction: float) -> tuple[Selection, Selection]:
    """(to train on, held out): drawn without regard to the run's seed, so that runs on the same data can be compared.

    `fraction` of the conversations is held out, and at least one.

    Raises:
      ConfigError: nothing would be left to train on.
    """
    total = len(source)
    count = max(1, round(fraction * total))
    if count >= total:
        raise ConfigError(
            f"data.validation_fraction is {fraction} of {total} conversations, which leaves none to train on; lower "
            "it, or give data.validation_path"
        )
    order = np.random.default_rng(0).permutation(total)
    chosen, rest = (sorted(part.tolist()) for part in (order[:count], order[count:]))
    return Selection(source, rest), Selection(source, chosen)


def packed_rows(conversations: ConversationSource, chat: Chat, sequence_length: int) -> Batch:
    """All of the conversations in rows, numpy [R, T].

    Raises:
      DataError: one that cannot be rendered, or does not fit a row.
    """
    samples = []
    for number in range(len(conversations)):
        sample = Sample(*render(conversations, chat, number))
        check_length(conversations.location(number), len(sample), sequence_length)
        samples.append(sample)
    return pack_rows(samples, sequence_length)
