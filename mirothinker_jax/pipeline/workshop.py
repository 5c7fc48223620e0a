"""What the stages share: the embedded web, tools, tokenizer, model on its mesh, and the episode collector.

Everything is made when first asked for, so a run that only fine-tunes on a file starts no web server.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirothinker_jax.agent.episode import Setting, Task, min_context_tokens
from mirothinker_jax.agent.prompt import system_prompt
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.config import Config, ToolsConfig, check
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import ConversationSource, open_conversations
from mirothinker_jax.data.heldout import split
from mirothinker_jax.data.hf_tokenizer import open_tokenizer, tokenizer_file
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import local_mesh, make_mesh
from mirothinker_jax.parallel.placement import data_shard
from mirothinker_jax.parallel.processes import barrier
from mirothinker_jax.pipeline.corpus import train_run_tokenizer, write_expert_episodes
from mirothinker_jax.pipeline.hf_folder import eos_ids
from mirothinker_jax.pipeline.inputs import Inputs, open_inputs, padded_vocabulary
from mirothinker_jax.pipeline.lengths import conversation_lengths
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.rollout.collect import Collector
from mirothinker_jax.rollout.engine import Engine
from mirothinker_jax.tools.build import SERVERS, build_tools, key_env
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.trainer.checkpoint import model_identity
from mirothinker_jax.trainer.metrics import progress
from mirothinker_jax.trajectory.store import share
from mirothinker_jax.world.facts import World, load_world
from mirothinker_jax.world.questions import Question, make_questions
from mirothinker_jax.world.server import WorldServer


class Workshop(contextlib.ExitStack):
    """A context manager: leaving it stops what was started."""

    def __init__(self, config: Config, folder: Path, phases: Phases, inputs: Inputs | None = None):
        """`inputs` are what `open_inputs(config)` gave, where it was asked already; else it is when they are needed."""
        super().__init__()
        self.config, self.folder, self.phases = config, folder, phases
        self._opened = inputs
        self.first = jax.process_index() == 0

    def bar(self, total: int, description: str, unit: str) -> Any:
        return progress(total, 0, description, unit, enabled=self.first)

    # The web and the tools

    @functools.cached_property
    def world(self) -> World:
        return load_world(self.config.world, self.config.seed)

    def questions(self, purpose: str) -> list[Question]:
        """The questions for the "expert", "dpo", "grpo" or the "evaluation", of depth 0 … world.max_hops."""
        c = self.config
        split, count = {
            "expert": ("train", c.sft.expert_episodes),
            "dpo": ("train", c.dpo.questions),
            "grpo": ("train", c.grpo.question_pool),
            "evaluation": ("heldout", c.evaluation.questions),
        }[purpose]
        seed = int.from_bytes(hashlib.sha256(f"{c.seed}|{purpose}".encode()).digest()[:4])
        depths = range(c.world.max_hops + 1)
        return make_questions(self.world, split, depths, count, seed, c.world.attributes)

    @functools.cached_property
    def tool_settings(self) -> ToolsConfig:
        """Those of this process: each appends to a record of its own."""
        settings = self.config.tools
        if not settings.record:
            return settings
        part = share(Path(settings.record), jax.process_index(), jax.process_count())
        return dataclasses.replace(settings, record=str(part))

    @functools.cached_property
    def tools(self) -> list[Tool]:
        """On the embedded web, on the open one with a search service of the user's own, or in a corpus."""
        settings = self.tool_settings
        if settings.search_backend != "world":
            return build_tools(settings, None, os.environ.get(key_env(settings), ""))
        server = self.enter_context(WorldServer(self.config.world, self.config.seed))
        return build_tools(settings, server.proxy_url, "")

    @functools.cached_property
    def system(self) -> str | None:
        c = self.config
        specs = [tool.spec for tool in self.tools]
        return system_prompt(c.agent.system_prompt_file, specs, c.data.call_format)

    # Text and tokens

    @functools.cached_property
    def _inputs(self) -> Inputs:
        return self._opened or open_inputs(self.config)

    @functools.cached_property
    def conversations(self) -> ConversationSource:
        """What is trained on."""
        fraction = self.config.data.validation_fraction
        return split(self._conversations, fraction)[0] if fraction else self._conversations

    @functools.cached_property
    def heldout(self) -> ConversationSource | None:
        """What is not trained on, to take its loss."""
        c = self.config.data
        if c.validation_path:
            return self._inputs.validation
        return split(self._conversations, c.validation_fraction)[1] if c.validation_fraction else None

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of every conversation that is trained on, int32 [examples]."""
        return conversation_lengths(self, self.conversations)

    @functools.cached_property
    def _conversations(self) -> ConversationSource:
        """The user's data, or the expert's episodes, played once."""
        c = self.config
        if c.data.path:
            assert self._inputs.conversations is not None
            return self._inputs.conversations
        path = self.folder / "data" / "expert.jsonl"
        if not path.exists() and self.first:
            with self.phases("expert"):
                count = c.sft.expert_episodes
                questions = self.questions("expert")
                with self.bar(count, "expert episodes", "episode") as bar:
                    write_expert_episodes(path, c, questions, self.tools, self.system, bar)
        barrier("expert")
        return open_conversations(str(path))

    @functools.cached_property
    def tokenizer(self) -> TextCodec:
        if self.config.tokenizer.path:
            assert self._inputs.tokenizer is not None
            return self._inputs.tokenizer
        path = self.folder / "data" / "tokenizer.model"
        if not path.exists():
            conversations = self.conversations  # on every process: whoever makes them, all wait
            if self.first:
                with self.phases("tokenizer"):
                    train_run_tokenizer(path, conversations, self.config)
        barrier("tokenizer")
        return open_tokenizer(path, self.config.tokenizer.template)

    @functools.cached_property
    def chat(self) -> Chat:
        servers = {name: SERVERS[name] for name in self.config.tools.names}
        return Chat(self.tokenizer, servers, self.config.data.call_format)

    # The model

    @functools.cached_property
    def vocab_size(self) -> int:
        return padded_vocabulary(self.config.model.vocab_size, self.tokenizer)

    @functools.cached_property
    def model(self) -> ModelSpec:
        return ModelSpec.build(self.config.model, self.vocab_size, make_mesh(self.config.mesh))

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint's numbers belong to."""
        tokenizer = self.config.tokenizer.path or self.folder / "data" / "tokenizer.model"
        return model_identity(self.config.model, self.model.vocab_size, tokenizer_file(tokenizer))

    @functools.cached_property
    def shard(self) -> tuple[int, int]:
        """This process's (index, count) of row blocks."""
        return data_shard(self.model.mesh)

    # Episodes

    @functools.cached_property
    def setting(self) -> Setting:
        """What an episode runs under; its context must have room for an agent that acts."""
        agent, output = self.config.agent, self.config.tools.output_tokens
        functions = WIRES[self.chat.call_format].functions([tool.spec for tool in self.tools])
        setting = Setting(
            self.system, agent.max_calls, agent.context_tokens, agent.turn_tokens, output, functions
        )
        least = min_context_tokens(setting, self.chat)
        check(
            agent.context_tokens >= least,
            f"agent.context_tokens is {agent.context_tokens}; with this system prompt, turns of agent.turn_tokens="
            f"{agent.turn_tokens} and results of tools.output_tokens={output} it takes at least {least}, or the "
            "final answer is forced after the first call",
        )
        return setting

    @functools.cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a turn: `<|im_end|>`, and what the model's files, beside its tokenizer, name."""
        if not self.config.tokenizer.path:
            return (self.tokenizer.im_end_id,)
        file = tokenizer_file(self.config.tokenizer.path)
        return eos_ids(file.parent, self.tokenizer) if file.suffix == ".json" else (self.tokenizer.im_end_id,)

    @functools.cached_property
    def collector(self) -> Collector:
        c = self.config
        # A turn's tokens are few, and rows of a batch need not divide over the devices.
        whole = dataclasses.replace(c.model, ffn_tokens=0)
        here = ModelSpec.build(whole, self.vocab_size, local_mesh())
        engine = Engine(here, c.rollout, c.agent.context_tokens, self.end_ids)
        executor = ToolExecutor(self.tools, self.tool_settings, self.tokenizer.truncate)
        collector = Collector(engine, executor, self.chat, self.tokenizer, self.setting)
        self.callback(collector.close)
        return collector


def task(question: Question) -> Task:
    return Task(question.id, question.text, question.answer, question.hops)
