"""Answers graded by a language model behind an OpenAI-compatible endpoint.

What equals the reference as text is correct without asking, and what says nothing is wrong without asking. The judge
sees what the last box holds, never the reasoning before it (judge_prompt.py). How its verdict is read is a setting
(judge_readings.py), what was said once is remembered (judge_memory.py), and there are ceilings (judge_meter.py).

Failures that may pass (429, 5xx, timeouts, connections) are tried again within a deadline, after random, growing
waits. What remains, and a verdict that cannot be read, is no verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.tasks.judge_memory import JudgeMemory
from mirothinker_jax.tasks.judge_meter import Meter
from mirothinker_jax.tasks.judge_prompt import is_bait, read_prompt, rendered
from mirothinker_jax.tasks.judge_readings import READINGS
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.tasks.types import Attempt, Task, Verdict
from mirothinker_jax.tools.chat_api import (
    MayPass,
    api_base,
    key_header,
    passes,
    read_answer,
    retry_after_s,
    retrying,
    said_text,
)
from mirothinker_jax.tools.spec import ToolError

if TYPE_CHECKING:  # only a run with a judge pays for importing HTTP
    import tenacity

    from mirothinker_jax.tools.client import WebClient

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0  # between attempts, at most; any wait up to it
_REASON_CHARS = 300


class JudgeFailed(Exception):
    """No verdict, and another attempt would meet the same."""


class Judge:
    """A Grader: the model at settings.judge_url. Its connections are closed whenever no verdict is awaited, so it may
    be called on one event loop after another, and there is nothing to close. `meter` says what it has cost.

    Raises ConfigError for a prompt file or a file of verdicts that cannot be used.
    """

    def __init__(self, settings: TasksConfig, api_key: str):
        self.meter = Meter(settings)
        self._settings, self._reading = settings, READINGS[settings.judge_reading]
        self._url = f"{api_base(settings.judge_url)}/chat/completions"
        self._headers = key_header(api_key)
        self._prompt = read_prompt(settings.judge_prompt_file, self._reading)
        self._line: _Line | None = None
        self._memory = JudgeMemory(settings)

    async def __call__(self, task: Task, attempt: Attempt) -> Verdict:
        """What the model says of the attempt's answer. Raises nothing."""
        if attempt.answer is None:
            return Verdict(False, "no answer")
        if self._reading.exact_first and is_correct(task.answer, attempt.answer):
            return Verdict(True, "the same as the reference")
        if is_bait(attempt.answer):
            return Verdict(False, "says nothing")
        return await self.ask(task, attempt.answer, attempt.id)

    async def ask(self, task: Task, answer: str, request_id: str) -> Verdict:
        """What the model says of an answer, also of one that would not be put to it. Raises nothing."""
        prompt = rendered(self._prompt, task, answer)
        key = self._memory.key(prompt)
        if (known := self._memory.get(key)) is not None:
            self.meter.remembered += 1
            return known
        try:
            said = await self._asked(prompt, request_id)
        except JudgeFailed as error:
            return Verdict(None, f"the judge: {error}")
        verdict = self._reading.read(said)
        if verdict is None:
            return Verdict(None, f"the judge gave no verdict, but said: {_short(said)}")
        verdict = Verdict(verdict.correct, _short(said), verdict.terms)
        self._memory.add(key, verdict)
        return verdict

    async def _asked(self, prompt: str, request_id: str) -> str:
        """What the model says, tried again where that may help. Raises JudgeFailed."""
        clock = asyncio.get_running_loop().time

        def over(state: tenacity.RetryCallState) -> bool:
            again_at, ends = clock() + state.upcoming_sleep, limit.when()
            return state.attempt_number > self._settings.judge_retries or ends is None or again_at >= ends

        limit = asyncio.timeout(None)
        try:
            async with self._connected() as line, limit:
                again = retrying(_FIRST_WAIT_S, _LONGEST_WAIT_S, over)
                return await again(self._once, line, limit, prompt, request_id)
        except MayPass as error:
            raise JudgeFailed(str(error)) from error
        except TimeoutError:
            raise JudgeFailed(f"no verdict within {self._settings.judge_deadline_s:g} s") from None

    async def _once(self, line: _Line, limit: asyncio.Timeout, prompt: str, request_id: str) -> str:
        """A request. The deadline begins when the first may be sent: waiting for others is not its time."""
        body: dict[str, Any] = {
            "model": self._settings.judge_model,
            "messages": [{"role": "user", "content": prompt}],
        }
        if self._settings.judge_temperature >= 0:
            body["temperature"] = self._settings.judge_temperature
        try:
            async with line.slots:
                if reason := self.meter.refusal():
                    raise JudgeFailed(reason)
                self.meter.calls += 1
                if limit.when() is None:
                    limit.reschedule(line.loop.time() + self._settings.judge_deadline_s)
                response = await line.client.send(
                    "POST", self._url, request_id, self._headers, json=body, service=True
                )
        except ToolError as error:
            raise MayPass(str(error)) from error
        status = response.status_code
        if status == 200:
            return self._said(prompt, response.content)
        if passes(status):
            raise MayPass(f"HTTP {status}", retry_after_s(response))
        hint = ""
        if status in (401, 403):
            hint = f"; set the environment variable {self._settings.judge_key_env} (tasks.judge_key_env names it)"
        raise JudgeFailed(f"HTTP {status}: {_short(response.text)}{hint}")

    def _said(self, prompt: str, content: bytes) -> str:
        """The message of a completion without its thoughts. Raises JudgeFailed."""
        answer = read_answer(content)
        text = said_text(answer)
        self.meter.add(prompt, answer, text or "")
        if text is None:
            raise JudgeFailed(
                f"an answer without choices[0].message.content: {_short(content.decode(errors='replace'))}"
            )
        if not text:
            raise JudgeFailed("an empty answer")
        return text

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Line]:
        """The connections that all verdicts of the moment share."""
        loop = asyncio.get_running_loop()
        if self._line is None or self._line.loop is not loop:
            self._line = _Line(self._settings)
        line = self._line
        line.users += 1
        try:
            yield line
        finally:
            line.users -= 1
            if line.users == 0:  # the next verdict opens them again
                await line.client.aclose()


class _Line:
    """Connections and places of one event loop."""

    def __init__(self, settings: TasksConfig):
        from mirothinker_jax.tools.client import WebClient

        limits = (settings.judge_concurrency, settings.judge_timeout_s)
        self.client: WebClient = WebClient(None, *limits, service_url=settings.judge_url)
        self.slots = asyncio.Semaphore(settings.judge_concurrency)
        self.loop = asyncio.get_running_loop()
        self.users = 0


def _short(text: str) -> str:
    """One line of it, from its end: that is where a verdict would stand."""
    line = " ".join(text.split())
    return line if len(line) <= _REASON_CHARS else f"… {line[-_REASON_CHARS:]}"
