"""What vLLM and SGLang want to hear and what they answer: tokens, log-probs, and which weights sampled them.

Every setting is sent, also where it is off: servers take what is missing from the model's generation_config.json.

Log-probs are one number a token, and what it means depends on the server. vLLM's are raw by default, of the model's own
distribution; with `--logprobs-mode processed_logprobs` they are of the one drawn from, renormalised over what top-p and
the like leave. SGLang's are log-softmax of logits / temperature, not cut. At temperature 1 with nothing cut all are the
same, and only there is training done. Our own server says both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mirothinker_jax.agent.policy import EngineError, Request, Sampling
from mirothinker_jax.rollout.remote.replica import Replica, ReplicaDown

OURS = "mirothinker_jax"  # the title of our own server's /openapi.json
UNCUT = frozenset(
    {"temperature"}
)  # what may be set and yet leave SGLang's log-probs those of the distribution


@dataclass(frozen=True)
class Sampled:
    """A server's answer.

    Attributes:
      logprobs: as the server has them.
      both: (under the distribution drawn from, under the model's own), where the server says both.
      spans: (label of the weights, first token, end), where the server says so.
      aborted: it was cut off, for new weights or because the server ends; the tokens so far are good.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: str
    both: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    spans: tuple[tuple[str, int, int], ...] = field(default=())

    @property
    def aborted(self) -> bool:
        return self.finish == "abort"


class Dialect(Protocol):
    """How one kind of server is spoken to."""

    name: str

    async def sample(
        self, replica: Replica, request: Request, salt: str, end_ids: Sequence[int], model: str
    ) -> Sampled:
        """The turn. `salt`, where it is not empty, keeps what other weights computed from being found.

        Raises ReplicaDown, ReplicaRefuses, or EngineError for an answer without what was asked for.
        """
        ...

    async def label(self, replica: Replica) -> str:
        """Which weights the server has, as they were called by `reload`; "" where it does not say."""
        ...

    async def reload(self, replica: Replica, folder: str, label: str, stale_keys: bool) -> None:
        """Puts the weights of `folder` in place. Turns at work go on with them; with `stale_keys` they keep what the
        weights before computed of their contexts."""
        ...


class VLLM:
    """`/inference/v1/generate`, or `/v1/completions` where a server has none. `exact_keep`: turns that are kept over a
    pause have their contexts computed again (our own server)."""

    name = "vllm"

    def __init__(self, paths: Mapping[str, Any], exact_keep: bool):
        self._token_level = "/inference/v1/generate" in paths
        self._labels = "/update_weight_version" in paths
        self._exact_keep = exact_keep

    async def sample(
        self, replica: Replica, request: Request, salt: str, end_ids: Sequence[int], model: str
    ) -> Sampled:
        settings = _settings(request.sampling) | {
            "max_tokens": request.max_tokens,
            "seed": request.seed % 2**32,
            "stop_token_ids": list(end_ids),
            "ignore_eos": bool(end_ids),  # these end a turn, and not what the server has read somewhere
            "skip_special_tokens": False,
            "logprobs": 0,  # of the sampled token alone
        }
        salted = {"cache_salt": salt} if salt else {}
        if not self._token_level:
            body = {"model": model, "prompt": list(request.ids), "return_token_ids": True} | settings | salted
            choice = _choice(replica, await replica.post("/v1/completions", body))
            values = (choice.get("logprobs") or {}).get("token_logprobs")
        else:
            body = {"token_ids": list(request.ids), "model": model, "sampling_params": settings} | salted
            choice = _choice(replica, await replica.post("/inference/v1/generate", body))
            content = (choice.get("logprobs") or {}).get("content") or []
            values = [entry.get("logprob") for entry in content]
        raw = choice.get("raw_logprobs")
        sampled = _sampled(replica, choice.get("token_ids"), values, str(choice.get("finish_reason")))
        spans = tuple((s["version"], s["start"], s["end"]) for s in choice.get("weight_versions") or ())
        both = None if raw is None else (sampled.logprobs, tuple(raw))
        return Sampled(sampled.tokens, sampled.logprobs, sampled.finish, both, spans)

    async def label(self, replica: Replica) -> str:
        return (await replica.get("/weight_info"))["weight_version"] if self._labels else ""

    async def reload(self, replica: Replica, folder: str, label: str, stale_keys: bool) -> None:
        mode = "keep" if stale_keys or self._exact_keep else "abort"
        await replica.post(f"/pause?mode={mode}&clear_cache=true")
        try:
            call = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
            await replica.post("/collective_rpc", call)
            if self._labels:
                await replica.post("/update_weight_version", {"new_version": label})
        finally:
            await replica.post("/resume")


class SGLang:
    """`/generate`."""

    name = "sglang"

    async def sample(
        self, replica: Replica, request: Request, salt: str, end_ids: Sequence[int], model: str
    ) -> Sampled:
        settings = _settings(request.sampling) | {
            "max_new_tokens": request.max_tokens,
            "sampling_seed": request.seed % 2**31,
            "stop_token_ids": list(end_ids),
            "skip_special_tokens": False,
            "no_stop_trim": True,
        }
        settings["top_k"] = settings["top_k"] or -1
        body = {"input_ids": list(request.ids), "sampling_params": settings, "return_logprob": True}
        answer = await replica.post("/generate", body | ({"extra_key": salt} if salt else {}))
        meta = answer.get("meta_info") if isinstance(answer, dict) else None
        if not isinstance(meta, dict):
            raise ReplicaDown(f"{replica.url}/generate: an answer without meta_info")
        pairs = meta.get("output_token_logprobs") or []
        finish = (meta.get("finish_reason") or {}).get("type", "")
        sampled = _sampled(replica, [p[1] for p in pairs], [p[0] for p in pairs], finish)
        spans = tuple((s["version"], s["start"], s["end"]) for s in meta.get("weight_versions") or ())
        return Sampled(sampled.tokens, sampled.logprobs, sampled.finish, None, spans)

    async def label(self, replica: Replica) -> str:
        return str((await replica.get("/model_info")).get("weight_version", ""))

    async def reload(self, replica: Replica, folder: str, label: str, stale_keys: bool) -> None:
        mode = "in_place" if stale_keys else "retract"
        await replica.post("/pause_generation", {"mode": mode})
        try:
            body = {"model_path": folder, "weight_version": label, "flush_cache": not stale_keys}
            answer = await replica.post("/update_weights_from_disk", body)
            if not answer.get("success"):
                raise ReplicaDown(f"{replica.url}: weights not reloaded: {answer.get('message')}")
        finally:
            await replica.post("/continue_generation", {})


def _settings(sampling: Sampling) -> dict[str, Any]:
    """The fields have the same names in both protocols."""
    return dict(vars(sampling))


def _choice(replica: Replica, answer: Any) -> dict[str, Any]:
    try:
        return answer["choices"][0]
    except (KeyError, IndexError, TypeError):
        raise ReplicaDown(f"{replica.url}: an answer without choices") from None


def _sampled(replica: Replica, tokens: Any, logprobs: Any, finish: str) -> Sampled:
    if not isinstance(tokens, list) or not isinstance(logprobs, list) or len(tokens) != len(logprobs):
        raise EngineError(
            f"{replica.url}: an answer with {_count(tokens)} token ids and {_count(logprobs)} log-probs; the server "
            "must give one of each a token (vLLM: --enable-scale-out)"
        )
    return Sampled(tuple(tokens), tuple(logprobs), finish)


def _count(values: Any) -> str:
    return str(len(values)) if isinstance(values, list) else "no"
