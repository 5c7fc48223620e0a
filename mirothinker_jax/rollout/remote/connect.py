"""A server at an address: which protocol it speaks, what it serves, and what its log-probs mean. Asked at the start, so
that what cannot work is said before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from mirothinker_jax.agent.policy import Capabilities, EngineError, Request, Sampling
from mirothinker_jax.config import ConfigError
from mirothinker_jax.rollout.remote.protocols import OURS, VLLM, Dialect, SGLang
from mirothinker_jax.rollout.remote.replica import Replica, ReplicaDown, ReplicaRefuses

CHECK_S = 30.0  # for what takes no sampling
STOP_IDS = 1024  # of a request: no server has a limit; a longer list is a mistake
_PROBE_S = 300.0  # a server may compile for its first token


@dataclass(frozen=True)
class Server:
    """Whom we ask.

    Attributes:
      model: its name for what it serves.
      logprobs: what they are under: "processed", the distribution drawn from; "raw", the model's own; "scaled", the
        model's own at the request's temperature; "both".
    """

    replica: Replica
    dialect: Dialect
    model: str
    logprobs: str
    capabilities: Capabilities

    async def check(self) -> None:
        """Raises ReplicaDown or ReplicaRefuses where the server is not well."""
        await self.replica.get("/health", CHECK_S)


async def connect(
    url: str, session: aiohttp.ClientSession, protocol: str, timeout_s: float, key: str, key_env: str
) -> Server:
    """The server at `url`, which must answer. Raises ConfigError in one line."""
    replica = Replica(url, session, timeout_s, key, key_env)
    try:
        await replica.get("/health", CHECK_S)
        described = await replica.get("/openapi.json", CHECK_S)
        dialect = _dialect(replica.url, described if isinstance(described, dict) else {}, protocol)
        model = (await replica.get("/v1/models", CHECK_S))["data"][0]["id"]
        kind = await _logprobs_kind(replica, dialect, model)
        settings = frozenset(await _honoured(replica, dialect, model))
    except (ReplicaDown, ReplicaRefuses, EngineError) as error:
        raise ConfigError(f"config.rollout.urls: {error}; is a server up there?") from None
    except (KeyError, IndexError, TypeError):
        raise ConfigError(
            f"config.rollout.urls: {replica.url}/v1/models lists no model; name a server of vLLM, SGLang or ours"
        ) from None
    can = Capabilities(settings, raw_logprobs=kind == "both", stop_ids=STOP_IDS)
    return Server(replica, dialect, model, kind, can)


def _dialect(url: str, described: Mapping[str, Any], protocol: str) -> Dialect:
    paths = described.get("paths", {})
    found = "vllm" if "/inference/v1/generate" in paths or "/tokenize" in paths else "sglang"
    protocol = found if protocol == "auto" else protocol
    path = "/v1/completions" if protocol == "vllm" else "/generate"
    if path not in paths:
        raise ConfigError(
            f"config.rollout.urls: {url}/openapi.json lists no {path}, which rollout.protocol={protocol} speaks; give "
            "the address of vLLM, SGLang or mirothinker_jax.serve, without a path"
        )
    if protocol == "sglang":
        return SGLang()
    return VLLM(paths, exact_keep=described.get("info", {}).get("title") == OURS)


async def _logprobs_kind(replica: Replica, dialect: Dialect, model: str) -> str:
    """Where only one token can be drawn, its log-prob is 0 if it is under the distribution drawn from."""
    if isinstance(dialect, SGLang):
        return "scaled"
    probe = Request("probe", (0,), 1, sampling=Sampling(top_k=1))
    sampled = await dialect.sample(replica, probe, "", (), model)
    if sampled.both is not None:
        return "both"
    return "processed" if sampled.logprobs == (0.0,) else "raw"


async def _honoured(replica: Replica, dialect: Dialect, model: str) -> list[str]:
    """The settings that the server does not refuse."""
    tries = {"temperature": 0.5, "top_p": 0.5, "top_k": 2, "min_p": 0.5, "repetition_penalty": 1.5}
    found = []
    for name, value in tries.items():
        probe = Request("probe", (0,), 1, sampling=Sampling(**{name: value}))
        try:
            await dialect.sample(replica, probe, "", (), model)
        except ReplicaRefuses as error:
            if error.status in (401, 403, 404):
                raise
        else:
            found.append(name)
    return found
