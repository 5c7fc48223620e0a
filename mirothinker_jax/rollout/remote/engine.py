"""agent.policy's Engine over servers: routed by session, moved where a server fails, never to weights that are too old.

Every server has the label of the newest publication, or is given it. One that answers with a label that nobody here
published was started anew: its answer is not taken, and it gets the weights before it is asked again. A server that
does not answer is left alone for growing times, in which others do its work.

A turn that new weights cut off goes on where it was, as a new request with what it has so far. So it has tokens of two
versions, each with its log-prob under the weights that sampled it.

Left out: stop strings. Servers differ in which tokens they give of one, and a string may begin before such a cut.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import aiohttp

from mirothinker_jax.agent.policy import Capabilities, EngineError, Request, Turn
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.rollout.remote.connect import Server, connect
from mirothinker_jax.rollout.remote.protocols import UNCUT, Sampled
from mirothinker_jax.rollout.remote.replica import ReplicaDown, ReplicaRefuses
from mirothinker_jax.rollout.remote.routing import ranked
from mirothinker_jax.rollout.remote.weights import Publication

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
KEEPALIVE_S = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteSettings:
    """Who is asked, and how patiently.

    Attributes:
      protocol: "vllm", "sglang", or "auto": what the server says it has.
      key, key_env: the servers' key, and the environment variable that it is from.
      max_lag: versions that a server may be behind and still be asked.
      stale_keys: turns at work keep what old weights computed of their contexts, where the server has a choice.
      timeout_s: for a turn, and for a reload.
      retries: of a turn, where a server fails.
      first_wait_s: before a server that failed is asked again; it doubles each time.
    """

    urls: tuple[str, ...]
    protocol: str = "auto"
    key: str = ""
    key_env: str = ""
    max_lag: int = 0
    stale_keys: bool = False
    timeout_s: float = 1800.0
    retries: int = 3
    first_wait_s: float = FIRST_WAIT_S


@dataclass
class _Node:
    """What is known of a server by now. `label` of its weights: "" where they are not ours."""

    server: Server
    label: str = ""
    up: bool = True
    revival: asyncio.Task[None] | None = None


@dataclass
class _Parts:
    """A turn so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    raw: list[float] | None = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


class RemoteEngine:
    """Turns sampled by servers. Use as an async context manager, on one event loop."""

    def __init__(
        self,
        settings: RemoteSettings,
        end_ids: Sequence[int],
        publish: Callable[[Params, int], Publication] | None = None,
    ):
        """Each of `end_ids` ends a turn. `publish` writes weights (WeightsFolder.publish); None: the servers keep
        theirs."""
        self._settings, self._end_ids, self._publish = settings, tuple(end_ids), publish
        self._newest: Publication | None = None
        self._labels: dict[str, int] = {}  # of what was published → version
        self._nodes: dict[str, _Node] = {}
        self._changed = asyncio.Condition()
        self.sampled_tokens = 0

    @property
    def capabilities(self) -> Capabilities:
        """What all servers can do."""
        all_of = [node.server.capabilities for node in self._nodes.values()]
        names = frozenset.intersection(*(c.sampling for c in all_of))
        most = min(c.stop_ids for c in all_of)
        return Capabilities(names, raw_logprobs=all(c.raw_logprobs for c in all_of), stop_ids=most)

    async def __aenter__(self) -> RemoteEngine:
        """Raises ConfigError where a server cannot be used, in one line."""
        # No limit: whoever collects decides how many turns run at once. Servers close what is idle for five seconds,
        # and a connection must not be used in the moment in which it is closed.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        self._session = aiohttp.ClientSession(connector=connector)
        try:
            s = self._settings
            servers = await asyncio.gather(
                *(connect(url, self._session, s.protocol, s.timeout_s, s.key, s.key_env) for url in s.urls)
            )
            self._nodes = {server.replica.url: _Node(server) for server in servers}
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        revivals = [node.revival for node in self._nodes.values() if node.revival is not None]
        for task in revivals:
            task.cancel()
        await asyncio.gather(*revivals, return_exceptions=True)
        await self._session.close()

    async def generate(self, request: Request) -> Turn:
        """The turn that follows the request's context.

        Raises EngineError where no server gives it, ValueError for settings that they cannot do.
        """
        self.capabilities.check_request(request, f"{', '.join(self._nodes)}")
        parts, failures = _Parts(), 0
        while True:
            node = await self._node(request.session)
            asked = replace(
                request,
                ids=(*request.ids, *parts.tokens),
                max_tokens=request.max_tokens - len(parts.tokens),
                seed=request.seed + len(parts.tokens),
            )
            try:
                sampled = await self._ask(node, asked)
                self._add(parts, request, sampled, node)
            except ReplicaRefuses as error:
                raise EngineError(str(error)) from None
            except ReplicaDown as error:
                failures += 1
                if failures > self._settings.retries:
                    raise EngineError(f"{error}; asked {failures} times") from None
                continue
            if not sampled.aborted or len(parts.tokens) == request.max_tokens:
                return self._turn(parts, request)

    def forget(self, session: str) -> None:
        """Servers find what they computed by its tokens, and keep nothing of a session."""

    async def publish(self, params: Params, version: int) -> None:
        """Writes the parameters and has every server take them. Every process must call it.

        Raises EngineError where no server does.
        """
        assert self._publish is not None, "this engine publishes nothing"
        await self.use(await asyncio.to_thread(self._publish, params, version))

    async def use(self, publication: Publication) -> None:
        """Has every server take these weights; one that fails gets them later."""
        self._newest = publication
        self._labels[publication.label] = publication.version
        errors = await asyncio.gather(*map(self._bring_up, self._nodes.values()))
        if all(errors):
            raise EngineError(f"no server took the weights of {publication.folder}: {errors[0]}")
        for node, error in zip(self._nodes.values(), errors, strict=True):
            if error:
                self._fail(node, error)

    async def _bring_up(self, node: _Node) -> str:
        """Gives a server the newest weights, if it has not got them; what is wrong, or ""."""
        server, newest = node.server, self._newest
        try:
            await server.check()
            if newest is not None and await server.dialect.label(server.replica) != newest.label:
                stale = self._settings.stale_keys
                await server.dialect.reload(server.replica, newest.folder, newest.label, stale)
        except (ReplicaDown, ReplicaRefuses) as error:
            return str(error)
        async with self._changed:
            node.up, node.label = True, "" if newest is None else newest.label
            self._changed.notify_all()
        return ""

    async def _ask(self, node: _Node, request: Request) -> Sampled:
        server, label = node.server, node.label
        try:
            ends = (*self._end_ids, *request.stop_ids)
            sampled = await server.dialect.sample(server.replica, request, label, ends, server.model)
        except ReplicaDown as error:
            self._fail(node, str(error))
            raise
        if not sampled.spans:  # the oldest that it may have been
            return replace(sampled, spans=((label, 0, len(sampled.tokens)),))
        unknown = {label for label, _, _ in sampled.spans} - self._labels.keys()
        if unknown and self._newest is not None:
            node.label = ""
            said = f"{server.replica.url} has weights {sorted(unknown)} that this run did not give it"
            self._fail(node, said)
            raise ReplicaDown(said)
        return sampled

    def _add(self, parts: _Parts, request: Request, sampled: Sampled, node: _Node) -> None:
        """Raises EngineError for an answer that is not what was asked for."""
        url, count = node.server.replica.url, len(sampled.tokens)
        if len(parts.tokens) + count > request.max_tokens or not (count or sampled.aborted):
            raise EngineError(f"{url}: {count} tokens, asked for 1 to {request.max_tokens}")
        ends = (*self._end_ids, *request.stop_ids)
        if sampled.finish == "stop" and sampled.tokens[-1] not in ends:
            raise EngineError(
                f"{url}: a turn ended by token {sampled.tokens[-1]}, which ends no turn of this model "
                f"({ends}); serve the model with the generation_config.json that it was trained with"
            )
        logprobs, raw = self._meaning(request, sampled, node)
        parts.tokens += sampled.tokens
        parts.logprobs += logprobs
        parts.raw = None if raw is None or parts.raw is None else [*parts.raw, *raw]
        if self._newest is not None:
            parts.versions += [
                self._labels[label] for label, start, end in sampled.spans for _ in range(start, end)
            ]
        self.sampled_tokens += count

    def _meaning(
        self, request: Request, sampled: Sampled, node: _Node
    ) -> tuple[Sequence[float], Sequence[float] | None]:
        """Log-probs under the distribution drawn from (zeros where they are not known), and under the model's own."""
        if sampled.both is not None:
            return sampled.both
        settings, kind, value = request.sampling.settings(), node.server.logprobs, sampled.logprobs
        if not settings or (settings == UNCUT and request.sampling.temperature == 0):
            return value, value
        if kind == "processed" or (kind == "scaled" and settings == UNCUT):
            return value, None
        zeros = (0.0,) * len(value)
        return zeros, value if kind == "raw" or "temperature" not in settings else None

    def _turn(self, parts: _Parts, request: Request) -> Turn:
        complete = parts.tokens[-1] in self._end_ids
        stopped = not complete and parts.tokens[-1] in request.stop_ids
        return Turn(
            tuple(parts.tokens),
            tuple(parts.logprobs),
            complete,
            tuple(parts.raw or ()),
            tuple(parts.versions),
            stop=parts.tokens[-1] if stopped else None,
        )

    async def _node(self, session: str) -> _Node:
        """The session's server of those that may be asked. Waits for one. Raises EngineError where none comes up."""
        order = ranked(session, list(self._nodes))
        try:
            async with asyncio.timeout(self._settings.timeout_s), self._changed:
                while True:
                    for url in order:
                        if self._may_ask(self._nodes[url]):
                            return self._nodes[url]
                    await self._changed.wait()
        except TimeoutError:
            raise EngineError(f"none of {', '.join(order)} answers with new enough weights") from None

    def _may_ask(self, node: _Node) -> bool:
        newest = self._newest
        if not node.up or newest is None or node.label == newest.label:
            return node.up
        version = self._labels.get(node.label)
        return version is not None and newest.version - self._settings.max_lag <= version < newest.version

    def _fail(self, node: _Node, why: str) -> None:
        """Asks the server nothing until it is well again."""
        if node.up:
            logger.warning("%s", why)
        node.up = False
        if node.revival is None or node.revival.done():
            node.revival = asyncio.create_task(self._revive(node))

    async def _revive(self, node: _Node) -> None:
        wait = self._settings.first_wait_s
        while True:
            await asyncio.sleep(wait)
            if not await self._bring_up(node):
                logger.warning("%s answers again", node.server.replica.url)
                return
            wait = min(2 * wait, LONGEST_WAIT_S)


async def check_servers(settings: RemoteSettings, end_ids: Sequence[int]) -> Capabilities:
    """What the servers can do. Raises ConfigError where one of them cannot be used, in one line."""
    async with RemoteEngine(settings, end_ids) as engine:
        return engine.capabilities
