"""What is wrong with a run, said before its first stage: a mistake in the last stage must not cost the hours before.

First what the settings, the machine and the embedded web tell; then, when there is a tokenizer, what depends on it.
"""

from __future__ import annotations

import logging

import jax

from mirothinker_jax.config import check
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.parallel.mesh import check_model, check_rows, make_mesh
from mirothinker_jax.parallel.placement import data_shard
from mirothinker_jax.parallel.processes import all_processes, max_over_processes
from mirothinker_jax.pipeline.inputs import purposes
from mirothinker_jax.pipeline.lengths import conversation_lengths
from mirothinker_jax.pipeline.workshop import Workshop

logger = logging.getLogger(__name__)


def check_run(shop: Workshop) -> None:
    """Raises ConfigError. Starts the tools where the run needs any."""
    c = shop.config
    mesh = make_mesh(c.mesh)
    check_model(mesh.shape, c.model, c.model.vocab_size)
    c.check_sequence_length(mesh.shape["context"])
    for stage in c.stages:
        check_rows(
            mesh.shape, f"{stage}.training.microbatch_size", getattr(c, stage).training.microbatch_size
        )
    _, blocks = data_shard(mesh)
    if "sft" in c.stages:
        check(
            c.data.shards % blocks == 0,
            f"data.shards is {c.data.shards}, not a multiple of the {blocks} processes",
        )
    if "grpo" in c.stages:
        processes = jax.process_count()
        check(
            c.grpo.questions % processes == 0,
            f"grpo.questions is {c.grpo.questions}, not a multiple of the {processes} processes",
        )
    asked = purposes(c)
    for purpose in asked:
        shop.questions(purpose)
    if asked:
        _ = shop.tools


def check_tokens(shop: Workshop, survey_data: bool) -> None:
    """Raises ConfigError where the context of the run's episodes is too small for an agent that acts; with
    `survey_data`, DataError for a conversation that cannot be trained on."""
    c, known = shop.config, shop.config.model.yarn
    longest = {}
    if "sft" in c.stages:
        _check_same_data(shop)
    if set(purposes(c)) - {"expert"}:
        longest["an episode (agent.context_tokens)"] = shop.setting.context_tokens
    if survey_data:
        longest["the longest conversation"] = int(shop.lengths.max())
        if shop.heldout is not None:
            longest["the longest held-out conversation"] = int(conversation_lengths(shop, shop.heldout).max())
    for what, tokens in longest.items():
        if tokens > known.native_tokens * known.factor and shop.first:
            logger.warning(
                "%s has %d tokens, the model was made for %d (model.yarn.native_tokens) × %g (model.yarn.factor): "
                "raise the factor",
                *(what, tokens, known.native_tokens, known.factor),
            )


def _check_same_data(shop: Workshop) -> None:
    """Raises DataError where processes see different conversations, as from a file that was copied to most hosts."""
    if jax.process_count() == 1:
        return
    for source in filter(None, (shop.conversations, shop.heldout)):
        digest = int(source.fingerprint[:7], 16)
        if not all_processes(digest == max_over_processes(digest)):
            raise DataError(
                f"{source.name}: file: is not the same on all processes (here its SHA-256 is "
                f"{source.fingerprint[:12]}…); give every process the same data"
            )
