"""Conversations with a sampler, without an agent: what is fed, and what comes back."""

import asyncio

import numpy as np
import tiny

from mirothinker_jax.rollout.sampler import Sampler
from mirothinker_jax.rollout.sampling import Sampling

TRAINING = Sampling()


class Episode:
    """What one conversation was fed (`feeds` of (tokens, max_tokens)) and what came back."""

    def __init__(self, seed, feeds, turns=()):
        self.seed, self.feeds, self.turns = seed, feeds, list(turns)

    async def play(self, sampler):
        session = await sampler.open(self.seed)
        try:
            for tokens, most in self.feeds:
                self.turns.append(await session.sample(tokens, most))
                await asyncio.sleep(0)
        finally:
            session.close()

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
        made.append(Episode(1000 + i, feeds))
    return made


def play(engine, episodes, sampling=TRAINING):
    async def run():
        async with Sampler(engine, sampling) as sampler, asyncio.TaskGroup() as group:
            for episode in episodes:
                group.create_task(episode.play(sampler))

    asyncio.run(run())
    return episodes
