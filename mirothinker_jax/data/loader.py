"""Batches of packed conversations for supervised training, by grain.

Unusual: the data are dealt to `data.shards` independent streams, each with its own shuffle and its own
packing, and every batch takes the same number of rows from each. Processes own shards, so the global batch
and the saved position do not depend on how many processes there are. Threads read ahead; there are no
worker processes, with which the order of the data would depend on their number.

Left out: mixing several corpora by weight; shuffling across shards (each epoch has a new order of every
shard's own examples).
"""

from __future__ import annotations

from typing import Any

import grain
import grain.experimental
import numpy as np

from mirothinker_jax.config import ConfigError, DataConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.packing import Sample, shift
from mirothinker_jax.data.survey import check_length, render
from mirothinker_jax.types import Batch

_COLUMNS = ("tokens", "targets", "weights", "denominator")


class SFTSource:
    """A types.BatchSource: conversations → tokens → packed rows, forever.

    Args:
      conversations: what to train on.
      chat: renders them.
      settings: shards, shuffle, open_bins, read_threads.
      sequence_length: T.
      rows: rows of the GLOBAL batch; this process gives rows / process_count of them.
      seed: of the shuffle.

    Raises:
      ConfigError: numbers that do not divide, or fewer conversations than shards.
    """

    on_policy = False

    def __init__(
        self,
        conversations: ConversationSource,
        chat: Chat,
        settings: DataConfig,
        sequence_length: int,
        rows: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        shards, examples = settings.shards, len(conversations)
        if shards % process_count:
            raise ConfigError(
                f"data.shards ({shards}) must be a multiple of the number of processes ({process_count})"
            )
        if rows % shards:
            raise ConfigError(
                f"sft.training.batch_size ({rows}) must be a multiple of data.shards ({shards})"
            )
        if examples < shards:
            raise ConfigError(
                f"data.shards is {shards} for {examples} conversations; lower it, or give more data"
            )
        self._rows_per_shard = rows // shards
        self._sequence_length = sequence_length
        # What a saved position belongs to: anything else here and it would point somewhere else.
        self._conversations = conversations
        self._identity = {
            "shard_count": shards,
            "sequence_length": sequence_length,
            "open_bins": settings.open_bins,
            "shuffle": settings.shuffle,
            "seed": seed,
            "template": repr(chat.template),  # a file beside the tokenizer may have changed it
        }
        columns = _Render(conversations, chat, sequence_length)
        own = shards // process_count
        self._streams = {
            shard: iter(_stream(columns, settings, sequence_length, examples, shard, seed))
            for shard in range(process_index * own, (process_index + 1) * own)
        }

    def next(self, step: int, params: Any) -> tuple[Batch, dict[str, float]]:
        """This process's rows of the next batch, in shard order. `step` and `params` play no part.

        Raises:
          DataError: a conversation longer than a row, or one that cannot be read.
        """
        rows = [next(stream) for stream in self._streams.values() for _ in range(self._rows_per_shard)]
        column = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        inside = column["tokens_segment_ids"] > 0
        batch = Batch.empty(len(rows), self._sequence_length)
        batch.tokens[:] = column["tokens"]
        batch.targets[:] = column["targets"]
        batch.weights[:] = column["weights"]
        batch.denominator[:] = column["denominator"]
        batch.positions[:] = column["tokens_positions"]
        batch.spans.own_lo[:] -= batch.positions  # padding has position 0, and stays its own index
        batch.sequence[:] = column["tokens_segment_ids"] - 1
        return batch, {"data/fill": float(inside.mean()), "data/trained": float((batch.weights > 0).mean())}

    def get_state(self) -> dict[str, Any]:
        """The position of this process's streams; "shards" of several processes' states may be merged."""
        return {
            "data": _identity(self._conversations),
            **self._identity,
            "shards": {str(shard): stream.get_state() for shard, stream in self._streams.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on exactly after the batch that `state` was taken after, on any number of processes.

        Raises:
          ConfigError: the state belongs to other data or settings, or lacks one of this process's shards.
        """
        check_same_data(state, self._conversations)
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise ConfigError(
                    f"the saved data position has {key} {state.get(key)}, this run {value}; "
                    "restore that setting, or give another config.run_dir"
                )
        missing = [shard for shard in self._streams if str(shard) not in state["shards"]]
        if missing:
            raise ConfigError(
                f"the saved data position lacks shard {missing[0]} (it has {', '.join(state['shards'])}); "
                "merge the states of all processes that saved it"
            )
        for shard, stream in self._streams.items():
            stream.set_state(state["shards"][str(shard)])


def check_same_data(state: dict[str, Any], conversations: ConversationSource) -> None:
    """Raises ConfigError where the state of an SFTSource was taken on other data than these."""
    saved, data = state.get("data", {}), _identity(conversations)
    if (saved.get("examples"), saved.get("sha256")) != (data["examples"], data["sha256"]):
        raise ConfigError(
            f"data.path: this run was made with other data: {_described(saved)}; now it is {_described(data)}; give "
            "the former data back, or another config.run_dir"
        )


def _identity(conversations: ConversationSource) -> dict[str, Any]:
    return {
        "path": conversations.name,
        "examples": len(conversations),
        "sha256": conversations.fingerprint,
    }


def _described(data: dict[str, Any]) -> str:
    digest = str(data.get("sha256"))[:12]
    return f"{data.get('path')} ({data.get('examples')} conversations, SHA-256 {digest}…)"


class _Render:
    """Example number → its shifted columns: what grain's threads do."""

    def __init__(self, conversations: ConversationSource, chat: Chat, sequence_length: int):
        self._conversations, self._chat, self._sequence_length = conversations, chat, sequence_length

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        rendered = render(self._conversations, self._chat, index)
        check_length(self._conversations.location(index), len(rendered.tokens), self._sequence_length)
        return shift(Sample(*rendered))


def shard_numbers(settings: DataConfig, examples: int, shard: int, seed: int) -> grain.MapDataset:
    """The numbers of a shard's examples, in the order of the first epoch."""
    numbers = grain.MapDataset.range(shard, examples, settings.shards)
    return numbers.shuffle(seed=_shard_seed(seed, shard)) if settings.shuffle else numbers


def _shard_seed(seed: int, shard: int) -> int:
    return int(np.random.SeedSequence([seed, shard]).generate_state(1)[0])


def _stream(
    columns: _Render, settings: DataConfig, sequence_length: int, examples: int, shard: int, seed: int
) -> grain.IterDataset:
    """Shard `shard`: examples shard, shard + shards, … in a new order every epoch, first-fit into rows."""
    own_seed = _shard_seed(seed, shard)
    rendered = shard_numbers(settings, examples, shard, seed).repeat().map(columns)
    ahead = grain.ReadOptions(
        num_threads=settings.read_threads,
        prefetch_buffer_size=2 * settings.open_bins + settings.read_threads if settings.read_threads else 0,
    )
    return grain.experimental.FirstFitPackIterDataset(
        rendered.to_iter_dataset(ahead),
        length_struct=dict.fromkeys(_COLUMNS, sequence_length),
        num_packing_bins=settings.open_bins,
        seed=own_seed,
        shuffle_bins=settings.shuffle,
    )
