"""Conversations with a sampler, without an agent: what is fed, and what comes back."""

import asyncio
import itertools

import numpy as np
import tiny

from mirothinker_jax.agent.policy import Request, Sampling
from mirothinker_jax.rollout.sampler import Sampler

TRAINING = Sampling()
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


def play(engine, episodes, routes=False):
    async def run():
        async with Sampler(engine, routes) as sampler, asyncio.TaskGroup() as group:
            for episode in episodes:
                group.create_task(episode.play(sampler))

    asyncio.run(run())
    return episodes
