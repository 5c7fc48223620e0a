"""OpenAI's endpoints and the token-level ones: what goes in, what comes out, and what is refused."""

import asyncio
import json

import pytest
from hf_checkpoint import IM_END
from scripted_engine import VOCAB, run

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.agent.chat_engine import ChatSettings, open_chat_engine
from mirothinker_jax.agent.policy import Request
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.serving.server import Limits

CHAT, TEXT, IDS, SGLANG = "/v1/chat/completions", "/v1/completions", "/inference/v1/generate", "/generate"
HELLO = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks something up.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"q": "KTM"}}\n</tool_call>'
MCP_CALL = (
    "<use_mcp_tool>\n<server_name>tools</server_name>\n<tool_name>look_up</tool_name>\n"
    '<arguments>\n{"q": "KTM"}\n</arguments>\n</use_mcp_tool>'
)


def answers(tmp_path, path, body, text, **settings):
    """(status, body) of one request, and what the engine was asked."""

    async def test(client):
        return await client.post(path, body), client.engine

    return run(tmp_path, test, text, **settings)


def test_a_chat_is_rendered_as_the_model_was_trained(tmp_path):
    (status, body), engine = answers(
        tmp_path, CHAT, {"messages": HELLO, "model": "tiny", "seed": 3}, "Hello!"
    )
    assert status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello!"}
    assert body["choices"][0]["finish_reason"] == "stop" and body["model"] == "tiny"
    request = engine.requests[0]
    decoded = engine.codec.decode(request.ids)
    assert decoded == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n" and request.seed == 3
    count = len(request.ids)
    assert body["usage"] == {"prompt_tokens": count, "completion_tokens": 7, "total_tokens": count + 7}
    assert len(engine.requests) == 1 and engine.forgotten == [request.session]


@pytest.mark.parametrize(("call_format", "call"), [("hermes", CALL), ("mcp", MCP_CALL)])
def test_tools_are_offered_and_called_in_the_models_format(tmp_path, call_format, call):
    said = f"<think>\nwhere?\n</think>\n\nI look.\n{call}"
    body = {"messages": HELLO, "tools": [TOOL]}
    (status, answer), engine = answers(tmp_path, CHAT, body, said, call_format=call_format)
    assert status == 200, answer
    choice = answer["choices"][0]
    (made,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert made["function"]["name"] == "look_up" and json.loads(made["function"]["arguments"]) == {"q": "KTM"}
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("where?", "I look.")
    assert "Looks something up." in engine.codec.decode(engine.requests[0].ids)
    # The client's next request brings it back, with the result.
    follow_up = [
        *HELLO,
        choice["message"],
        {"role": "tool", "tool_call_id": made["id"], "content": "Kathmandu"},
    ]
    (tmp_path / "next").mkdir()
    body = {"messages": follow_up, "tools": [TOOL]}
    (status, _), engine = answers(tmp_path / "next", CHAT, body, "Kathmandu.", call_format=call_format)
    seen = engine.codec.decode(engine.requests[0].ids)
    said = f"<think>\nwhere?\n</think>\n\nI look.\n{call}<|im_end|>"
    assert status == 200 and said in seen.replace("\n\n<use", "\n<use")
    assert "Kathmandu" in seen and seen.endswith("<|im_start|>assistant\n")


TURNS = {
    "words": ("Grüße, 東京 and on it goes", {}),
    "a thought": ("<think>\nhm, so\n\n</think>\n\nYes.", {}),
    "a call": (f"<think>\nhm\n</think>\n\nI look.\n\n{CALL}", {"tools": [TOOL]}),
    "two calls": (f"{CALL}\n{CALL}", {"tools": [TOOL]}),
    "a call that cannot be read": ("so <tool_call>\n{nonsense\n</tool_call> then", {"tools": [TOOL]}),
    "what only looks like a tag": ("a < b <thi <tool", {"tools": [TOOL]}),
    "a stop": ("one two END three", {"stop": ["END", "never"]}),
    "its limit": ("one two three four", {"max_tokens": 10}),
}


@pytest.mark.parametrize("name", TURNS)
def test_a_stream_says_what_the_whole_answer_does(tmp_path, name):
    text, fields = TURNS[name]
    body = {"messages": HELLO} | fields

    async def test(client):
        whole = await client.post(CHAT, body)
        return whole, await client.events(CHAT, body | {"stream_options": {"include_usage": True}})

    (_, whole), events = run(tmp_path, test, text)
    choice, usage = whole["choices"][0], events.pop()
    message, deltas = choice["message"], [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    for key in ("content", "reasoning_content"):
        assert "".join(d.get(key) or "" for d in deltas) == (message.get(key) or "")
    calls = [call for d in deltas for call in d.get("tool_calls", ())]
    assert [c["function"] for c in calls] == [c["function"] for c in message.get("tool_calls", ())]
    assert [c["index"] for c in calls] == list(range(len(calls)))
    assert [e["choices"][0]["finish_reason"] for e in events][-1] == choice["finish_reason"]
    assert usage["usage"] == whole["usage"] and usage["choices"] == []
    assert len(events) > 2 or name == "two calls"


def test_stops_and_limits_end_a_turn_where_they_should(tmp_path):
    async def test(client):
        (w,) = client.engine.codec.encode("w")
        settings = {"max_tokens": 99, "stop_token_ids": [w]}
        asked = [
            (TEXT, {"prompt": "x", "max_tokens": 99, "stop": "END"}),
            (TEXT, {"prompt": "x"}),
            (IDS, {"token_ids": [1], "sampling_params": settings}),
        ]
        choices = [(await client.post(path, body))[1]["choices"][0] for path, body in asked]
        return *choices, client.engine.codec.encode("one tw")

    stopped, cut, token, expected = run(tmp_path, test, "one two END three")
    assert (stopped["text"], stopped["finish_reason"]) == ("one two ", "stop")
    # Sixteen tokens are OpenAI's default.
    assert (cut["text"], cut["finish_reason"]) == ("one two END thre", "length")
    assert (token["token_ids"], token["finish_reason"]) == (expected, "stop")
    assert token["stop_reason"] == expected[-1]


def test_completions_stream_the_same_text(tmp_path):
    async def test(client):
        return await client.events(TEXT, {"prompt": [1, 2], "max_tokens": 99, "stop": "END"})

    events = run(tmp_path, test, "one two END three")
    assert "".join(e["choices"][0]["text"] for e in events) == "one two "
    assert events[-1]["choices"][0]["finish_reason"] == "stop" and len(events) > 1


def test_token_level_answers_have_ids_and_log_probs(tmp_path):
    async def test(client):
        settings = {"max_tokens": 9, "logprobs": 0, "seed": 1}
        vllm = await client.post(IDS, {"token_ids": [1, 2], "sampling_params": settings})
        settings = {"max_new_tokens": 2, "sampling_seed": 1}
        sglang = await client.post(
            SGLANG, {"input_ids": [1, 2], "sampling_params": settings, "return_logprob": True}
        )
        ids = {"prompt": [1, 2], "max_tokens": 2, "return_token_ids": True, "logprobs": 0}
        return client.engine.codec, vllm[1], sglang[1], (await client.post(TEXT, ids))[1]

    codec, vllm, sglang, text = run(tmp_path, test, "ab")
    a, b = codec.encode("ab")
    choice = vllm["choices"][0]
    assert choice["token_ids"] == [a, b, IM_END] and choice["finish_reason"] == "stop"
    assert choice["logprobs"]["content"][1] == {"token_id": b, "logprob": -1.5}
    assert choice["raw_logprobs"] == [-1.0, -3.0, -5.0]
    assert choice["weight_versions"] == [{"version": "initial", "start": 0, "end": 3}]
    assert (sglang["text"], sglang["output_ids"]) == ("ab", [a, b])
    assert sglang["meta_info"]["output_token_logprobs"] == [[-1.0, a, None], [-3.0, b, None]]
    assert sglang["meta_info"]["finish_reason"] == {"type": "length", "length": 2}
    assert text["choices"][0]["token_ids"] == [a, b]
    assert text["choices"][0]["logprobs"]["token_logprobs"] == [-0.5, -1.5]


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        (CHAT, {}, "messages", "messages is empty"),
        (CHAT, {"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "unknown role 'robot'"),
        (CHAT, {"messages": HELLO, "temperatur": 1}, "temperatur", "is not known here"),
        (CHAT, {"messages": HELLO, "n": 2}, "n", "n is not supported here"),
        (CHAT, {"messages": HELLO, "logit_bias": {"1": 2}}, "logit_bias", "not supported"),
        (
            CHAT,
            {"messages": HELLO, "response_format": {"type": "json_object"}},
            "response_format",
            "not supported",
        ),
        (CHAT, {"messages": HELLO, "temperature": -1}, "temperature", "temperature is -1; give 0 or more"),
        (CHAT, {"messages": HELLO, "top_p": "x"}, "top_p", "give a number"),
        (CHAT, {"messages": HELLO, "repetition_penalty": 1.5}, None, "this model's engine cannot do"),
        (CHAT, {"messages": HELLO, "tools": [{"type": "x"}]}, "tools[0]", "must be"),
        (CHAT, {"messages": HELLO, "tool_choice": "required"}, "tool_choice", "give auto or none"),
        (CHAT, {"messages": HELLO, "max_tokens": 5000}, None, "context length is 4096 tokens"),
        (CHAT, {"messages": HELLO, "top_logprobs": 2}, "top_logprobs", "only the sampled token"),
        (CHAT, {"messages": HELLO, "stop": [""]}, "stop", "none of them empty"),
        (TEXT, {"prompt": "x", "ignore_eos": True}, "ignore_eos", f"in stop_token_ids, too ([{IM_END}])"),
        (TEXT, {"prompt": ""}, "prompt", "not an empty one"),
        (TEXT, {"prompt": ["a", "b"]}, "prompt", "one by one"),
        (TEXT, {"prompt": [VOCAB]}, "prompt", f"outside 0 … {VOCAB - 1}"),
        (IDS, {"token_ids": []}, "token_ids", "at least one"),
        (IDS, {"token_ids": [1], "sampling_params": {"max_tokens": 0}}, "max_tokens", "whole number ≥ 1"),
        (
            IDS,
            {"token_ids": [1], "sampling_params": {"prompt_logprobs": 1}},
            "prompt_logprobs",
            "not supported",
        ),
        (SGLANG, {"input_ids": [1], "text": "x"}, "input_ids", "not both"),
        (
            SGLANG,
            {"input_ids": [1], "return_logprob": True, "sampling_params": {"temperature": 0.5, "top_p": 0.5}},
            "return_logprob",
            "log-probs of the whole distribution",
        ),
    ],
)
def test_what_cannot_be_done_is_said_as_openai_says_it(tmp_path, path, body, param, said):
    (status, answer), engine = answers(tmp_path, path, body, "x")
    error = answer["error"]
    assert status == 400 and error["type"] == "invalid_request_error"
    assert said in error["message"] and error["param"] == param and "data.ignore" not in error["message"]
    assert engine.requests == []


def test_other_errors_have_their_status_too(tmp_path):
    async def test(client):
        headers = {"Authorization": "Bearer secret"}
        small = {"messages": HELLO}
        answers_by = {
            "no key": await client.post(CHAT, small),
            "wrong key": await client.post(CHAT, small, headers={"Authorization": "Bearer sekret"}),
            "model": await client.post(CHAT, small | {"model": "gpt"}, headers=headers),
            "path": await client.get("/v1/nothing", headers=headers),
            "method": await client.get(CHAT, headers=headers),
            "large": await client.post(TEXT, {"prompt": "x" * 3000}, headers=headers),
            "weights": await client.post("/pause", headers=headers),
        }
        async with client.session.post(client.server.url + CHAT, data=b"{", headers=headers) as answer:
            answers_by["no JSON"] = answer.status, await answer.json()
        assert (await client.get("/health"))[0] == 200
        assert (await client.post(CHAT, small, headers=headers))[0] == 200
        return answers_by

    got = run(tmp_path, test, "x", key="secret", limits=Limits(body_bytes=2000, grace_s=0.2))
    statuses = {name: status for name, (status, _) in got.items()}
    assert statuses == {
        **{"no key": 401, "wrong key": 401, "model": 404, "path": 404, "method": 405, "large": 413},
        **{"weights": 404, "no JSON": 400},
    }
    assert all(body["error"]["message"] for _, body in got.values())
    assert got["model"][1]["error"]["code"] == "model_not_found"


def test_too_many_requests_are_told_so_and_a_client_that_leaves_frees_its_place(tmp_path):
    async def test(client):
        client.engine.hold = asyncio.Event()
        first = asyncio.create_task(client.post(TEXT, {"prompt": "x"}))
        await client.engine.begun.wait()
        status, body = await client.post(TEXT, {"prompt": "x"})
        assert status == 429 and body["error"]["type"] == "rate_limit_error"
        first.cancel()
        while client.server.desk.count:
            await asyncio.sleep(0)
        assert len(client.engine.forgotten) == 1
        client.engine.hold = None
        return await client.post(TEXT, {"prompt": "x"})

    assert run(tmp_path, test, "x", limits=Limits(requests=1, grace_s=0.2))[0] == 200


def test_a_server_that_ends_lets_turns_end_or_ends_them(tmp_path):
    for patient in (True, False):

        async def test(client, patient=patient):
            client.engine.hold = asyncio.Event()
            turn = asyncio.create_task(client.post(TEXT, {"prompt": "x"}))
            await client.engine.begun.wait()
            closing = asyncio.create_task(client.server.desk.close(60 if patient else 0))
            if patient:
                await asyncio.sleep(0)
                assert (await client.post(TEXT, {"prompt": "x"}))[0] == 503
                client.engine.hold.set()
            status, body = await turn
            await closing
            return status, body["choices"][0]["text"], body["choices"][0]["finish_reason"]

        (tmp_path / str(patient)).mkdir()
        got = run(tmp_path / str(patient), test, "yes")
        assert got == ((200, "yes", "stop") if patient else (200, "", "abort"))


def test_models_and_metrics_are_told(tmp_path):
    async def test(client):
        await client.post(TEXT, {"prompt": "xyz"})
        await client.get("/nowhere")
        return (
            await client.get("/v1/models"),
            await client.get("/v1/models/tiny"),
            await client.get("/metrics"),
        )

    (_, models), (_, model), (_, metrics) = run(tmp_path, test, "ab")
    assert models["data"] == [model] and (model["id"], model["max_model_len"]) == ("tiny", 4096)
    lines = metrics.splitlines()
    for line in (
        'mirothinker_serve_requests_total{path="/v1/completions",status="200"} 1',
        'mirothinker_serve_requests_total{path="other",status="404"} 1',
        'mirothinker_serve_turns_total{finish="stop"} 1',
        'mirothinker_serve_tokens_total{kind="prompt"} 3',
        'mirothinker_serve_tokens_total{kind="sampled"} 3',
        "mirothinker_serve_turns 0",
    ):
        assert line in lines
    assert all(line.startswith(("# HELP", "# TYPE", "mirothinker_serve_")) for line in lines)


def test_our_own_agent_can_ask_our_own_server(tmp_path):
    """By its chat endpoint's engine: calls come back as the agent writes them, and a context too long for the model is
    told in words that it knows."""
    text = f"<think>\nhm\n</think>\n\nI look.\n{CALL}"

    async def test(client):
        settings = ChatSettings(client.server.url, "", "NO_KEY", retries=0)
        engine = await open_chat_engine(settings, "hermes", {}, 4096)
        try:
            chat, codec = Chat(Characters(), {}, "hermes"), Characters()
            ids = tuple(chat.prompt("Be brief.", "Where is KTM?", [TOOL]))
            turn = await engine.generate(Request("e", ids, 900, 3))
            long = tuple(chat.prompt(None, "x" * 6000))
            return codec.decode(turn.tokens), turn.complete, await engine.generate(Request("e", long, 900, 3))
        finally:
            await engine.aclose()

    said, complete, too_long = run(tmp_path, test, text)
    assert said.removesuffix("<|im_end|>") == text and complete
    assert too_long.tokens == () and not too_long.complete
