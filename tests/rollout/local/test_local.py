"""The local engine: what it samples is what the trainer computes, whatever is shared, moved, evicted or edited."""

import asyncio

import numpy as np
import pytest
import tiny
from turns import Episode, episodes, play, run, text

from mirothinker_jax.agent.policy import Capabilities, Request, Sampling, check_trainable

ENDS = {63, 17}  # sampled now and then


def close(conversations, trainer):
    for episode, expected in zip(
        conversations, trainer([(e.tokens, e.trained) for e in conversations]), strict=True
    ):
        raw = np.concatenate([t.raw_logprobs for t in episode.turns])
        np.testing.assert_allclose(raw, expected, atol=1e-4)


@pytest.fixture(scope="module")
def played(device):
    """Ten conversations of three turns on six rows."""
    return play(device("wide"), episodes(10))[0]


def test_recorded_log_probs_are_the_trainers(played, trainer):
    close(played, trainer)
    assert all(t.raw_logprobs == t.logprobs and set(t.versions) == {0} for e in played for t in e.turns)


def test_turns_end_by_any_end_token_or_by_their_limit(played):
    kinds = set()
    for episode in played:
        for (_, most), turn in zip(episode.feeds, episode.turns, strict=True):
            assert 1 <= len(turn.tokens) <= most and len(turn.logprobs) == len(turn.tokens)
            assert turn.complete == (turn.tokens[-1] in ENDS) and not ENDS & set(turn.tokens[:-1])
            assert turn.complete or len(turn.tokens) == most
            kinds.add((turn.tokens[-1] if turn.complete else None, len(turn.tokens) == most))
    assert {(63, False), (17, False), (None, True)} <= kinds


@pytest.mark.parametrize(
    "name",
    ["tight", "tight, host", "narrow", "copies", pytest.param("mesh", marks=pytest.mark.slow)],
)
def test_what_is_sampled_does_not_depend_on_pages_blocks_or_neighbours(played, device, trainer, name):
    """Where contexts push one another out, for good or to the host, one by one and token by token, and on eight
    devices, two or four to a copy of the model; of four, two share a key head."""
    again, engine = play(device(name), [Episode(e.seed, e.feeds) for e in played])
    for episode, other in zip(played, again, strict=True):
        assert [t.tokens for t in other.turns] == [t.tokens for t in episode.turns]
        np.testing.assert_allclose(other.logprobs, episode.logprobs, atol=1e-5)
    close(again, trainer)
    assert (engine.restored_tokens > 0) == (name in ("tight, host", "mesh", "copies"))
    if name.startswith("tight"):
        assert engine._steps.preemptions > 0
        assert engine._steps._pages[0].available == 16


def test_a_group_computes_its_prompt_once_and_turns_what_is_new(device, trainer):
    """Eight members: the whole pages of the prompt are shared, the rest of it, a part of a page, is each one's own.
    Later turns feed their new tokens and the last sampled one."""
    prompt = np.arange(27) % 13
    group = [Episode(seed, [(prompt, 5), (np.arange(4), 5)]) for seed in range(8)]
    _, engine = play(device("wide"), group)
    close(group, trainer)
    assert engine.prefilled_tokens <= 24 + 8 * 3 + 8 * (4 + 1)
    assert engine.sampled_tokens == sum(len(t.tokens) for e in group for t in e.turns)


def test_an_edited_context_feeds_what_follows_the_edit(device):
    """Shorter than what is known, changed in the middle of a page, the same once more: as if nothing were known."""
    first = np.arange(20) % 11
    edited = np.concatenate([first[:13], first[:2] + 5])
    contexts = [first, first, edited, first[:7], np.concatenate([first, first])]

    async def one_engine(engine):
        turns, fed = [], []
        for i, ids in enumerate(contexts):
            turns.append(await engine.generate(Request(str(i % 2), ids.tolist(), 4, seed=3)))
            fed.append(engine.prefilled_tokens)
        return turns, np.diff([0, *fed]).tolist()

    (turns, fed), _ = run(device("wide"), one_engine)
    assert fed == [20, 1, 2, 1, 20]
    for ids, turn in zip(contexts, turns, strict=True):
        fresh, _ = run(device("wide"), lambda e, ids=ids: e.generate(Request("a", ids.tolist(), 4, seed=3)))
        assert fresh.tokens == turn.tokens
        np.testing.assert_allclose(fresh.logprobs, turn.logprobs, atol=1e-5)


def test_pages_that_come_back_are_not_computed_again(device):
    """Conversations in turns, on pages for one of them."""
    prompts = np.arange(120).reshape(4, 30) % 17

    async def in_turns(engine):
        said = [[int(t) for t in prompt] for prompt in prompts]
        for _ in range(3):
            for i, ids in enumerate(said):
                turn = await engine.generate(Request(str(i), tuple(ids), 5, seed=i))
                ids += [*turn.tokens, 1, 2]
        return said

    (plain, without), (back, engine) = (run(device(name), in_turns) for name in ("tight", "tight, host"))
    assert back == plain
    new = sum(map(len, back)) - engine.sampled_tokens
    assert without.prefilled_tokens > 2 * new and engine.prefilled_tokens <= 1.2 * new
    assert engine.restored_tokens + engine.prefilled_tokens >= without.prefilled_tokens


@pytest.mark.parametrize("name", ["exact", "exact, host"])
def test_deterministic_turns_are_equal_bit_for_bit(device, trainer, name):
    """Alone, and beside others that take their pages away."""
    exact, prompt = device(name), np.arange(13) % 7
    mixed = [Episode(i, [(prompt if i % 2 else prompt[i:], 24), (np.arange(2 + i), 15)]) for i in range(7)]
    together, engine = play(exact, mixed)
    assert engine._steps.preemptions > 0 and (engine.restored_tokens > 0) == (name == "exact, host")
    close(together, trainer)
    for episode in together:
        (alone,), _ = play(exact, [Episode(episode.seed, episode.feeds)])
        assert alone.turns == episode.turns


def test_settings_are_of_each_request(played, device, trainer):
    """Rows of one batch may differ in all of them, and change nothing for their neighbours."""
    ways = [{}, {"temperature": 0.0}, {"temperature": 0.6, "top_p": 0.9}, {"top_k": 4}, {"min_p": 0.2}]
    mixed = episodes(10)
    for i, episode in enumerate(mixed):
        episode.sampling = Sampling(**ways[i % len(ways)])
    play(device("wide"), mixed)
    close(mixed, trainer)
    for episode, plain in zip(mixed, played, strict=True):
        same = [t.tokens for t in episode.turns] == [t.tokens for t in plain.turns]
        assert same == (episode.sampling == Sampling())


def test_a_repetition_penalty_counts_the_whole_context(device):
    """Greedy, so strong that nothing comes twice: neither what was fed nor what was sampled."""
    sampling = Sampling(temperature=0.0, repetition_penalty=1e6)
    episode = Episode(0, [(np.arange(20), 12), (np.arange(20, 30), 12)], sampling=sampling)
    plain = Episode(0, [(np.arange(20), 12)], sampling=Sampling(temperature=0.0))
    play(device("wide"), [episode, plain])
    said = [t for turn in episode.turns for t in turn.tokens]
    assert len(set(said)) == len(said) and not set(said[:12]) & set(range(20))
    assert len(set(plain.turns[0].tokens) | set(range(20))) < 20 + len(plain.turns[0].tokens)


@pytest.mark.parametrize("name", ["wide", "tight", "exact"])
def test_a_turn_ends_at_its_requests_own_stops(device, trainer, name):
    """At the first of its stop ids or strings, beside neighbours without any; the device may be ahead by then. What
    follows is computed from what is left of the turn."""
    prompt, plain = np.arange(11) % 7, []

    def stops(i):
        """Of the plain turn, from its middle on: a token, or what two of them say, beside what never comes."""
        tokens, middle = plain[i].tokens, len(plain[i].tokens) // 2
        if i % 3 == 0:
            return {}
        if i % 3 == 1:
            return {"stop_ids": (tokens[middle],)}
        return {"stop_strings": ("never", text(tokens[middle - 1 : middle + 1]))}

    async def work(engine):
        ask = lambda i, ids, most, **more: engine.generate(Request(str(i), ids, most, i, **more))  # noqa: E731
        first = await asyncio.gather(*(ask(i, prompt[i:].tolist(), 24) for i in range(9)))
        plain.extend(first)
        cut = await asyncio.gather(*(ask(i, prompt[i:].tolist(), 24, **stops(i)) for i in range(9)))
        contexts = [[*prompt[i:].tolist(), *turn.tokens, 3] for i, turn in enumerate(cut)]
        return cut, contexts, await asyncio.gather(*(ask(i, ids, 5) for i, ids in enumerate(contexts)))

    (cut, contexts, then), engine = run(device(name), work)
    assert not engine._steps.busy
    kinds = set()
    for i, turn in enumerate(cut):
        whole, own = plain[i].tokens, stops(i)
        ends = [k + 1 for k, token in enumerate(whole) if token in own.get("stop_ids", ())]
        ends += [
            k for k in range(len(whole) + 1) for s in own.get("stop_strings", ()) if s in text(whole[:k])
        ]
        count = min(ends, default=len(whole))
        assert turn.tokens == whole[:count], own
        np.testing.assert_allclose(turn.logprobs, plain[i].logprobs[:count], atol=1e-5)
        kinds.add((type(turn.stop), turn.complete))
        assert turn.stop is None or turn.stop in own.get("stop_ids", ()) + own.get("stop_strings", ())
    assert {(int, False), (str, False)} < kinds
    rows = [
        (np.asarray([*ids, *t.tokens]), np.arange(len(ids) + len(t.tokens)) >= len(ids))
        for ids, t in zip(contexts, then, strict=True)
    ]
    for turn, expected in zip(then, trainer(rows), strict=True):
        np.testing.assert_allclose(turn.raw_logprobs, expected, atol=1e-4)


def test_new_parameters_in_the_middle_of_a_turn(device, trainer):
    """Tokens are kept, keys computed again; each token's log-prob is that of the version that sampled it."""
    wide, other = device("wide"), tiny.params(tiny.QWEN3, seed=1)
    prompt = np.arange(10)

    async def work(engine):
        turns = [asyncio.create_task(engine.generate(Request(str(i), prompt, 40, seed=i))) for i in range(8)]
        while engine.sampled_tokens < 30:
            await asyncio.sleep(0)
        await engine.publish(other, 1)
        return await asyncio.gather(*turns)

    try:
        turns, _ = run(wide, work)
    finally:
        wide.load(tiny.params(tiny.QWEN3))
    assert {(0,), (1,), (0, 1)} <= {tuple(sorted(set(t.versions))) for t in turns} | {(0,), (1,)}
    assert any(len(set(t.versions)) == 2 for t in turns)
    rows = [(np.asarray([*prompt, *t.tokens], np.int32), np.arange(10 + len(t.tokens)) >= 10) for t in turns]
    for turn, *by_version in zip(turns, trainer(rows), trainer(rows, other), strict=True):
        expected = np.choose(np.asarray(turn.versions), by_version)
        np.testing.assert_allclose(turn.raw_logprobs, expected, atol=1e-4)


def test_memory_is_given_back_and_turns_go_on(device):
    """A turn that is under way meanwhile samples the same."""
    wide = device("wide")
    request = Request("a", range(9), 30, seed=5)

    async def work(engine):
        turn = asyncio.create_task(engine.generate(request))
        while not engine.sampled_tokens:
            await asyncio.sleep(0)
        await engine.release()
        assert not wide.loaded and wide._pools is None
        await engine.publish(tiny.params(tiny.QWEN3), 1)
        return await turn

    turn, _ = run(wide, work)
    plain, _ = run(wide, lambda engine: engine.generate(request))
    assert turn.tokens == plain.tokens and len(set(turn.versions)) == 2


def test_every_token_has_its_routes(device):
    """Also those that another member of the group computed, and those of a page that was copied."""
    prompt = np.arange(21) % 9
    group = [Episode(seed, [(prompt, 5), (np.arange(3 + seed), 5), (np.arange(2), 3)]) for seed in range(6)]
    engine = play(device("experts"), group)[1]
    assert engine.restored_tokens > 0
    alone = [play(device("experts"), [Episode(e.seed, e.feeds)])[0][0] for e in group]
    for episode, other in zip(group, alone, strict=True):
        routes, expected = (np.concatenate([t.routes for t in e.turns]) for e in (episode, other))
        assert routes.shape == (len(episode.tokens) - 1, tiny.MOE.layers, tiny.MOE.moe.experts_per_token)
        assert routes.min() >= 0
        np.testing.assert_array_equal(routes, expected)


@pytest.mark.parametrize("setting", [{"temperature": 0.7}, {"top_k": 5}, {"repetition_penalty": 1.05}])
def test_what_is_not_the_models_own_distribution_is_not_trained_on(setting):
    check_trainable(Sampling())
    (name,) = setting
    with pytest.raises(ValueError, match=rf"^sampling\.{name} is .* leave it at"):
        check_trainable(Sampling(**setting))


def test_an_engine_refuses_what_it_cannot_do():
    few = Capabilities(sampling=frozenset({"temperature"}))
    few.check(Sampling(temperature=0.5), "this one")
    with pytest.raises(
        ValueError, match=r"^sampling\.top_k is 5, which this one cannot do; leave it at 0, or"
    ):
        few.check(Sampling(top_k=5), "this one")
    one = Capabilities(stop_ids=1)
    with pytest.raises(ValueError, match=r"^stop_ids are 2, and this one takes at most 1; name fewer$"):
        one.check_request(Request("a", (1,), 1, stop_ids=(3, 4)), "this one")
    with pytest.raises(ValueError, match=r"^stop_strings are \('x',\), which this one cannot look for"):
        one.check_request(Request("a", (1,), 1, stop_ids=(3,), stop_strings=("x",)), "this one")
    with pytest.raises(ValueError, match="stop_strings has an empty one"):
        Request("a", (1,), 1, stop_strings=("x", ""))


WRONG = {
    "too long": (Request("a", range(61), 4), r"context of 61 tokens and a turn of 4 do not fit 64; .*"),
    "empty": (Request("a", (), 4), "a context of 0 tokens"),
    "unknown": (Request("a", (64,), 4), r"ids outside 0 … 63"),
    "unknown stop": (Request("a", (1,), 4, stop_ids=(64,)), r"ids outside 0 … 63"),
    "too many stops": (Request("a", (1,), 4, stop_ids=tuple(range(9))), r"stop_ids are 9, .* at most 8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_turn_that_cannot_be_sampled_is_refused(device, name):
    with pytest.raises(ValueError, match=WRONG[name][1]):
        run(device("wide"), lambda engine: engine.generate(WRONG[name][0]))


@pytest.mark.parametrize("broken", ["feed", "decode"])
def test_a_device_that_breaks_tells_every_episode(monkeypatch, device, broken):
    """Those under way, those waiting in line, and those that ask afterwards; none waits forever."""
    wide = device("wide")

    def fail(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(wide, broken, fail)

    async def work(engine):
        ask = lambda i: engine.generate(Request(str(i), (0, 1, 2), 4))  # noqa: E731
        answers = await asyncio.gather(*map(ask, range(9)), return_exceptions=True)
        return answers + await asyncio.gather(ask(0), return_exceptions=True)

    answers, _ = run(wide, work)
    assert [str(a) for a in answers] == ["device lost"] * 10


def test_a_turn_that_is_cancelled_leaves_no_trace(played, device):
    """Its row and its pages serve the next one."""

    async def work(engine):
        for stage in ("prefilled_tokens", "sampled_tokens"):
            before = getattr(engine, stage)
            first = asyncio.create_task(Episode(1, [(np.arange(20), 30)]).play(engine))
            while getattr(engine, stage) == before:
                await asyncio.sleep(0)
            first.cancel()
            second = Episode(played[1].seed, played[1].feeds)
            await second.play(engine)
            await asyncio.gather(first, return_exceptions=True)
            assert first.cancelled()
            assert [t.tokens for t in second.turns] == [t.tokens for t in played[1].turns], stage
        assert not engine._steps.busy and engine._steps._pages[0].available == 1

    run(device("narrow"), work)
