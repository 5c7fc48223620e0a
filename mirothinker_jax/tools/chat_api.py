"""What all who ask an OpenAI-compatible chat endpoint share: policies, judges, extractors.

Its address, what is in an answer, and which failures may pass: 408, 409, 425, 429 and 5xx, met again after growing,
random waits on top of what Retry-After says. Who gives up when, and what is said then, is each one's own.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:  # 0.05 s and more, for runs that ask nobody
    import httpx
    import tenacity

_PASSING = (408, 409, 425, 429)


class MayPass(Exception):
    """Another attempt may meet something else, `wait_s` from now at the earliest."""

    def __init__(self, message: str, wait_s: float | None = None):
        super().__init__(message)
        self.wait_s = wait_s or 0.0


def api_base(url: str) -> str:
    """The address that /chat/completions and /models follow. Without a path, /v1 is meant.

    >>> api_base("http://a.test:8000"), api_base("http://a.test/x/v1/chat/completions")
    ('http://a.test:8000/v1', 'http://a.test/x/v1')
    """
    base = url.rstrip("/").removesuffix("/chat/completions")
    return base if urlsplit(base).path.strip("/") else f"{base}/v1"


def key_header(key: str) -> dict[str, str]:
    """The key as a bearer token; nothing for ""."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def passes(status: int) -> bool:
    """Whether an HTTP status is of a failure that may pass."""
    return status in _PASSING or status >= 500


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that a service asks to wait, as a number or as a date; None where it says nothing that can be read."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d+)?", text, re.ASCII):
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def retrying(
    first_wait_s: float,
    longest_wait_s: float,
    stop: Callable[[tenacity.RetryCallState], bool],
    before_sleep: Callable[[tenacity.RetryCallState], None] | None = None,
) -> tenacity.AsyncRetrying:
    """Calls again what raises MayPass, until `stop`; raises the last one then. Random waits grow from at most
    `first_wait_s` to at most `longest_wait_s`."""
    import tenacity

    jitter = tenacity.wait_random_exponential(multiplier=first_wait_s, max=longest_wait_s)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return jitter(state) + (error.wait_s if isinstance(error, MayPass) else 0.0)

    return tenacity.AsyncRetrying(
        sleep=asyncio.sleep,
        retry=tenacity.retry_if_exception_type(MayPass),
        wait=wait,
        stop=stop,
        before_sleep=before_sleep,
        reraise=True,
    )


def read_answer(content: bytes) -> dict[str, Any] | None:
    """The JSON of an answer that has `choices[0].message`, an object; None for any other."""
    try:
        answer = json.loads(content)
        return answer if isinstance(answer["choices"][0]["message"], dict) else None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return None


def said_text(answer: dict[str, Any] | None) -> str | None:
    """What an answer of `read_answer` says, without thoughts; None where it has no text."""
    said = answer["choices"][0]["message"].get("content") if answer else None
    return said.rpartition("</think>")[2].strip() if isinstance(said, str) else None
