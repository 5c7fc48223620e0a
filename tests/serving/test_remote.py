"""Sampling by servers, which are scripted: what they are asked, what is made of answers, and what of failures."""

import asyncio
import dataclasses

import pytest
from stub import LABELS, VLLM_PATHS, Stub, stubs

from mirothinker_jax.agent.policy import EngineError, Request, Sampling
from mirothinker_jax.config import Config, ConfigError, RolloutConfig, build
from mirothinker_jax.rollout.remote.engine import RemoteEngine, RemoteSettings, check_servers
from mirothinker_jax.rollout.remote.routing import ranked
from mirothinker_jax.rollout.remote.weights import Publication

END = 9
OLD, NEW = Publication("/weights/old", 3, "3-aa"), Publication("/weights/new", 4, "4-bb")


def settings(*servers, **fields):
    return RemoteSettings(tuple(s.url for s in servers), first_wait_s=0.01, timeout_s=5.0, **fields)


def request(session="episode", tokens=(1, 2, 3), most=4, **sampling):
    return Request(session, tokens, most, 5, Sampling(**sampling))


def turn(*tokens, finish="length"):
    return lambda body: (list(tokens), [-0.25 * t for t in tokens], finish)


def prefers(server, servers):
    """A session that goes to this one of them first."""
    urls = [s.url for s in servers]
    return next(f"session {i}" for i in range(100) if ranked(f"session {i}", urls)[0] == server.url)


@pytest.mark.parametrize(
    ("stub", "protocol"),
    [
        (Stub(), "auto"),
        (Stub(paths=("/v1/completions", "/tokenize")), "auto"),
        (Stub("sglang"), "auto"),
        (Stub("sglang"), "sglang"),
        (Stub(), "vllm"),
    ],
    ids=["generate", "completions", "sglang", "sglang by name", "vllm by name"],
)
def test_token_ids_go_in_and_out_with_every_setting(stub, protocol):
    async def run():
        stub.turns = [turn(4, END, finish="stop"), turn(4, 5, 6, 7), turn(4, 8, finish="stop")]
        async with stubs(stub), RemoteEngine(settings(stub, protocol=protocol), (END, 17)) as engine:
            first = await engine.generate(request())
            second = await engine.generate(request(temperature=0.5, top_p=0.9))
            with pytest.raises(ValueError, match=r"stop_strings are \('x',\), which http.* cannot look for"):
                await engine.generate(dataclasses.replace(request(), stop_strings=("x",)))
            return first, second, await engine.generate(dataclasses.replace(request(), stop_ids=(8,)))

    first, second, third = asyncio.run(run())
    assert (third.tokens, third.complete, third.stop) == ((4, 8), False, 8)
    last = stub.asked()[2]
    assert last.get("sampling_params", last)["stop_token_ids"] == [END, 17, 8]
    assert first.tokens == (4, END) and first.complete and first.logprobs == (-1.0, -2.25)
    assert first.raw_logprobs == first.logprobs and first.versions == ()
    assert second.tokens == (4, 5, 6, 7) and not second.complete
    body = stub.asked()[1]
    sent = body.get("sampling_params", body)
    assert body.get("token_ids", body.get("prompt", body.get("input_ids"))) == [1, 2, 3]
    expected = {"temperature": 0.5, "top_p": 0.9, "min_p": 0.0, "repetition_penalty": 1.0}
    assert {key: sent[key] for key in expected} == expected
    assert sent.get("ignore_eos", True)  # SGLang's would switch off the next, too
    assert sent["stop_token_ids"] == [END, 17] and sent.get("max_tokens", sent.get("max_new_tokens")) == 4
    assert sent.get("seed", sent.get("sampling_seed")) == 5


@pytest.mark.parametrize(
    ("stub", "sampling", "logprobs", "raw"),
    [
        (Stub(processed=True), {"top_p": 0.5}, (-1.0,), ()),
        (Stub(processed=False), {"top_p": 0.5}, (0.0,), (-1.0,)),
        (Stub(processed=False), {}, (-1.0,), (-1.0,)),
        (Stub("sglang"), {"temperature": 0.5}, (-1.0,), ()),
        (Stub("sglang"), {"top_p": 0.5}, (0.0,), (-1.0,)),
        (Stub("sglang"), {"top_p": 0.5, "temperature": 0.5}, (0.0,), ()),
    ],
)
def test_log_probs_count_for_what_the_server_has_them_under(stub, sampling, logprobs, raw):
    async def run():
        stub.turns = [turn(4)]
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            return await engine.generate(request(**sampling))

    got = asyncio.run(run())
    assert (got.logprobs, got.raw_logprobs) == (logprobs, raw)


def test_what_a_server_refuses_is_refused_by_name_before_anything_is_sampled():
    stub = Stub()
    stub.refuses = {"repetition_penalty", "min_p"}

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            assert engine.capabilities.sampling == {"temperature", "top_p", "top_k"}
            await engine.generate(request(min_p=0.1))

    with pytest.raises(ValueError, match=r"sampling.min_p is 0.1, which http://127.0.0.1:\d+ cannot do"):
        asyncio.run(run())
    assert stub.asked() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"broken": {"/health"}}, "HTTP 500: out of memory; is a server up there"),
        ({"paths": ("/v1/chat/completions",)}, "lists no /generate, which rollout.protocol=sglang speaks"),
        ({"key": "secret"}, "HTTP 401: no such key; name its key by rollout.key_env"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_in_one_line_at_the_start(change, said):
    stub = Stub()
    for name, value in change.items():
        setattr(stub, name, value)

    async def run():
        async with stubs(stub):
            await check_servers(settings(stub), (END,))

    with pytest.raises(ConfigError, match=said) as error:
        asyncio.run(run())
    assert "config.rollout.urls" in str(error.value) and "\n" not in str(error.value)


def test_no_server_at_all_is_told_too():
    async def run():
        async with stubs(stub := Stub()):
            pass
        await check_servers(settings(stub), (END,))

    with pytest.raises(ConfigError, match=r"Cannot connect to host 127.0.0.1:\d+"):
        asyncio.run(run())


@pytest.mark.parametrize("failure", ["dies", "stalls", "breaks"])
def test_a_server_that_fails_has_its_sessions_done_by_another_one_until_it_is_back(failure):
    async def run():
        servers = first, second = Stub(), Stub()
        async with stubs(second):
            await first.__aenter__()
            fast = dataclasses.replace(settings(*servers), timeout_s=0.3)
            session = prefers(first, servers)
            async with RemoteEngine(fast, (END,)) as engine:
                await engine.generate(request(session))
                assert (len(first.asked()), len(second.asked())) == (1, 0)
                if failure == "dies":
                    await first.__aexit__()
                else:
                    path = {"stalls": first.stalled, "breaks": first.broken}[failure]
                    path |= {"/inference/v1/generate", "/health"}
                assert (await engine.generate(request(session))).tokens == (7,)
                assert len(second.asked()) == 1
                if failure == "dies":
                    await first.__aenter__()
                else:
                    path.clear()
                before = len(first.asked())
                while len(first.asked()) == before:  # until the engine has found out
                    await engine.generate(request(session))
            await first.__aexit__()

    asyncio.run(run())


def test_a_turn_that_no_server_gives_is_an_engine_error():
    stub = Stub()

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub, retries=1), (END,)) as engine:
            stub.broken = {"/inference/v1/generate"}
            await engine.generate(request())

    with pytest.raises(EngineError, match=r"HTTP 500: out of memory; asked 2 times"):
        asyncio.run(run())
    assert len(stub.asked()) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (turn(4, 5, finish="stop"), "a turn ended by token 5, which ends no turn of this model"),
        (turn(4, 5, 6, 7, 8), "5 tokens, asked for 1 to 4"),
        (turn(), "0 tokens, asked for 1 to 4"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_no_turn(answer, said):
    stub = Stub()
    stub.turns = [answer]

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            await engine.generate(request())

    with pytest.raises(EngineError, match=said):
        asyncio.run(run())


def test_a_turn_that_new_weights_cut_off_goes_on_where_it_was():
    stub = Stub()
    stub.turns = [turn(4, 5, finish="abort"), turn(6, END, finish="stop")]

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            await engine.use(OLD)
            first, stub.turns[0] = stub.turns[0], lambda body: first(body)
            got = asyncio.create_task(engine.generate(request()))
            while not stub.asked():
                await asyncio.sleep(0)
            await engine.use(NEW)
            return await got

    got = asyncio.run(run())
    assert got.tokens == (4, 5, 6, END) and got.complete
    assert got.versions[2:] == (4, 4) and set(got.versions[:2]) <= {3, 4}
    second = stub.asked()[1]
    assert second["token_ids"] == [1, 2, 3, 4, 5] and second["sampling_params"]["max_tokens"] == 2
    assert second["cache_salt"] == NEW.label
    calls = [(path, body) for path, body in stub.log if path in (*VLLM_PATHS[2:], LABELS[0])]
    assert calls[-4:] == [
        ("/pause", {}),
        ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": NEW.folder}}),
        ("/update_weight_version", {"new_version": NEW.label}),
        ("/resume", {}),
    ]


def test_sglang_takes_weights_between_pause_and_continue():
    stub = Stub("sglang")

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            await engine.use(OLD)
            await engine.use(OLD)  # it has them
            return await engine.generate(request())

    assert asyncio.run(run()).versions == (3,)
    assert stub.asked()[0]["extra_key"] == OLD.label
    calls = [call for call in stub.log if call[0] in stub.paths[1:]]
    assert calls == [
        ("/pause_generation", {"mode": "retract"}),
        (
            "/update_weights_from_disk",
            {"model_path": OLD.folder, "weight_version": OLD.label, "flush_cache": True},
        ),
        ("/continue_generation", {}),
    ]


def test_a_server_that_began_anew_gets_the_weights_before_its_answers_count():
    stub = Stub()

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            await engine.use(NEW)
            stub.label = "initial"
            return await engine.generate(request())

    assert asyncio.run(run()).versions == (4,)
    assert len(stub.asked("/collective_rpc")) == 2 and len(stub.asked()) == 2


@pytest.mark.parametrize(("max_lag", "asked"), [(0, 0), (1, 1)])
def test_a_server_whose_weights_are_too_old_is_not_asked(max_lag, asked):
    async def run():
        servers = lagging, other = Stub(), Stub()
        async with stubs(*servers), RemoteEngine(settings(*servers, max_lag=max_lag), (END,)) as engine:
            await engine.use(OLD)
            session = prefers(lagging, servers)
            lagging.stalled = {"/collective_rpc"}  # it takes its time
            publishing = asyncio.create_task(engine.use(NEW))
            while other.label != NEW.label:
                await asyncio.sleep(0)
            turn = await engine.generate(request(session))
            publishing.cancel()
        assert (len(lagging.asked()), len(other.asked())) == (asked, 1 - asked)
        return turn

    assert asyncio.run(run()).versions == (4 - asked,)


def test_where_no_server_takes_the_weights_nothing_goes_on():
    stub = Stub()
    stub.broken = {"/collective_rpc"}

    async def run():
        async with stubs(stub), RemoteEngine(settings(stub), (END,)) as engine:
            await engine.use(NEW)

    with pytest.raises(EngineError, match=r"no server took the weights of /weights/new: .*out of memory"):
        asyncio.run(run())


def test_a_session_stays_with_its_server_and_only_those_of_a_lost_one_move():
    urls = ["http://a", "http://b", "http://c"]
    sessions = [f"episode {i}" for i in range(300)]
    first = {s: ranked(s, urls)[0] for s in sessions}
    assert {list(first.values()).count(url) > 60 for url in urls} == {True}
    left = {s: ranked(s, urls[:2])[0] for s in sessions}
    assert all(left[s] == first[s] for s in sessions if first[s] != "http://c")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rollout": {"engine": "remote"}}, "rollout.urls is .* needs their addresses"),
        ({"rollout": {"urls": ("http://a",)}}, "servers are asked with rollout.engine=remote"),
        ({"rollout": {"engine": "remote", "urls": ("a:80",)}}, "rollout.urls is 'a:80', which is no address"),
        (
            {
                "rollout": {"engine": "remote", "urls": ("http://a",)},
                "stages": ("grpo",),
                "model": {"moe": {"experts": 4, "experts_per_token": 2, "expert_ffn": 8}},
                "grpo": {"replay_routes": True},
            },
            "grpo.replay_routes is set with rollout.engine=remote",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        build(Config, values)


def test_what_a_run_asks_for_is_held_against_its_servers():
    from mirothinker_jax.pipeline.servers import open_servers

    stub, config = Stub(), Config()
    stub.refuses = {"top_p"}

    async def run():
        async with stubs(stub):
            rollout = RolloutConfig(engine="remote", urls=(stub.url,))
            await asyncio.to_thread(open_servers, dataclasses.replace(config, rollout=rollout), None, (END,))

    with pytest.raises(ConfigError, match=r"config.evaluation.top_p is 0.95, which a server of rollout.urls"):
        asyncio.run(run())
