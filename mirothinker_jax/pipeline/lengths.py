"""How long the conversations are in tokens, and so how many batches a pass over them takes."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.epochs import batches_per_epoch
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.data.survey import survey
from mirothinker_jax.parallel.processes import all_processes, barrier, merge_shares

if TYPE_CHECKING:
    from mirothinker_jax.pipeline.workshop import Workshop


def conversation_lengths(shop: Workshop, conversations: ConversationSource) -> np.ndarray:
    """Tokens of every conversation, int32 [examples]. Each process renders its share; every process must ask.

    Raises:
      DataError: a conversation that cannot be trained on.
    """
    threads, sequence_length = shop.config.data.read_threads, shop.config.sft.training.sequence_length
    numbers = range(len(conversations))[jax.process_index() :: jax.process_count()]
    lengths, wrong = np.zeros(len(numbers), np.int32), None
    with shop.phases("survey"), shop.bar(len(numbers), "survey", "conversation") as bar:
        try:
            lengths = survey(conversations, shop.chat, numbers, sequence_length, threads, bar.update)
        except DataError as error:
            wrong = error
    if not all_processes(wrong is None):
        raise wrong or DataError(
            "another process found a conversation that cannot be trained on; see its message"
        )
    return merge_shares(lengths, len(conversations))


def sft_batches_per_epoch(shop: Workshop) -> float:
    """Batches of a pass over the conversations. Every process must ask.

    Kept in the run folder beside what it depends on: a run that goes on has no need to render everything again.
    """
    c, path = shop.config, shop.folder / "sft" / "epoch.json"
    training = c.sft.training
    settings = {
        k: v for k, v in dataclasses.asdict(c.data).items() if k in ("shards", "open_bins", "shuffle")
    }
    basis: dict[str, Any] = {
        **settings,
        "data": shop.conversations.fingerprint,
        "tokenizer": shop.identity["tokenizer_sha256"],
        "template": repr(shop.chat.template),
        "call_format": c.data.call_format,
        "batch_size": training.batch_size,
        "sequence_length": training.sequence_length,
        "seed": c.seed,
    }
    kept = json.loads(path.read_text()) if path.exists() else {}
    if all_processes(kept.get("basis") == basis):
        return kept["batches"]
    batches = batches_per_epoch(shop.lengths, c.data, training.sequence_length, training.batch_size, c.seed)
    if shop.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps({"batches": batches, "basis": basis}, indent=2))
    barrier("batches of an epoch")
    return batches
