"""The engine and its asynchronous face: token in, token out, whatever else is going on."""

import asyncio

import jax
import numpy as np
import pytest
import tiny
from turns import Episode, episodes, play

from mirothinker_jax.agent.policy import Request, Sampling, check_trainable
from mirothinker_jax.config import ConfigError, RolloutConfig
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.rollout.engine import Engine
from mirothinker_jax.rollout.sampler import Sampler
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
        assert all(t.raw_logprobs == t.logprobs for t in episode.turns)  # nothing is tempered or cut


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
    greedy = Sampling(temperature=0.0)
    (episode,) = play(engine("narrow"), [Episode(0, [(np.arange(6), 8)], sampling=greedy)])
    (again,) = play(engine("narrow"), [Episode(99, [(np.arange(6), 8)], sampling=greedy)])
    assert episode.turns == again.turns
    np.testing.assert_allclose(episode.logprobs, trainers_logprobs([episode])[0], atol=1e-4)


def test_more_episodes_than_slots_wait_their_turn(engine):
    """And a slot that was used before serves like a new one."""
    sampled = play(engine("narrow"), [Episode(5, [(np.arange(4), 3)]) for _ in range(4)])
    assert len({e.turns[0].tokens for e in sampled}) == 1


def test_counters(engine):
    async def run():
        async with Sampler(engine("wide")) as sampler:
            episode = Episode(3, [(np.arange(11), 5), (np.arange(2), 1)])
            await episode.play(sampler)
            return sampler, episode

    sampler, episode = asyncio.run(run())
    sampled = [len(t.tokens) for t in episode.turns]
    assert sampler.sampled_tokens == sum(sampled)
    assert sampler.prefilled_tokens == 11 + 1 + 2  # the last token of a turn is fed with the next feed


WRONG = {
    "too long": (
        Request("a", range(61), 4),
        r"context of 61 tokens and a turn of 4 do not fit a slot of 64; .*",
    ),
    "empty": (Request("a", (), 4), "a context of 0 tokens"),
    "penalty": (
        Request("a", (1,), 4, sampling=Sampling(repetition_penalty=1.05)),
        r"^sampling\.repetition_penalty is 1\.05, which the local engine cannot do; leave it at 1\.0",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_turn_that_cannot_be_sampled_is_refused_and_takes_no_slot(engine, name):
    async def run():
        async with Sampler(engine("narrow")) as sampler:
            with pytest.raises(ValueError, match=WRONG[name][1]):
                await sampler.generate(WRONG[name][0])
            return await asyncio.wait_for(sampler.generate(Request("b", (1, 2), 2)), 60)

    assert asyncio.run(run()).tokens


@pytest.mark.parametrize("setting", [{"temperature": 0.7}, {"top_k": 5}, {"repetition_penalty": 1.05}])
def test_what_is_not_the_models_own_distribution_is_not_trained_on(setting):
    check_trainable(Sampling())
    (name,) = setting
    with pytest.raises(ValueError, match=rf"^sampling\.{name} is .* leave it at"):
        check_trainable(Sampling(**setting))


def test_an_edited_context_feeds_what_follows_the_edit(engine):
    """Shorter than what is cached, changed in the middle, the same once more: as in a slot that saw none of it."""
    first = np.arange(20) % 11
    edited = np.concatenate([first[:13], first[:2] + 5])
    contexts = [first, first, edited, first[:7], np.concatenate([first, first])]

    async def run(engine, one_session):
        turns, fed = [], []
        async with Sampler(engine) as sampler:
            for i, ids in enumerate(contexts):
                session = "one" if one_session else str(i)
                turns.append(await sampler.generate(Request(session, ids.tolist(), 4, seed=3)))
                fed.append(sampler.prefilled_tokens)
                if not one_session:
                    sampler.forget(session)
        return turns, np.diff([0, *fed]).tolist()

    turns, fed = asyncio.run(run(engine("wide"), True))
    fresh, all_fed = asyncio.run(run(engine("wide"), False))
    assert fed == [20, 1, 2, 1, 33] and all_fed == [len(c) for c in contexts]
    for turn, other in zip(turns, fresh, strict=True):
        assert turn.tokens == other.tokens
        np.testing.assert_allclose(turn.logprobs, other.logprobs, atol=1e-5)


def test_settings_are_of_each_request_and_compile_nothing(played, engine):
    """Rows of one batch may differ in all of them, and change nothing for their neighbours."""
    wide = engine("wide")
    before = Engine._prefill._cache_size(), Engine._decode._cache_size()
    ways = [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_p": 0.9}, {"top_k": 4}, {"min_p": 0.2}]
    mixed = episodes(10)
    for i, episode in enumerate(mixed):
        episode.sampling = Sampling(**ways[i % len(ways)])
    play(wide, mixed)
    assert (Engine._prefill._cache_size(), Engine._decode._cache_size()) == before
    for episode, plain in zip(mixed, played, strict=True):
        same = [t.tokens for t in episode.turns] == [t.tokens for t in plain.turns]
        assert same == (episode.sampling == Sampling())
    for episode, expected in zip(mixed, trainers_logprobs(mixed), strict=True):
        raw = np.concatenate([t.raw_logprobs for t in episode.turns])
        np.testing.assert_allclose(raw, expected, atol=1e-4)
        settings = episode.sampling.settings()
        assert (episode.logprobs >= raw - 1e-6).all() or "temperature" in settings
        assert np.array_equal(episode.logprobs, raw) == (settings <= {"temperature"} and len(settings) < 2)


@pytest.mark.parametrize("broken", ["prefill", "decode"])
def test_an_engine_that_breaks_tells_every_episode(monkeypatch, engine, broken):
    """Those under way, those waiting in line, and those that ask afterwards; none waits forever."""
    wide = engine("wide")

    def fail(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(wide, broken, fail)

    async def run():
        async with Sampler(wide) as sampler:
            ask = lambda i: sampler.generate(Request(str(i), (0, 1, 2), 4))  # noqa: E731
            waiting = [asyncio.create_task(ask(i)) for i in range(5)]  # more than one prefill takes
            answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 60)
            late = await asyncio.gather(ask(0), return_exceptions=True)
            return answers + late

    answers = asyncio.run(run())
    assert [str(a) for a in answers] == ["device lost"] * 6


def test_an_episode_that_is_cancelled_leaves_its_slot_clean(played, engine):
    """The slot's next episode samples what it would have sampled in a fresh one."""

    async def run():
        async with Sampler(engine("narrow")) as sampler:
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
