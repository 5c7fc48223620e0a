"""The remote engine over our own server and a tiny model: the tokens and the log-probs are those of local sampling."""

import asyncio
import json
import threading

import numpy as np
import pytest
from hf_checkpoint import IM_END

from mirothinker_jax.agent.policy import Request, Sampling
from mirothinker_jax.rollout.hosts import RemoteHost
from mirothinker_jax.rollout.remote.engine import RemoteEngine, RemoteSettings
from mirothinker_jax.rollout.remote.weights import MARKER, WeightsFolder, read_publication
from mirothinker_jax.serving.generation import Asked, generate

SAMPLINGS = {
    "as trained": Sampling(),
    "all at once": Sampling(temperature=0.7, top_p=0.9, top_k=50, min_p=0.01),
    "greedy": Sampling(temperature=0.0),
}


def requests(sampling, count=4):
    rng = np.random.default_rng(0)
    return [
        Request(f"s{i}", tuple(rng.integers(0, 256, 5 + 3 * i).tolist()), 6 + i, 100 + i, sampling)
        for i in range(count)
    ]


async def remotely(url, asked, end_ids, protocol):
    remote = RemoteSettings((url,), protocol, timeout_s=60)
    async with RemoteEngine(remote, end_ids) as engine:
        return await asyncio.gather(*map(engine.generate, asked))


async def locally(engine, asked):
    turns = await asyncio.gather(*map(engine.generate, asked))
    for request in asked:
        engine.forget(request.session)
    return turns


# Cut distributions at another temperature have no log-probs in SGLang's protocol: test_endpoints.py.
@pytest.mark.parametrize(
    ("protocol", "name"),
    [(p, n) for p in ("vllm", "sglang") for n in SAMPLINGS if (p, n) != ("sglang", "all at once")],
)
def test_turns_over_http_are_those_of_the_engine_behind(running, protocol, name):
    asked = requests(SAMPLINGS[name])
    local = running.do(locally(running.served.engine, asked))
    end_ids = (
        IM_END,
        local[0].tokens[2],
    )  # of which the engine knows the first alone: a turn ends where one stands
    over_http = asyncio.run(remotely(running.url, asked, end_ids, protocol))
    assert over_http[0].complete and len(over_http[0].tokens) <= 3
    for got, expected in zip(over_http, local, strict=True):
        count = next((i + 1 for i, t in enumerate(expected.tokens) if t in end_ids), len(expected.tokens))
        assert got.tokens == expected.tokens[:count] and got.complete == (got.tokens[-1] in end_ids)
        np.testing.assert_allclose(got.logprobs, expected.logprobs[:count], atol=1e-5)
        np.testing.assert_allclose(got.raw_logprobs, expected.raw_logprobs[:count], atol=1e-5)


def test_a_stop_string_ends_a_stream_and_a_whole_turn_alike(running):
    """The engine looks for it in the one, the server in the other: within a token, and over two pieces."""
    (request,) = requests(Sampling(), 1)

    async def last(**fields):
        asked = Asked(request.ids, 24, 5, Sampling(), **fields)
        return [answer async for answer in generate(running.served, asked)][-1]

    plain = running.do(last())
    stop = plain.text[9:13]
    whole, pieces = (running.do(last(stops=("\n\n", stop), whole=w)) for w in (True, False))
    for kind in ("logprobs", "raw_logprobs"):  # a piece is fed as a context
        np.testing.assert_allclose(getattr(whole, kind), getattr(pieces, kind), atol=1e-5)
    assert whole.tokens == pieces.tokens and whole.text == pieces.text
    assert whole.stop == pieces.stop == stop and whole.finish == pieces.finish == "stop"
    assert whole.text == plain.text[: plain.text.index(stop)]


def test_weights_in_the_middle_of_a_turn_are_told_token_by_token(running, spec, params, trainer, weights_dir):
    """Before, between and after: every log-prob is the trainer's for the weights that sampled the token, in a context
    that they computed whole."""
    folder, prompt = WeightsFolder(weights_dir, spec), (72, 105, 33)

    async def run():
        settings = RemoteSettings((running.url,), timeout_s=60)
        async with RemoteEngine(settings, (IM_END,), folder.publish) as engine:
            await engine.publish(params[0], 10)
            before = running.served.engine.sampled_tokens
            turn = asyncio.create_task(engine.generate(Request("long", prompt, 300, 1)))
            newer = await asyncio.to_thread(folder.publish, params[1], 11)
            while running.served.engine.sampled_tokens < before + 5:
                await asyncio.sleep(0)
            await engine.use(newer)
            after = await engine.generate(Request("after", prompt, 8, 1))
            return await turn, after

    turn, after = asyncio.run(run())
    assert (
        len(turn.tokens) == 300 or turn.tokens[-1] == IM_END
    )  # which newer weights may say, by when they came
    assert set(turn.versions) == {10, 11} and list(turn.versions) == sorted(turn.versions)
    assert set(after.versions) == {11}
    versions = np.asarray(turn.versions)
    for version, weights in ((10, params[0]), (11, params[1])):
        own = trainer(weights, (*prompt, *turn.tokens), len(prompt))[versions == version]
        np.testing.assert_allclose(np.asarray(turn.logprobs)[versions == version], own, atol=1e-4)
    np.testing.assert_allclose(after.logprobs, trainer(params[1], (*prompt, *after.tokens), 3), atol=1e-4)


def test_a_collectors_host_gives_servers_every_policy(
    monkeypatch, running, spec, params, trainer, weights_dir
):
    """Also where two policies have one number, as the first of two stages have."""
    settings, prompt = RemoteSettings((running.url,), timeout_s=60), (72, 105)

    async def run():
        weights, go, publish = WeightsFolder(weights_dir, spec), threading.Event(), WeightsFolder.publish
        monkeypatch.setattr(WeightsFolder, "publish", lambda *given: go.wait(30) and publish(*given))
        host = RemoteHost(lambda: RemoteEngine(settings, (IM_END,), weights.publish), weights)
        turns = []
        for number, weights_now in ((3, params[0]), (3, params[1])):
            go.clear()
            loading = asyncio.create_task(host.load(weights_now, number))
            while host._engine is None:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            go.set()  # writing waits for the event loop, and never the other way round
            await loading
            async with host.open() as engine:
                turns.append(await engine.generate(Request("same", prompt, 6, 1)))
            host.unload()
        counts = host.counts()
        await host.aclose()
        return turns, counts

    turns, counts = asyncio.run(run())
    assert counts == {"sampled_tokens": 12}
    for turn, weights in zip(turns, params, strict=True):
        assert turn.versions == (3,) * 6
        np.testing.assert_allclose(turn.logprobs, trainer(weights, (*prompt, *turn.tokens), 2), atol=1e-4)


def test_a_publication_is_whole_when_its_marker_is_there(tmp_path, spec, params):
    published = WeightsFolder(tmp_path, spec, "bfloat16").publish(params[0], 7)
    folder = tmp_path / f"version-{published.label}"
    assert read_publication(folder) == published and published.version == 7
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    (folder / MARKER).unlink()
    assert read_publication(folder) is None
    for version in (8, 9):
        WeightsFolder(tmp_path, spec).publish(params[0], version)
    assert sorted(path.name[:9] for path in tmp_path.iterdir()) == ["version-8", "version-9"]
