"""What is wrong with a run, said before its first stage: a mistake in the last stage must not cost the hours before.

First what the settings and the machine tell; then, when there is a tokenizer, what depends on it.
"""

from __future__ import annotations

import logging

import jax
import numpy as np

from mirothinker_jax.agent.setting import Setting, episode_setting, min_context_tokens
from mirothinker_jax.config import Config, check
from mirothinker_jax.data.loader import check_same_data
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.parallel.mesh import check_model, check_rows, make_mesh
from mirothinker_jax.parallel.placement import data_shard
from mirothinker_jax.parallel.processes import all_processes, max_over_processes
from mirothinker_jax.pipeline.inputs import Inputs, purposes
from mirothinker_jax.pipeline.lengths import conversation_lengths, rendered_pairs
from mirothinker_jax.pipeline.prepare import Acting, Place, Text, find_conversations
from mirothinker_jax.rollout.local.layout import check_tensor, pages_of_copy
from mirothinker_jax.trainer.checkpoint import read_item
from mirothinker_jax.trainer.steps import trained_steps

logger = logging.getLogger(__name__)


def check_settings(c: Config) -> None:
    """Raises ConfigError where the settings do not fit the machine."""
    mesh = make_mesh(c.mesh)
    check_model(mesh.shape, c.model, c.model.vocab_size)
    c.check_sequence_length(mesh.shape["context"])
    for stage in c.stages:
        check_rows(
            mesh.shape, f"{stage}.training.microbatch_size", getattr(c, stage).training.microbatch_size
        )
    if set(purposes(c)) - {"expert"} and c.rollout.engine == "local":
        on_tpu = jax.default_backend() == "tpu"
        check_tensor(c.rollout, c.model, c.model.vocab_size, jax.local_device_count(), on_tpu)
        pages_of_copy(jax.local_device_count() // c.rollout.tensor, c.rollout, c.agent.context_tokens)
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


def check_data(place: Place, inputs: Inputs) -> None:
    """Raises ConfigError where SFT, done or not, was trained on other data than the settings name now."""
    checkpoints = place.folder / "sft" / "checkpoints"
    step = trained_steps(checkpoints)
    if "sft" not in place.config.stages or not step:
        return
    conversations, _ = find_conversations(place.config, place.folder, inputs)
    if conversations is None:
        return
    try:
        saved = read_item(checkpoints / str(step), "source")
    except (OSError, ValueError):  # damaged: the loop compares, with the step that it goes on from
        return
    check_same_data(saved, conversations)


def sampled_setting(c: Config, acting: Acting, text: Text) -> Setting:
    """What the policy's episodes run under. Raises ConfigError where their context is too small for an agent that
    acts."""
    specs = [tool.spec for tool in acting.tools]
    setting = episode_setting(c.agent, specs, c.tools.output_tokens, c.data.call_format)
    least = min_context_tokens(setting, text.chat)
    check(
        setting.context_tokens >= least,
        f"agent.context_tokens is {setting.context_tokens}; with this system prompt, turns of agent.turn_tokens="
        f"{setting.turn_tokens} and results of tools.output_tokens={setting.output_tokens} it takes at least {least}, "
        "or the final answer is forced after the first call",
    )
    return setting


def check_tokens(place: Place, text: Text, setting: Setting | None, survey_data: bool) -> np.ndarray | None:
    """Warns of what is longer than the model knows. With `survey_data`, the lengths of the conversations, int32
    [examples].

    Raises DataError for a conversation that cannot be trained on, or data that differs between processes.
    """
    c, known = place.config, place.config.model.yarn
    longest, lengths = {}, None
    _check_same_data(text)
    if text.pairs is not None and c.stages[0] != "dpo" and c.data.survey and not _has_begun(place, "dpo"):
        rendered_pairs(place, text)  # what is wrong with one is said now; the stage renders them again
    if setting is not None:
        longest["an episode (agent.context_tokens)"] = setting.context_tokens
    if survey_data:
        assert text.conversations is not None
        lengths = conversation_lengths(place, text, text.conversations)
        longest["the longest conversation"] = int(lengths.max())
        if text.heldout is not None:
            heldout = conversation_lengths(place, text, text.heldout)
            longest["the longest held-out conversation"] = int(heldout.max())
    for what, tokens in longest.items():
        if tokens > known.native_tokens * known.factor and place.first:
            logger.warning(
                "%s has %d tokens, the model was made for %d (model.yarn.native_tokens) × %g (model.yarn.factor): "
                "raise the factor",
                *(what, tokens, known.native_tokens, known.factor),
            )
    return lengths


def _has_begun(place: Place, stage: str) -> bool:
    return trained_steps(place.folder / stage / "checkpoints") > 0


def _check_same_data(text: Text) -> None:
    """Raises DataError where processes see different data, as from a file that was copied to most hosts."""
    if jax.process_count() == 1:
        return
    for source in filter(None, (text.conversations, text.heldout, text.pairs)):
        digest = int(source.fingerprint[:7], 16)
        if not all_processes(digest == max_over_processes(digest)):
            raise DataError(
                f"{source.name}: file: is not the same on all processes (here its SHA-256 is "
                f"{source.fingerprint[:12]}…); give every process the same data"
            )
