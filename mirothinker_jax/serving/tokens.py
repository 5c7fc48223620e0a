"""The token-level endpoints: vLLM's /inference/v1/generate and SGLang's /generate. Ids in, ids and log-probs out.

Both say which weights sampled which tokens. vLLM's answer has `raw_logprobs` beside `logprobs`: those are under the
model's own distribution, these under the one drawn from. SGLang's are under the model's own at the request's
temperature; where that is not known (a temperature with something cut), they are refused.
"""

from __future__ import annotations

import secrets
from typing import Any

from aiohttp import web

from mirothinker_jax.agent.policy import Sampling
from mirothinker_jax.serving.desk import Desk
from mirothinker_jax.serving.errors import bad, flag, read_object, refuse_unknown, token_ids, whole
from mirothinker_jax.serving.generation import Answer
from mirothinker_jax.serving.policy import Served
from mirothinker_jax.serving.requests import LABELS, NEUTRAL, SETTINGS, asked_of, check_model

_MOST_DEFAULT = 16  # vLLM's
_SGLANG_DEFAULT = 128


class TokenEndpoints:
    """Over one desk."""

    def __init__(self, desk: Desk):
        self._desk, self._served = desk, desk.served

    def routes(self) -> list[web.RouteDef]:
        """The endpoints."""
        return [web.post("/inference/v1/generate", self.vllm), web.post("/generate", self.sglang)]

    async def vllm(self, request: web.Request) -> web.Response:
        """POST {token_ids, sampling_params}."""
        body, served = await read_object(request), self._served
        known = {"token_ids", "sampling_params", "return_token_ids", *LABELS}
        refuse_unknown(body, known, {"stream": (False,), "output_mode": ("tokens",), "priority": (0,)})
        check_model(served, body)
        settings = body.get("sampling_params") or {}
        if not isinstance(settings, dict):
            raise bad("sampling_params is not an object", "sampling_params")
        refuse_unknown(settings, {*SETTINGS, "max_tokens", "logprobs"}, NEUTRAL)
        ids = token_ids(body.get("token_ids"), "token_ids", served.vocab_size)
        answer = await self._desk.sample(asked_of(served, ids, settings, _MOST_DEFAULT))
        choice: dict[str, Any] = {"index": 0, "token_ids": answer.tokens, "finish_reason": answer.finish}
        choice |= {"stop_reason": answer.stop, "weight_versions": spans(served, answer), "logprobs": None}
        if settings.get("logprobs") is not None:
            check_logprobs(settings, "logprobs")
            pairs = zip(answer.tokens, answer.logprobs, strict=True)
            choice["logprobs"] = {"content": [{"token_id": i, "logprob": p} for i, p in pairs]}
            choice["raw_logprobs"] = answer.raw_logprobs
        name = body.get("request_id") or f"gen-{secrets.token_hex(12)}"
        return web.json_response(
            {"request_id": name, "model": served.name, "choices": [choice], "usage": usage(len(ids), answer)}
        )

    async def sglang(self, request: web.Request) -> web.Response:
        """POST {input_ids or text, sampling_params, return_logprob}."""
        body, served = await read_object(request), self._served
        known = {"input_ids", "text", "sampling_params", "return_logprob", *LABELS}
        off = {"stream": (False,), "top_logprobs_num": (0,), "return_hidden_states": (False,)}
        off |= {
            "return_routed_experts": (False,),
            "logprob_start_len": (-1,),
            "return_text_in_logprobs": (False,),
        }
        refuse_unknown(body, known, off)
        settings = body.get("sampling_params") or {}
        if not isinstance(settings, dict):
            raise bad("sampling_params is not an object", "sampling_params")
        refuse_unknown(settings, {*SETTINGS - {"seed"}, "sampling_seed", "max_new_tokens"}, NEUTRAL)
        if (body.get("text") is None) == (body.get("input_ids") is None):
            raise bad("give text or input_ids, and not both", "input_ids")
        if body.get("text") is None:
            ids = token_ids(body["input_ids"], "input_ids", served.vocab_size)
        else:
            ids = text_ids(served, body["text"], "text")
        wanted = flag(body, "return_logprob")
        asked = asked_of(served, ids, settings, _SGLANG_DEFAULT, "max_new_tokens", "sampling_seed")
        cut = asked.sampling.settings() - {"temperature"}
        if wanted and cut and asked.sampling.temperature != 1:
            raise bad(
                f"return_logprob with temperature and {', '.join(sorted(cut))}: log-probs of the whole distribution at "
                "another temperature than 1 are not computed; leave one of them out, or ask /inference/v1/generate",
                "return_logprob",
            )
        answer = await self._desk.sample(asked)
        finish: dict[str, Any] = {"type": answer.finish}
        if answer.finish == "stop":
            finish["matched"] = answer.stop if answer.stop is not None else answer.tokens[-1]
        if answer.finish == "length":
            finish["length"] = len(answer.tokens)
        meta = {"id": body.get("rid") or secrets.token_hex(16), "finish_reason": finish}
        meta |= {"prompt_tokens": len(ids), "completion_tokens": len(answer.tokens)}
        meta |= {"weight_version": served.label, "weight_versions": spans(served, answer)}
        if wanted:
            values = scaled(asked.sampling, answer)
            meta["output_token_logprobs"] = [[p, i, None] for i, p in zip(answer.tokens, values, strict=True)]
        return web.json_response({"text": answer.text, "output_ids": answer.tokens, "meta_info": meta})


def scaled(sampling: Sampling, answer: Answer) -> list[float]:
    """Log-probs under the whole distribution at the request's temperature."""
    return answer.raw_logprobs if sampling.temperature == 1 else answer.logprobs


def spans(served: Served, answer: Answer) -> list[dict[str, Any]]:
    """Which weights sampled which tokens: [{version, start, end}]."""
    found: list[dict[str, Any]] = []
    for place, version in enumerate(answer.versions):
        label = served.labels[version]
        if found and found[-1]["version"] == label:
            found[-1]["end"] = place + 1
        else:
            found.append({"version": label, "start": place, "end": place + 1})
    return found


def usage(prompt: int, answer: Answer) -> dict[str, int]:
    """As OpenAI counts it."""
    sampled = len(answer.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def check_logprobs(settings: Any, name: str) -> None:
    """Raises ApiError where log-probs of other tokens than the sampled one are asked for."""
    if whole(settings, name, 0) != 0:
        raise bad(f"{name} is {settings[name]}: only the sampled token has a log-prob; give 0", name)


def text_ids(served: Served, text: Any, name: str) -> tuple[int, ...]:
    """Ids of a text; tags in it are tokens, control tokens are not."""
    if not isinstance(text, str) or not text:
        raise bad(f"{name} must be a text, not an empty one", name)
    return tuple(served.codec.encode(text))
