"""One question after another to a policy, with the tools of a config: what is asked, followed, and left behind.

Each question is an episode of its own. What was asked before stands in front of the question, with its answers, so a
follow-up costs a few lines and not the earlier pages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirothinker_jax.agent.chat_engine import ChatEngine, ChatSettings
from mirothinker_jax.agent.episode import run_episode
from mirothinker_jax.agent.policy import Engine, evaluation_sampling
from mirothinker_jax.agent.progress import WatchedExecutor
from mirothinker_jax.agent.prompt import with_date
from mirothinker_jax.agent.terminal import plain
from mirothinker_jax.config import Config, ConfigError, check
from mirothinker_jax.pipeline.policies import open_policy, policy_setting
from mirothinker_jax.rollout.recorded import RecordedEngine, RecordedExecutor
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.build import build_tools, key_env
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.trajectory.journal import Journal, Unfinished
from mirothinker_jax.trajectory.types import Stop, Trajectory
from mirothinker_jax.world.server import WorldServer

_SLUG_CHARS = 40
_SAID_CHARS = 300  # of a last turn, for a message
_NOWHERE = (
    "there is nowhere to search: set SERPER_API_KEY, TAVILY_API_KEY or BRAVE_API_KEY, or give "
    "--config.tools.search=searxng --config.tools.search_url=http://… (a service of yours), "
    "--config.tools.corpus=FOLDER (documents of yours), or --config.tools.search=world (the embedded web of airports "
    "and countries)"
)


@dataclass(frozen=True)
class Asked:
    """What came of a question, and the journal that has it."""

    trajectory: Trajectory
    sources: tuple[str, ...]  # addresses of the pages that were read
    seconds: float
    usage: dict[str, int]  # prompt_tokens and completion_tokens, as an endpoint counts them
    path: Path


class Asker(contextlib.AsyncExitStack):
    """A policy and the tools of a config. An async context manager, of one event loop.

    Raises ConfigError, when it is entered, for what cannot be used: the policy, the tools, or settings that leave an
    agent no room.
    """

    def __init__(
        self, where: str, settings: ChatSettings, config: Config, out: Path, say: Callable[[str], None]
    ):
        """The policy is `where` policies.open_policy finds it. Journals go to the folder `out`; `say` takes a line as
        something happens."""
        super().__init__()
        self._where, self._settings, self.config = where, settings, with_date(config)
        self._out, self._say = out, say
        self._number = 0

    async def __aenter__(self) -> Asker:
        await super().__aenter__()
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _open(self) -> None:
        config, stack = self.config, self
        tools = open_tools(config, stack)
        self._specs = [tool.spec for tool in tools]
        servers = {spec.name: spec.server for spec in self._specs}
        self._policy = policy = open_policy(self._where, config, self._settings, servers)
        self._setting = policy_setting(policy, self._specs, config)
        self._opened = await stack.enter_async_context(policy.engine())
        executor = ToolExecutor(tools, policy.tools, policy.codec.truncate)
        self._executor = await stack.enter_async_context(executor)

    async def ask(self, question: str, earlier: Sequence[tuple[str, str]] = ()) -> Asked:
        """An episode about the question; `earlier` are questions and answers that it may refer to. What happens is in
        the journal as it happens, also where the question is stopped.

        Raises:
          ConfigError: the endpoint refuses something, or the journal cannot be written.
        """
        path = _fresh_path(self._out, question)
        with Journal(path) as journal:
            try:
                return await self._ask(question, earlier, journal, path)
            except OSError as error:
                raise ConfigError(
                    f"{error.filename or self._out}: {error.strerror}; name a folder of yours by --out"
                ) from None

    async def _ask(
        self, question: str, earlier: Sequence[tuple[str, str]], journal: Journal, path: Path
    ) -> Asked:
        (engine, _, description), codec = self._opened, self._policy.codec
        config, begun, before = self.config, time.monotonic(), _usage(engine)
        watched = WatchedExecutor(self._executor, self._specs, self._say)
        self._number += 1
        name = f"ask-{self._number}"
        trajectory = await run_episode(
            Task(name, follow_up(earlier, question)),
            engine=RecordedEngine(engine, journal, name, Unfinished(), codec.decode),
            executor=RecordedExecutor(watched, journal, name, Unfinished()),
            chat=self._policy.chat,
            decode=codec.decode,
            setting=self._setting,
            episode_id=name,
            seed=config.seed + self._number,
            sampling=evaluation_sampling(config.evaluation),
        )
        seconds = time.monotonic() - begun
        usage = {key: value - before[key] for key, value in _usage(engine).items()} or _tokens(trajectory)
        about = {"policy": description, "sources": watched.sources, "seconds": seconds, "usage": usage}
        trajectory = dataclasses.replace(trajectory, metadata=about)
        journal.end(trajectory)
        return Asked(trajectory, tuple(watched.sources), seconds, usage, path)


def _usage(engine: Engine) -> dict[str, int]:
    """What an endpoint has counted so far; nothing for another engine."""
    return dataclasses.asdict(engine.usage) if isinstance(engine, ChatEngine) else {}


def _tokens(trajectory: Trajectory) -> dict[str, int]:
    """The same of a local model's episode."""
    t = trajectory
    read = sum(len(t.segments[i].tokens) for turn in t.turns for i in turn.context)
    return {
        "prompt_tokens": read,
        "completion_tokens": sum(len(t.segments[turn.segment].tokens) for turn in t.turns),
    }


def open_tools(config: Config, stack: contextlib.AsyncExitStack) -> list[Tool]:
    """The tools of a config, none where no calls are allowed; `stack` ends the embedded web where it is asked for.

    Raises ConfigError as build_tools does, and where a search has nowhere to look.
    """
    settings = config.tools
    if config.agent.max_calls == 0:
        return []
    if settings.search_backend != "world":
        return build_tools(settings, None, os.environ.get(key_env(settings), ""))
    searches = "google_search" in settings.names
    if settings.search == "world" and not settings.replay:
        server = stack.enter_context(WorldServer(config.world, config.seed))
        return build_tools(settings, server.proxy_url, "")
    check(bool(settings.replay) or not searches, _NOWHERE)
    return build_tools(settings, None, "")


def follow_up(earlier: Sequence[tuple[str, str]], question: str) -> str:
    """The question, behind those before it.

    >>> print(follow_up([("Where is KTM?", "Kathmandu")], "How high?"))
    Questions before this one, and what was answered:
    - Where is KTM? Answer: Kathmandu
    <BLANKLINE>
    How high?
    """
    if not earlier:
        return question
    lines = [f"- {asked} Answer: {answer}" for asked, answer in earlier]
    return "\n".join(["Questions before this one, and what was answered:", *lines, "", question])


def ending(trajectory: Trajectory, config: Config) -> str:
    """Why there is no answer, and what may help."""
    agent, stop = config.agent, trajectory.stop
    said = plain(trajectory.messages()[-1]["content"], _SAID_CHARS) if trajectory.segments else ""
    reasons = {
        Stop.LENGTH: f"a turn was cut at agent.turn_tokens ({agent.turn_tokens}), or what the model holds is less than "
        f"agent.context_tokens ({agent.context_tokens}); raise the one or lower the other",
        Stop.CONTEXT: f"agent.context_tokens ({agent.context_tokens}) has no room left; raise it",
        Stop.GAVE_UP: "the model gave up; ask in another way, or allow more by agent.max_calls "
        f"({agent.max_calls})",
        Stop.NO_ANSWER: f"the model neither called a tool nor gave a boxed answer; it said: {said}",
        Stop.INFRASTRUCTURE: trajectory.reason
        or "the tools' services failed again and again; see the calls above",
    }
    return reasons.get(stop, str(stop))


def _fresh_path(folder: Path, question: str) -> Path:
    """Of a journal that is not there yet, named by time and question."""
    words = "-".join(re.findall(r"\w+", question.lower()))[:_SLUG_CHARS].strip("-")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{words or 'question'}"
    paths = (folder / f"{stem}{(number and f'-{number}') or ''}.jsonl" for number in itertools.count())
    return next(path for path in paths if not path.exists())
