"""A policy to ask, wherever it is: a run of ours, a Hugging Face folder, or a model behind a chat endpoint.

No jax here: what is wrong with a path or a setting shows in a second, and an endpoint needs none at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.chat_engine import ChatSettings, open_chat_engine
from mirothinker_jax.agent.policy import Chat, Engine
from mirothinker_jax.agent.setting import Setting, episode_setting, min_context_tokens
from mirothinker_jax.config import PRESETS, SAMPLING, AgentConfig, Config, ConfigError, ToolsConfig, check
from mirothinker_jax.config_file import load
from mirothinker_jax.data import chat
from mirothinker_jax.data.templates import CHATML, Template
from mirothinker_jax.models.presets import HF_FOLDER, read_hf_config
from mirothinker_jax.parallel.tpu_flags import generation_here, set_flags
from mirothinker_jax.pipeline.hf_folder import IMPORT, read_json
from mirothinker_jax.tools.spec import ToolSpec

T = TypeVar("T", AgentConfig, ToolsConfig)

CHAT_CONFIG = "agent/chat"  # what a policy without settings of its own runs under


class Codec(Protocol):
    """What an evaluation needs of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str: ...

    def truncate(self, text: str, max_tokens: int) -> tuple[str, bool]: ...


class Opened(NamedTuple):
    """An engine that answers, and whose turns those are: for a manifest, and for people."""

    engine: Engine
    identity: Mapping[str, Any]
    description: str


@dataclass(frozen=True)
class Policy:
    """What collecting episodes needs.

    Attributes:
      agent, tools: the config's, with counts in tokens of `codec`.
      unit: what its tokens are: "tokens", or "characters" of an endpoint.
      end_ids: the tokens that end a turn.
      template: how a conversation is written.
      render: (messages, tools) → token ids of a whole conversation; None for an endpoint, whose ids are not known.
      engine: asks the endpoint, or loads the parameters; an async context manager, on one event loop. Raises
        ConfigError.
    """

    codec: Codec
    chat: Chat
    template: Template
    agent: AgentConfig
    tools: ToolsConfig
    unit: str
    end_ids: tuple[int, ...]
    engine: Callable[[], AbstractAsyncContextManager[Opened]]
    render: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], np.ndarray] | None = None


def open_policy(where: str, config: Config, settings: ChatSettings, servers: Mapping[str, str]) -> Policy:
    """The policy at `where`, with the settings of `starting_values`.

    Args:
      settings: for an endpoint.
      servers: a tool's name → its server's, for "mcp".

    Raises:
      ConfigError, one line: nothing there, or nothing that can be asked.
    """
    if not is_url(where):
        set_flags(generation_here(os.environ), os.environ)
        from mirothinker_jax.pipeline.local_policy import open_local

        return open_local(where, config, servers)
    codec, call_format = Characters(), config.data.call_format

    @contextlib.asynccontextmanager
    async def engine() -> AsyncIterator[Opened]:
        opened = await open_chat_engine(settings, call_format, servers, config.agent.context_tokens)
        try:
            yield Opened(opened, {"model": opened.model}, opened.description)
        finally:
            await opened.aclose()

    return Policy(
        codec=codec,
        chat=chat.Chat(codec, servers, call_format),
        template=CHATML,
        agent=in_characters(config.agent, settings.chars_per_token),
        tools=in_characters(config.tools, settings.chars_per_token),
        unit="characters",
        end_ids=(codec.im_end_id,),
        engine=engine,
    )


def in_characters(settings: T, chars_per_token: float) -> T:
    """`settings` with every count of tokens as one of characters.

    >>> in_characters(AgentConfig(context_tokens=1000, turn_tokens=10), 3.5).context_tokens
    3500
    """
    counts: dict[str, Any] = {
        field.name: int(getattr(settings, field.name) * chars_per_token)
        for field in dataclasses.fields(settings)
        if field.name.endswith("_tokens")
    }
    return dataclasses.replace(settings, **counts)


def policy_setting(policy: Policy, specs: Sequence[ToolSpec], config: Config) -> Setting:
    """What the policy's episodes run under, with the tools `specs`. Raises ConfigError where their context is too small
    for an agent that acts."""
    setting = episode_setting(policy.agent, specs, policy.tools.output_tokens, config.data.call_format)
    least, has = min_context_tokens(setting, policy.chat), policy.agent.context_tokens
    in_tokens = least * config.agent.context_tokens / has
    check(
        has >= least,
        f"agent.context_tokens is {config.agent.context_tokens}; with this system prompt, turns of agent.turn_tokens="
        f"{config.agent.turn_tokens} and results of tools.output_tokens={config.tools.output_tokens} it takes at least "
        f"{in_tokens:.0f}",
    )
    return setting


def is_url(where: str) -> bool:
    """Whether a policy is an endpoint's."""
    return re.match(r"https?://[^/\s]", where) is not None


def starting_values(
    where: str, path: str | None, preset: str, tasks: str, overridden: Collection[str]
) -> Any:
    """What the command line's settings are set in, as an ml_collections ConfigDict.

    A run brings its own settings. A config file takes their place, but for the model, the tokenizer and the call
    format, which are the policy's. Whatever has no settings runs under CHAT_CONFIG. Nothing is trained.

    Args:
      path: of a config file, or its name; None where none is given.
      preset: of the agent; it has a say in whatever neither a config file nor the command line sets.
      tasks: files of questions; "" for the config's own.
      overridden: keys that the command line sets.

    Raises:
      ConfigError: no such file or run.
    """
    from ml_collections import ConfigDict

    own = None if is_url(where) else _own_settings(where)
    values: Any
    if path is not None:
        values = load(path)
    elif own is not None and own.whole:
        values = ConfigDict(own.whole)
    else:
        values = load(CHAT_CONFIG)
    with values.unlocked(), values.ignore_type():
        for group in ("data", "agent", "tasks", "evaluation"):
            if group not in values:
                values[group] = ConfigDict()
        if own is not None:
            values.model, values.tokenizer = ConfigDict(own.model), ConfigDict(own.tokenizer)
            values.data.call_format = own.whole.get("data", {}).get(
                "call_format", values.data.get("call_format", "mcp")
            )
        if path is None:  # the day that a run began on is not the day on which its policy is asked
            values.agent.date = ""
        if path is None and (preset or "agent.preset" in overridden):
            values.agent.update(dict.fromkeys(PRESETS[""]))
            values.evaluation.update(dict.fromkeys(SAMPLING[""]))
        if preset:
            values.agent.preset = preset
        if tasks:
            values.tasks.environment, values.tasks.train, values.tasks.heldout = "files", "", tasks
        if path is not None or (own is not None and own.whole):
            _search_the_world(values, overridden)
        values.stages = ()
        values.data.validation_path, values.data.validation_fraction = "", 0.0
    return values


def _search_the_world(values: Any, overridden: Collection[str]) -> None:
    """Says by name what no search at all means where a config trains."""
    tools = values.get("tools", {})
    keys = ("search", "search_url", "corpus")
    if not any(tools.get(key) or f"tools.{key}" in overridden for key in keys):
        values.tools = {**tools, "search": "world"}


class _Own(NamedTuple):
    """The settings of a run or a Hugging Face folder. `whole`: all that a run was trained with; else empty."""

    model: dict[str, Any]
    tokenizer: dict[str, Any]
    whole: dict[str, Any]


def _own_settings(where: str) -> _Own:
    path = Path(where)
    check(
        path.is_dir(),
        f"--policy is {where!r}, and there is no such folder (now in {Path.cwd()}); give a run, one of its stage "
        "folders, a Hugging Face model's folder, or a server's address as http://host:port/v1",
    )
    run = next((p for p in (path, path.absolute().parent) if "stages" in read_json(p / "config.json")), None)
    if run is not None:
        whole = read_json(run / "config.json")
        try:
            tokenizer = dict(whole["tokenizer"])
            tokenizer["path"] = tokenizer["path"] or str(run / "data" / "tokenizer.model")
            return _Own(dict(whole["model"]), tokenizer, whole)
        except (KeyError, TypeError):
            raise ConfigError(
                f"{run / 'config.json'}: lacks settings of the model; put the run's own back"
            ) from None
    converted = (path / HF_FOLDER / "config.json").is_file()
    folder = path / HF_FOLDER if converted else path
    check(
        (folder / "config.json").is_file(),
        f"--policy is {where!r}, a folder without a config.json; give a run, one of its stage folders (runs/NAME/sft), "
        "or a Hugging Face model's folder",
    )
    values = read_json(folder / "config.json")
    dtypes = (read_json(folder / IMPORT).get("dtype"), values.get("dtype"), values.get("torch_dtype"))
    dtype = next((d for d in dtypes if d in ("float32", "bfloat16")), "float32")
    model = read_hf_config(folder / "config.json") | {"param_dtype": dtype, "compute_dtype": dtype}
    return _Own(model, {"path": str(folder / "tokenizer.json")}, {})
