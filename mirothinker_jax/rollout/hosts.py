"""Where a run's episodes are sampled: on this process's devices, or by servers. What a collector asks of either."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp

from mirothinker_jax.agent.policy import Engine, EngineError, Request, Turn
from mirothinker_jax.models.qwen import STACKED, Params
from mirothinker_jax.parallel.processes import meet
from mirothinker_jax.rollout.collect import OutageError
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.rollout.stream import PublishedEngine

if TYPE_CHECKING:  # only a run that asks servers pays for importing HTTP
    from mirothinker_jax.rollout.remote.engine import RemoteEngine
    from mirothinker_jax.rollout.remote.weights import WeightsFolder


class EngineHost(Protocol):
    """Engines for one policy after another, on one event loop."""

    async def load(self, params: Params, version: int) -> None:
        """Takes the parameters to sample with. Every process must call it, with its part of them."""
        ...

    def open(self) -> AbstractAsyncContextManager[Engine]:
        """The engine, with what was loaded."""
        ...

    def unload(self) -> None:
        """Lets go of the parameters: the trainer is about to donate them."""
        ...

    def stream(self) -> AbstractAsyncContextManager[PublishedEngine]:
        """An engine that gets its parameters while it is open. Every process must publish the same, in the same
        order."""
        ...

    def counts(self) -> Mapping[str, int]:
        """Tokens so far, by what happened to them."""
        ...

    async def aclose(self) -> None: ...


class LocalHost:
    """This process's devices."""

    def __init__(self, make_device: Callable[[], Device]):
        """`make_device` makes this process's engine, when something is sampled for the first time."""
        self._make_device = make_device
        self._device: Device | None = None
        self._version = self._sampled = self._prefilled = 0

    async def load(self, params: Params, version: int) -> None:
        if self._device is None:
            self._device = self._make_device()
        self._device.load(params)
        self._version = version

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        assert self._device is not None, "nothing was loaded"
        async with LocalEngine(self._device, self._version) as engine:
            yield engine
        self._sampled += engine.sampled_tokens
        self._prefilled += engine.prefilled_tokens

    def unload(self) -> None:
        if self._device is not None:
            self._device.unload()

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[PublishedEngine]:
        if self._device is None:
            self._device = self._make_device()
        try:
            async with LocalEngine(self._device, version=-1) as engine:  # of no policy yet

                async def publish(params: Params, version: int) -> None:
                    await engine.publish(_kept(params), version)

                yield _Published(engine, publish, engine.release)
        finally:
            self._device.unload()

    def counts(self) -> Mapping[str, int]:
        return {"sampled_tokens": self._sampled, "prefilled_tokens": self._prefilled}

    async def aclose(self) -> None:
        """Holds nothing that has to be closed."""


def _kept(params: Params) -> Params:
    """The parameters without what the sampler would share with the trainer (local/weights.py), who donates its own to
    the next step. Of what is stacked, and of what comes from other processes, the sampler has arrays of its own."""
    if jax.process_count() > 1:
        return params
    return params | _copy({key: value for key, value in params.items() if key != STACKED})


@jax.jit
def _copy(params: Params) -> Params:
    return jax.tree.map(jnp.copy, params)


class _Published:
    """An engine whose parameters somebody else brings to it."""

    def __init__(
        self,
        engine: Engine,
        publish: Callable[[Params, int], Awaitable[None]],
        release: Callable[[], Awaitable[None]],
    ):
        self._engine, self._publish, self._release = engine, publish, release

    async def publish(self, params: Params, version: int) -> None:
        await self._publish(params, version)

    async def release(self) -> None:
        await self._release()

    async def generate(self, request: Request) -> Turn:
        return await self._engine.generate(request)

    def forget(self, session: str) -> None:
        self._engine.forget(session)


async def _nothing() -> None:
    """Nothing of servers is on these devices."""


class RemoteHost:
    """Servers, which take the parameters from a folder. They stay connected over all policies: a server that fails once
    the run has begun is waited for, and ends nothing."""

    def __init__(self, make_engine: Callable[[], RemoteEngine], weights: WeightsFolder):
        self._make_engine, self._weights = make_engine, weights
        self._engine: RemoteEngine | None = None

    async def load(self, params: Params, version: int) -> None:
        """Raises ConfigError where a server cannot be used, OutageError where none takes the parameters."""
        if self._engine is None:
            self._engine = await self._make_engine().__aenter__()
        # In a thread: episodes wait for their tools meanwhile.
        publication = await asyncio.to_thread(self._weights.publish, params, version)
        first = jax.process_index() == 0
        try:
            if first:
                await self._engine.use(publication)
            await asyncio.to_thread(meet)
            if not first:  # the servers have them by now
                await self._engine.use(publication)
        except EngineError as error:
            raise OutageError(f"{error}; mend the servers and start again: what is done is kept") from None

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Engine]:
        assert self._engine is not None, "nothing was loaded"
        yield self._engine

    def unload(self) -> None:
        """Holds no parameters."""

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[PublishedEngine]:
        if self._engine is None:
            self._engine = await self._make_engine().__aenter__()
        yield _Published(self._engine, self.load, _nothing)

    def counts(self) -> Mapping[str, int]:
        return {"sampled_tokens": 0 if self._engine is None else self._engine.sampled_tokens}

    async def aclose(self) -> None:
        if self._engine is not None:
            await self._engine.__aexit__(None, None, None)
