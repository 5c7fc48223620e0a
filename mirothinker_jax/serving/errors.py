"""What is wrong with a request, said as OpenAI says it; and fields of a request's JSON, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
MOST_STOPS = 16


class ApiError(Exception):
    """A request that is not done. `param` names its field, `code` the kind of error where clients know one."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, usual)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> web.Response:
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        return web.json_response(self.body(), status=self.status, headers=headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400."""
    return ApiError(400, message, param, code)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object of a body. Raises ApiError."""
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deep
        raise bad(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise bad("the body is not a JSON object")
    return body


def refuse_unknown(body: Mapping[str, Any], known: set[str], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises ApiError for a field that would be ignored: one that is not `known`, unless its value is null or one of
    the `neutral` ones, which ask for nothing."""
    for name, value in body.items():
        if name in known or value is None:
            continue
        if name in neutral and any(value == v and type(value) is type(v) for v in neutral[name]):
            continue
        what = "is not supported here" if name in neutral else "is not known here"
        raise bad(f"{name} {what}; leave it out", name)


def number(body: Mapping[str, Any], name: str, default: float) -> float:
    """A field that must be a number where it is there and not null."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise bad(f"{name} is {value!r}; give a number", name)
    return value


def whole(body: Mapping[str, Any], name: str, default: int, least: int = 0) -> int:
    """A field that must be a whole number, at least `least`."""
    value = number(body, name, default)
    if value != int(value) or (value is not default and value < least):
        raise bad(f"{name} is {value!r}; give a whole number ≥ {least}", name)
    return int(value)


def flag(body: Mapping[str, Any], name: str) -> bool:
    """A field that must be true or false; false where it is not there."""
    value = body.get(name)
    if value not in (None, True, False):
        raise bad(f"{name} is {value!r}; give true or false", name)
    return bool(value)


def token_ids(value: Any, name: str, vocab_size: int) -> tuple[int, ...]:
    """A list of ids of the vocabulary, at least one."""
    if not isinstance(value, list) or not value or any(type(i) is not int for i in value):
        raise bad(f"{name} must be a list of token ids, at least one", name)
    if not 0 <= min(value) <= max(value) < vocab_size:
        raise bad(f"{name} has ids outside 0 … {vocab_size - 1}, the model's vocabulary", name)
    return tuple(value)


def stop_strings(body: Mapping[str, Any]) -> tuple[str, ...]:
    """`stop`, a string or a list of some."""
    value = body.get("stop")
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if (
        not isinstance(stops, list)
        or not all(isinstance(s, str) and s for s in stops)
        or len(stops) > MOST_STOPS
    ):
        raise bad(
            f"stop must be a string, or a list of at most {MOST_STOPS} strings, none of them empty", "stop"
        )
    return tuple(stops)
