"""The engine and its asynchronous face: token in, token out, whatever else is going on."""

import asyncio

import jax
import numpy as np
import pytest
import tiny
from turns import Episode, play

from mirothinker_jax.config import ConfigError, RolloutConfig
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.rollout.engine import Engine
from mirothinker_jax.rollout.sampler import Sampler
from mirothinker_jax.rollout.sampling import Sampling
from mirothinker_jax.trainer.step import make_logprobs

ENDS = {63, 17}  # sampled now and then


def trainers_logprobs(played):
    """Of every sampled token, by the trainer's forward pass over packed rows."""
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh())
    samples = [Sample(e.tokens, e.trained) for e in played]
    batches = [pack_rows([s], 64) for s in samples]
    rows = jax.tree.map(lambda *x: np.concatenate(x), *batches)
    with jax.set_mesh(model.mesh):
        values = np.asarray(make_logprobs(model)(tiny.params(tiny.QWEN3), rows))
    return [row[weights > 0] for row, weights in zip(values, rows.weights, strict=True)]


def test_recorded_log_probs_are_the_trainers(played):
    """Over whole conversations: several turns, feeds longer than a prefill chunk, turns that were cut."""
    assert any(len(fed) > 8 for e in played for fed, _ in e.feeds)
    for episode, expected in zip(played, trainers_logprobs(played), strict=True):
        np.testing.assert_allclose(episode.logprobs, expected, atol=1e-4)


def test_turns_end_by_any_end_token_or_by_their_limit(played):
    kinds = set()
    for episode in played:
        for (_, most), turn in zip(episode.feeds, episode.turns, strict=True):
            assert 1 <= len(turn.tokens) <= most and len(turn.logprobs) == len(turn.tokens)
            assert turn.complete == (turn.tokens[-1] in ENDS) and not ENDS & set(turn.tokens[:-1])
            assert turn.complete or len(turn.tokens) == most
            kinds.add((turn.tokens[-1] if turn.complete else None, len(turn.tokens) == most))
    assert {(63, False), (17, False), (None, True)} <= kinds


@pytest.mark.parametrize(("name", "turns"), [("narrow", 3), ("mesh", 1)])
def test_what_is_sampled_does_not_depend_on_slots_or_neighbours(played, engine, name, turns):
    """One episode at a time in a single slot, and (their first turns) on a mesh of eight devices."""
    again = [Episode(e.seed, e.feeds[:turns]) for e in played]
    for episode, other in zip(played, play(engine(name), again), strict=True):
        episode = Episode(episode.seed, episode.feeds[:turns], episode.turns[:turns])
        assert [t.tokens for t in other.turns] == [t.tokens for t in episode.turns]
        np.testing.assert_allclose(other.logprobs, episode.logprobs, atol=1e-5)


def test_another_seed_samples_something_else(played, engine):
    feeds = played[0].feeds
    (other,) = play(engine("wide"), [Episode(played[0].seed + 1, feeds)])
    assert [t.tokens for t in other.turns] != [t.tokens for t in played[0].turns]


def test_greedy_turns_take_the_likeliest_token(engine):
    (episode,) = play(engine("narrow"), [Episode(0, [(np.arange(6), 8)])], Sampling(temperature=0.0))
    (again,) = play(engine("narrow"), [Episode(99, [(np.arange(6), 8)])], Sampling(temperature=0.0))
    assert episode.turns == again.turns
    np.testing.assert_allclose(episode.logprobs, trainers_logprobs([episode])[0], atol=1e-4)


def test_more_episodes_than_slots_wait_their_turn(engine):
    """And a slot that was used before serves like a new one."""
    sampled = play(engine("narrow"), [Episode(5, [(np.arange(4), 3)]) for _ in range(4)])
    assert len({e.turns[0].tokens for e in sampled}) == 1


def test_counters(engine):
    async def run():
        async with Sampler(engine("wide"), Sampling()) as sampler:
            episode = Episode(3, [(np.arange(11), 5), (np.arange(2), 1)])
            await episode.play(sampler)
            return sampler, episode

    sampler, episode = asyncio.run(run())
    sampled = [len(t.tokens) for t in episode.turns]
    assert sampler.sampled_tokens == sum(sampled)
    assert sampler.prefilled_tokens == 11 + 1 + 2  # the last token of a turn is fed with the next feed


def test_a_turn_that_does_not_fit_its_slot_is_refused(engine):
    async def run():
        async with Sampler(engine("wide"), Sampling()) as sampler:
            session = await sampler.open(0)
            await session.sample(np.arange(40), 4)
            await session.sample(np.arange(30), 4)

    with pytest.raises(ValueError, match=r"31 new tokens and a turn of 4 do not fit.*agent\.context_tokens"):
        asyncio.run(run())


@pytest.mark.parametrize("broken", ["prefill", "decode"])
def test_an_engine_that_breaks_tells_every_episode(monkeypatch, engine, broken):
    """Those under way, those waiting in line, and those that ask afterwards; none waits forever."""
    wide = engine("wide")

    def fail(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(wide, broken, fail)

    async def run():
        async with Sampler(wide, Sampling()) as sampler:
            sessions = [await sampler.open(i) for i in range(5)]  # more than one prefill takes
            waiting = [asyncio.create_task(s.sample(np.arange(3), 4)) for s in sessions]
            answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
            late = await asyncio.gather(sessions[0].sample(np.arange(3), 4), return_exceptions=True)
            return answers + late

    answers = asyncio.run(run())
    assert [str(a) for a in answers] == ["device lost"] * 6


def test_an_episode_that_is_cancelled_leaves_its_slot_clean(played, engine):
    """The slot's next episode samples what it would have sampled in a fresh one."""

    async def run():
        async with Sampler(engine("narrow"), Sampling()) as sampler:
            for stage in ("prefill", "decode"):
                first = asyncio.create_task(Episode(1, [(np.arange(20), 30)]).play(sampler))
                while not (sampler.sampled_tokens if stage == "decode" else sampler.prefilled_tokens):
                    await asyncio.sleep(0)
                first.cancel()
                second = Episode(played[1].seed, played[1].feeds)
                await asyncio.wait_for(second.play(sampler), 60)
                await asyncio.gather(first, return_exceptions=True)
                assert first.cancelled()
                assert [t.tokens for t in second.turns] == [t.tokens for t in played[1].turns], stage
                sampler.sampled_tokens = sampler.prefilled_tokens = 0

    asyncio.run(run())


def test_slots_that_do_not_divide_over_the_devices():
    model = ModelSpec.build(tiny.QWEN3, tiny.VOCAB, tiny.mesh(data=8))
    with pytest.raises(ConfigError, match=r"^config\.rollout\.slots is 6, not a multiple of .* = 8; use 8$"):
        Engine(model, RolloutConfig(slots=6), 64, ENDS)


def test_a_long_context_uses_the_whole_cache(engine):
    """Beyond half of the slot another decode function runs; what it samples is judged by the trainer's."""
    (episode,) = play(engine("narrow"), [Episode(2, [(np.arange(25) % 7, 20), (np.arange(9) % 5, 9)])])
    assert len(episode.tokens) > 40
    np.testing.assert_allclose(episode.logprobs, trainers_logprobs([episode])[0], atol=1e-4)
