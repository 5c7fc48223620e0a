"""The calls of an episode as a person follows them: a line as each begins, one as it ends, and what was read.

An executor around an executor, so the loop knows nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mirothinker_jax.agent.calls import Executor, WrappedExecutor
from mirothinker_jax.agent.terminal import plain
from mirothinker_jax.tools.mend import find_spec, mend_arguments
from mirothinker_jax.tools.spec import ToolCall, ToolResult, ToolSpec

_ARGUMENT_CHARS, _RESULT_CHARS = 70, 90
_KEYS = (
    "q",
    "query",
    "url",
    "command",
    "code_block",
    "path",
)  # what a call is about, where it has one of these
_READERS = ("scrape_and_extract_info",)  # tools that read the page at their `url`


class WatchedExecutor(WrappedExecutor):
    """An executor that tells of its calls.

    Args:
      say: takes a line.
      clock: seconds, from anywhere on.

    Attributes:
      sources: addresses of pages that were read, in the order of their first reading.
    """

    def __init__(
        self,
        executor: Executor,
        specs: Sequence[ToolSpec],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(executor)
        self._specs, self._say, self._clock = specs, say, clock
        self._calls = 0
        self.sources: list[str] = []

    async def execute(self, call: ToolCall, request_id: str) -> ToolResult:
        """The call's result; a line before and a line after it."""
        self._calls += 1
        number, begun = self._calls, self._clock()
        spec = find_spec(call, self._specs)
        arguments = call.arguments if isinstance(call.arguments, Mapping) else {}
        arguments = mend_arguments(arguments, spec) if spec else arguments
        name = plain(spec.name if spec else call.tool, _ARGUMENT_CHARS)
        self._say(f"{number:>3} {name} {_about(arguments)}".rstrip())
        try:
            result = await self._executor.execute(call, request_id)
        except BaseException:
            self._say(f"{number:>3} {name} stopped after {self._clock() - begun:.1f} s")
            raise
        url = arguments.get("url")
        if result.failure is None and name in _READERS and isinstance(url, str) and url not in self.sources:
            self.sources.append(url)
        self._say(f"{number:>3} {name} {self._clock() - begun:.1f} s: {_gist(result)}")
        return result


def _about(arguments: Mapping[str, Any]) -> str:
    """The argument that says most, in short."""
    texts = [arguments[key] for key in _KEYS if isinstance(arguments.get(key), str)]
    texts += [value for value in arguments.values() if isinstance(value, str)]
    return plain(texts[0], _ARGUMENT_CHARS) if texts else ""


def _gist(result: ToolResult) -> str:
    text = plain(result.text, _RESULT_CHARS) or "nothing"
    return f"failed ({result.failure.value}): {text}" if result.failure else text
