"""The user's data as tokens: how long conversations are, and so how many batches a pass over them takes; pairs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.epochs import batches_per_epoch
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.data.packing import Pair
from mirothinker_jax.data.preference import render_pair
from mirothinker_jax.data.survey import survey
from mirothinker_jax.parallel.processes import all_processes, barrier, merge_shares
from mirothinker_jax.pipeline.prepare import Learner, Place, Text


def conversation_lengths(place: Place, text: Text, conversations: ConversationSource) -> np.ndarray:
    """Tokens of every conversation, int32 [examples]. Each process renders its share; every process must ask.

    Raises:
      DataError: a conversation that cannot be trained on.
    """
    c = place.config
    threads, sequence_length = c.data.read_threads, c.sft.training.sequence_length
    numbers = range(len(conversations))[jax.process_index() :: jax.process_count()]
    lengths, wrong = np.zeros(len(numbers), np.int32), None
    with place.phases("survey"), place.bar(len(numbers), "survey", "conversation") as bar:
        try:
            lengths = survey(conversations, text.chat, numbers, sequence_length, threads, bar.update)
        except DataError as error:
            wrong = error
    if not all_processes(wrong is None):
        raise wrong or DataError(
            "another process found a conversation that cannot be trained on; see its message"
        )
    return merge_shares(lengths, len(conversations))


def rendered_pairs(place: Place, text: Text) -> list[Pair]:
    """The user's preference pairs as tokens, all of them on every process. Raises DataError."""
    assert text.pairs is not None
    pairs = text.pairs.pairs
    with place.phases("preference pairs"), place.bar(len(pairs), "preference pairs", "pair") as bar:
        found = []
        for pair in pairs:
            found.append(render_pair(pair, text.chat))
            bar.update(1)
    return found


def sft_batches_per_epoch(
    place: Place, text: Text, learner: Learner, lengths: np.ndarray | None = None
) -> float:
    """Batches of a pass over the conversations. Every process must ask. `lengths` are theirs, where they are known.

    Kept in the run folder beside what it depends on: a run that goes on has no need to render everything again.
    """
    assert text.conversations is not None
    c, path = place.config, place.folder / "sft" / "epoch.json"
    training = c.sft.training
    settings = {
        k: v for k, v in dataclasses.asdict(c.data).items() if k in ("shards", "open_bins", "shuffle")
    }
    basis: dict[str, Any] = {
        **settings,
        "data": text.conversations.fingerprint,
        "tokenizer": learner.identity["tokenizer_sha256"],
        "template": repr(text.chat.template),
        "call_format": c.data.call_format,
        "batch_size": training.batch_size,
        "sequence_length": training.sequence_length,
        "seed": c.seed,
    }
    kept = json.loads(path.read_text()) if path.exists() else {}
    if all_processes(kept.get("basis") == basis):
        return kept["batches"]
    if lengths is None:
        lengths = conversation_lengths(place, text, text.conversations)
    batches = batches_per_epoch(lengths, c.data, training.sequence_length, training.batch_size, c.seed)
    if place.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps({"batches": batches, "basis": basis}, indent=2))
    barrier("batches of an epoch")
    return batches
