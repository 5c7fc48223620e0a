"""Conversations with an engine, without an agent: what is fed, and what comes back."""

import asyncio
import itertools

import numpy as np
import tiny

from mirothinker_jax.agent.policy import Request, Sampling
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine

TRAINING = Sampling()
LETTERS = [chr(33 + i) for i in range(tiny.VOCAB)]  # the text of each token
STEPS = (Device._feed, Device._decode, Device._copy, Device._take, Device._put)
_sessions = itertools.count()


class Episode:
    """What one conversation was fed (`feeds` of (tokens, max_tokens)) and what came back."""

    def __init__(self, seed, feeds, turns=(), sampling=TRAINING):
        self.seed, self.feeds, self.turns, self.sampling = seed, feeds, list(turns), sampling
        self.session = f"episode {next(_sessions)}"

    async def play(self, engine):
        ids = []
        try:
            for tokens, most in self.feeds:
                ids += [int(t) for t in tokens]
                request = Request(self.session, tuple(ids), most, self.seed, self.sampling)
                self.turns.append(await engine.generate(request))
                ids += self.turns[-1].tokens
                await asyncio.sleep(0)
        finally:
            engine.forget(self.session)

    @property
    def tokens(self):
        parts = [p for (fed, _), turn in zip(self.feeds, self.turns, strict=True) for p in (fed, turn.tokens)]
        return np.concatenate([np.asarray(p, np.int32) for p in parts])

    @property
    def trained(self):
        parts = [
            p
            for (fed, _), turn in zip(self.feeds, self.turns, strict=True)
            for p in (np.zeros(len(fed), bool), np.ones(len(turn.tokens), bool))
        ]
        return np.concatenate(parts)

    @property
    def logprobs(self):
        return np.concatenate([np.asarray(turn.logprobs, np.float32) for turn in self.turns])


def episodes(count):
    """Of different lengths: feeds of 1 to 21 tokens, turns of at most 1 to 9."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        feeds = [(rng.integers(0, tiny.VOCAB, n), int(rng.integers(1, 10))) for n in rng.integers(1, 7, 3)]
        feeds[0] = (rng.integers(0, tiny.VOCAB, 21 - i), feeds[0][1])  # longer than a prefill chunk
        made.append(Episode(2000 + i, feeds))
    return made


def text(ids):
    return "".join(LETTERS[i] for i in ids)


def run(device, work, version=0):
    """What `work(engine)` gives, and the engine, which compiles nothing meanwhile."""
    shapes = lambda: [f._cache_size() for f in STEPS]  # noqa: E731

    async def inside():
        async with LocalEngine(device, version, text) as engine:
            before = shapes()
            result = await asyncio.wait_for(work(engine), 120)
            assert shapes() == before
            return result, engine

    return asyncio.run(inside())


def play(device, conversations):
    """The conversations, all at once, and the engine that they were with."""

    async def work(engine):
        async with asyncio.TaskGroup() as group:
            for episode in conversations:
                group.create_task(episode.play(engine))

    return conversations, run(device, work)[1]
