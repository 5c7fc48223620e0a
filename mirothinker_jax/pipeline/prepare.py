"""What the stages share, made in this order: tasks and tools, conversations, tokenizer, model, collector.

Each function makes one of them, and says in its arguments what it needs. Where several processes run, all call all of
them: the first plays the expert and trains the tokenizer, and the others wait for it. A run that only fine-tunes on a
file starts no tools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import Config, ToolsConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import ConversationSource, open_conversations
from mirothinker_jax.data.heldout import split
from mirothinker_jax.data.hf_tokenizer import open_tokenizer, tokenizer_file
from mirothinker_jax.data.preference_files import PreferencePairs
from mirothinker_jax.data.tokenizer import TextCodec
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.mesh import make_mesh
from mirothinker_jax.parallel.placement import data_shard
from mirothinker_jax.parallel.processes import barrier
from mirothinker_jax.pipeline.corpus import train_run_tokenizer, write_expert_episodes
from mirothinker_jax.pipeline.hf_folder import eos_ids
from mirothinker_jax.pipeline.inputs import Inputs, draw_tasks, open_tasks, padded_vocabulary, purposes
from mirothinker_jax.pipeline.phases import Phases
from mirothinker_jax.rollout.collect import Runtime
from mirothinker_jax.rollout.collector import Collector
from mirothinker_jax.rollout.hosts import EngineHost, LocalHost
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.layout import sampling_model
from mirothinker_jax.tasks.types import Environment, Task
from mirothinker_jax.tools.build import SERVERS, build_tools, key_env
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.trainer.checkpoint import model_identity
from mirothinker_jax.trainer.metrics import progress
from mirothinker_jax.trajectory.journal import share
from mirothinker_jax.world.server import WorldServer


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    config: Config
    folder: Path
    phases: Phases

    @property
    def first(self) -> bool:
        return jax.process_index() == 0

    def bar(self, total: int, description: str, unit: str) -> Any:
        return progress(total, 0, description, unit, enabled=self.first)

    def phase(self, name: str, unit: str) -> Callable[[int], contextlib.AbstractContextManager[Any]]:
        """For work of so many units: how long it takes is noted under `name`, and a bar shows how far it is."""

        @contextlib.contextmanager
        def shown(total: int) -> Iterator[Any]:
            with self.phases(name), self.bar(total, name, unit) as bar:
                yield bar

        return shown


@dataclass(frozen=True)
class Acting:
    """What episodes are about. `tasks` are by purpose: the "expert", "dpo", "grpo" or the "evaluation"."""

    environment: Environment
    tasks: dict[str, Sequence[Task]]
    tools: Sequence[Tool]
    settings: ToolsConfig  # of this process


@dataclass(frozen=True)
class Text:
    """What is trained on, and how it becomes tokens."""

    conversations: ConversationSource | None
    heldout: ConversationSource | None
    tokenizer: TextCodec
    chat: Chat
    pairs: PreferencePairs | None = None  # of the user's own


@dataclass(frozen=True)
class Learner:
    """The model on its mesh."""

    model: ModelSpec
    identity: dict[str, Any]  # what a checkpoint's numbers belong to
    shard: tuple[int, int]  # this process's (index, count) of row blocks


@dataclass(frozen=True)
class Prepared:
    """All of it. `acting` is None where a run has no episodes, and `collector` where it samples none."""

    place: Place
    acting: Acting | None
    text: Text
    learner: Learner
    collector: Collector | None
    lengths: np.ndarray | None = (
        None  # tokens of each conversation, int32 [examples], where they were counted
    )


def open_acting(config: Config, stack: contextlib.ExitStack) -> Acting | None:
    """The environment with its tasks, and the tools, started. None where the run has no episodes.

    Raises ConfigError.
    """
    wanted = purposes(config)
    if not wanted:
        return None
    settings = config.tools
    if settings.record:  # each process appends to a record of its own
        part = share(Path(settings.record), jax.process_index(), jax.process_count())
        settings = dataclasses.replace(settings, record=str(part))

    def tools() -> list[Tool]:
        """On the embedded web, on the open one with a search service of the user's own, or in a corpus."""
        if settings.search_backend != "world":
            return build_tools(settings, None, os.environ.get(key_env(settings), ""))
        server = stack.enter_context(WorldServer(config.world, config.seed))
        return build_tools(settings, server.proxy_url, "")

    environment = open_tasks(config, tools)
    stack.callback(environment.close)
    tasks = {purpose: draw_tasks(environment, config, purpose) for purpose in wanted}
    return Acting(environment, tasks, environment.tools(), settings)


def find_conversations(
    config: Config, folder: Path, inputs: Inputs
) -> tuple[ConversationSource | None, ConversationSource | None]:
    """What SFT trains on, and what of it is held out, as far as they are there: the user's data, or what the expert has
    played."""
    source = inputs.conversations
    if source is None:
        path = folder / "data" / "expert.jsonl"
        if not path.exists():
            return None, None
        source = open_conversations(str(path))
    fraction = config.data.validation_fraction
    return split(source, fraction) if fraction else (source, None)


def open_text(place: Place, acting: Acting | None, inputs: Inputs) -> Text:
    """Plays the expert and trains the tokenizer where the run needs them and they are not there yet."""
    c, data = place.config, place.folder / "data"
    if acting is not None and "expert" in acting.tasks:
        path = data / "expert.jsonl"
        if not path.exists() and place.first:
            tasks = acting.tasks["expert"]
            with place.phases("expert"), place.bar(len(tasks), "expert episodes", "episode") as bar:
                write_expert_episodes(path, c, tasks, acting.tools, bar)
        barrier("expert")
    conversations, heldout = find_conversations(c, place.folder, inputs)
    if c.data.validation_path:
        heldout = inputs.validation
    tokenizer = inputs.tokenizer
    if tokenizer is None:
        path = data / "tokenizer.model"
        if not path.exists() and place.first:
            assert conversations is not None, "a run without a tokenizer has conversations"
            with place.phases("tokenizer"):
                train_run_tokenizer(path, conversations, c)
        barrier("tokenizer")
        tokenizer = open_tokenizer(path, c.tokenizer.template)
    servers = {name: SERVERS[name] for name in c.tools.names}
    return Text(conversations, heldout, tokenizer, Chat(tokenizer, servers, c.data.call_format), inputs.pairs)


def open_learner(config: Config, folder: Path, tokenizer: TextCodec) -> Learner:
    """The model, without parameters."""
    vocab_size = padded_vocabulary(config.model.vocab_size, tokenizer)
    model = ModelSpec.build(config.model, vocab_size, make_mesh(config.mesh))
    file = tokenizer_file(config.tokenizer.path or folder / "data" / "tokenizer.model")
    return Learner(model, model_identity(config.model, vocab_size, file), data_shard(model.mesh))


def open_collector(
    config: Config,
    acting: Acting,
    text: Text,
    learner: Learner,
    setting: Setting,
    stack: contextlib.ExitStack,
) -> Collector:
    """Samples on this process's devices, or by servers, which must be there."""
    c = config
    end_ids = turn_end_ids(c, text.tokenizer)
    if c.rollout.engine == "remote":
        from mirothinker_jax.pipeline.servers import (
            open_servers,
        )  # only who asks servers pays for importing HTTP

        host: EngineHost = open_servers(c, learner.model, end_ids)
    else:
        here = sampling_model(c, learner.model.vocab_size)
        routes = c.grpo.replay_routes
        host = LocalHost(Device(here, c.rollout, c.agent.context_tokens, end_ids, routes))
    executor = ToolExecutor(acting.tools, acting.settings, text.tokenizer.truncate)
    runtime = Runtime(
        executor=executor,
        chat=text.chat,
        decode=text.tokenizer.decode,
        setting=setting,
        grader=acting.environment.grader,
        tries=c.tasks.tries,
        broken_share=c.tasks.broken_share,
    )
    collector = Collector(host, executor, runtime)
    stack.callback(collector.close)
    return collector


def turn_end_ids(config: Config, tokenizer: TextCodec) -> tuple[int, ...]:
    """The tokens that end a turn: `<|im_end|>`, and what the model's files, beside its tokenizer, name."""
    file = tokenizer_file(config.tokenizer.path) if config.tokenizer.path else None
    if file is None or file.suffix != ".json":
        return (tokenizer.im_end_id,)
    return eos_ids(file.parent, tokenizer)
