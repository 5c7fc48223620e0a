"""From a request's JSON to what to sample: the settings that all endpoints share, in their protocols' names.

A setting that is known and cannot be done is refused unless its value asks for nothing; a name that is not known is
refused too, as a typing error would otherwise change nothing without a word.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from mirothinker_jax.agent.policy import Sampling
from mirothinker_jax.serving.errors import (
    ApiError,
    bad,
    flag,
    number,
    refuse_unknown,
    stop_strings,
    token_ids,
    whole,
)
from mirothinker_jax.serving.generation import Asked, check_room
from mirothinker_jax.serving.policy import Served

SETTINGS = {"temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop", "stop_token_ids"}
SETTINGS |= {"ignore_eos"}
# What asks for nothing here: it is so anyway, or it is off.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "min_tokens": (0,),
    "min_new_tokens": (0,),
    "echo": (False,),
    "suffix": ("",),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "include_stop_str_in_output": (False,),
    "use_beam_search": (False,),
    "truncate_prompt_tokens": (),
    "detokenize": (True, False),
    "skip_special_tokens": (True, False),
    "spaces_between_special_tokens": (True, False),
    "no_stop_trim": (True, False),
    "add_special_tokens": (True, False),
    "priority": (0,),
}
# Names that change nothing of the answer: who asks, and what a cache may share.
LABELS = {
    "model",
    "user",
    "request_id",
    "rid",
    "cache_salt",
    "extra_key",
    "metadata",
    "store",
    "service_tier",
}


def asked_of(
    served: Served,
    ids: tuple[int, ...],
    settings: Mapping[str, Any],
    default_tokens: int | None,
    max_key: str = "max_tokens",
    seed_key: str = "seed",
    stream: bool = False,
) -> Asked:
    """What to sample after `ids`. Raises ApiError.

    Args:
      settings: of the request's JSON; fields beyond SETTINGS are the caller's.
      default_tokens: of a turn whose request says nothing; None: what the context leaves.
    """
    most = None if settings.get(max_key) is None else whole(settings, max_key, 1, least=1)
    if most is None and default_tokens is not None:
        most = min(default_tokens, max(served.context_tokens - len(ids), 1))
    top_k = whole(settings, "top_k", 0, least=-1)
    try:
        sampling = Sampling(
            temperature=number(settings, "temperature", 1.0),
            top_p=number(settings, "top_p", 1.0),
            top_k=max(top_k, 0),
            min_p=number(settings, "min_p", 0.0),
            repetition_penalty=number(settings, "repetition_penalty", 1.0),
        )
    except ValueError as error:
        name = str(error).split(" ", 1)[0].removeprefix("sampling.")
        raise bad(str(error).removeprefix("sampling."), name) from None
    seed = settings.get(seed_key)
    given = settings.get("stop_token_ids")
    stop_ids = frozenset(token_ids(given, "stop_token_ids", served.vocab_size) if given else ())
    if flag(settings, "ignore_eos") and not served.end_ids <= stop_ids:
        raise bad(
            f"ignore_eos: the model's own end tokens always end a turn here; name them in stop_token_ids, too "
            f"({sorted(served.end_ids)}), or leave it out",
            "ignore_eos",
        )
    return Asked(
        ids=ids,
        max_tokens=check_room(served, ids, most),
        seed=secrets.randbits(31) if seed is None else whole(settings, seed_key, 0, least=-(2**63)) % 2**32,
        sampling=sampling,
        stops=stop_strings(settings),
        stop_ids=stop_ids,
        whole=not stream,
    )


def check_model(served: Served, body: Mapping[str, Any]) -> None:
    """Raises ApiError, 404, where another model is asked for."""
    if body.get("model") not in (None, "", served.name):
        message = f"there is no model {body['model']!r} here; this server has {served.name!r}"
        raise ApiError(404, message, "model", "model_not_found")


def streamed(body: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the answer is streamed, and whether the last event says the usage. Raises ApiError."""
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise bad("stream_options is not an object", "stream_options")
    refuse_unknown(
        options, {"include_usage"}, {"continuous_usage_stats": (False,), "include_obfuscation": (False,)}
    )
    return flag(body, "stream"), flag(options, "include_usage")
