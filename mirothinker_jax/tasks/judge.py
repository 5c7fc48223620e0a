"""Answers graded by a language model behind an OpenAI-compatible endpoint.

The judge sees the question, the reference and what the last box holds, never the reasoning before it. What equals the
reference as text is correct without asking, and what says nothing is wrong without asking: judges pass ":" and
"Thought process:" far too often (arXiv 2507.08794). The response goes in as a JSON string, cut, without control
tokens. Not safe: a box that argues may still persuade a judge.

Failures that may pass (429, 5xx, timeouts, connections) are tried again within a deadline. What remains, and a verdict
that cannot be read, is no verdict. Verdicts are remembered, but only in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mirothinker_jax.config import TasksConfig, check
from mirothinker_jax.tasks.rules import is_correct, says_nothing
from mirothinker_jax.tasks.types import Attempt, Task, Verdict
from mirothinker_jax.tools.spec import ToolError

if TYPE_CHECKING:  # only a run with a judge pays for importing HTTP
    import httpx

    from mirothinker_jax.tools.client import WebClient

RESPONSE_CHARS = 4_000  # of a response, at most
_REMEMBERED = 1 << 17  # verdicts
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0  # between attempts, at most; any wait up to it
_REASON_CHARS = 300
_PLACES = re.compile(r"\{(question|answer|response)\}")
# Of the chat formats in use: <|im_end|>, <｜User｜>, </s>, <start_of_turn>, [INST], <think>, <tool_call>.
_CONTROL_TOKENS = re.compile(
    r"<[|｜][^<>|｜]{0,80}[|｜]>|</?(?:s|bos|eos|pad|unk|think|thinking|tool_call|tool_response|(?:start|end)_of_turn)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>",
    re.IGNORECASE,
)
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn")
_JOINERS = "\u200c\u200d"  # invisible, and letters need them
_VERDICT_LINE = re.compile(
    r"(?:(?:the |my )?(?:final |overall )?(?:verdict|judge?ment|grade|result|answer|response)\s*(?:[:：=]|is)\s*)?"
    r"(correct|incorrect)",
    re.IGNORECASE,
)


class JudgeFailed(Exception):
    """No verdict, and another attempt would meet the same."""


class _MayPass(JudgeFailed):
    """No verdict, and another attempt may get one."""

    def __init__(self, reason: str, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s  # at least, before another attempt


class Reading(NamedTuple):
    """A way to say a verdict: the words that a prompt must ask for, and the reader of what was said, which returns
    None for what it cannot read."""

    words: tuple[str, ...]
    read: Callable[[str], bool | None]


def read_word(said: str) -> bool | None:
    """The verdict on the last line, else on the first; None where neither is one, or they differ.

    >>> read_word("They agree.\\n**CORRECT**"), read_word("Verdict: incorrect."), read_word("NOT CORRECT")
    (True, False, None)
    """
    lines = [line.strip(" \t*_`#>.!\"'“”。[](){}") for line in said.splitlines()]
    lines = [line for line in lines if line]
    found = {
        match[1].lower() == "correct"
        for line in (lines[:1] + lines[-1:])
        if (match := _VERDICT_LINE.fullmatch(re.sub("[*_`]", "", line)))
    }
    return found.pop() if len(found) == 1 else None


READINGS: Mapping[str, Reading] = {"word": Reading(("CORRECT", "INCORRECT"), read_word)}


class Judge:
    """A Grader: the model at settings.judge_url. Its connections are closed whenever no verdict is awaited, so it may
    be called on one event loop after another, and there is nothing to close.

    Raises ConfigError for a prompt file that cannot be used.
    """

    def __init__(self, settings: TasksConfig, api_key: str, reading: str = "word"):
        self._settings, self._reading = settings, READINGS[reading]
        self._url = settings.judge_url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._prompt = _prompt(settings.judge_prompt_file, self._reading.words)
        self._line: _Line | None = None
        self._known: dict[bytes, Verdict] = {}

    async def __call__(self, task: Task, attempt: Attempt) -> Verdict:
        """What the model says of the attempt's answer. Raises nothing."""
        if attempt.answer is None:
            return Verdict(False, "no answer")
        if is_correct(task.answer, attempt.answer):
            return Verdict(True, "the same as the reference")
        if _is_bait(attempt.answer):
            return Verdict(False, "says nothing")
        prompt = self._rendered(task, attempt.answer)
        key = hashlib.sha256(
            prompt.encode()
        ).digest()  # of template, question, reference and answer; the model is one
        if key in self._known:
            return self._known[key]
        try:
            said = await self._asked(prompt, attempt.id)
        except JudgeFailed as error:
            return Verdict(None, f"the judge: {error}")
        correct = self._reading.read(said)
        if correct is None:
            return Verdict(None, f"the judge gave no verdict, but said: {_short(said)}")
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = Verdict(correct, _short(said))
        return self._known[key]

    def _rendered(self, task: Task, answer: str) -> str:
        cut = answer if len(answer) <= RESPONSE_CHARS else f"{answer[:RESPONSE_CHARS]} […]"
        fields = {
            "question": _without_control(task.question),
            "answer": _without_control(task.answer),
            "response": json.dumps(_without_control(cut), ensure_ascii=False),
        }
        return _PLACES.sub(lambda place: fields[place[1]], self._prompt)

    async def _asked(self, prompt: str, request_id: str) -> str:
        """What the model says, tried again where that may help. Raises JudgeFailed."""
        # 0.05 s, which only a run with a judge pays
        from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

        clock = asyncio.get_running_loop().time
        ends = clock() + self._settings.judge_deadline_s
        jitter = wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_LONGEST_WAIT_S)

        def wait(state: RetryCallState) -> float:
            assert state.outcome is not None
            error = state.outcome.exception()
            return jitter(state) + (error.wait_s if isinstance(error, _MayPass) else 0.0)

        def over(state: RetryCallState) -> bool:
            return (
                state.attempt_number > self._settings.judge_retries or clock() + state.upcoming_sleep >= ends
            )

        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            retry=retry_if_exception_type(_MayPass),
            wait=wait,
            stop=over,
            reraise=True,
        )
        try:
            async with self._connected() as line, asyncio.timeout_at(ends):
                return await retrying(self._once, line, prompt, request_id)
        except TimeoutError:
            raise JudgeFailed(f"no verdict within {self._settings.judge_deadline_s:g} s") from None

    async def _once(self, line: _Line, prompt: str, request_id: str) -> str:
        body: dict[str, Any] = {
            "model": self._settings.judge_model,
            "messages": [{"role": "user", "content": prompt}],
        }
        if self._settings.judge_temperature >= 0:
            body["temperature"] = self._settings.judge_temperature
        try:
            async with line.slots:
                response = await line.client.send(
                    "POST", self._url, request_id, self._headers, json=body, service=True
                )
        except ToolError as error:
            raise _MayPass(str(error)) from error
        status = response.status_code
        if status == 200:
            return _said(response.content)
        if status in (408, 409, 425, 429) or status >= 500:
            raise _MayPass(f"HTTP {status}", _retry_after_s(response))
        hint = ""
        if status in (401, 403):
            hint = f"; set the environment variable {self._settings.judge_key_env} (tasks.judge_key_env names it)"
        raise JudgeFailed(f"HTTP {status}: {_short(response.text)}{hint}")

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
            if line.users == 0:
                self._line = None if self._line is line else self._line
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


def _said(content: bytes) -> str:
    """The message of a completion without its thoughts. Raises JudgeFailed."""
    try:
        said = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        said = None
    if not isinstance(said, str):
        raise JudgeFailed(
            f"an answer without choices[0].message.content: {_short(content.decode(errors='replace'))}"
        )
    text = said.rpartition("</think>")[2].strip()
    if not text:
        raise JudgeFailed("an empty answer")
    return text


def _is_bait(answer: str) -> bool:
    """Whether an answer says nothing: punctuation alone, or an announcement that nothing follows."""
    text = answer.strip(" \t\r\n*_$\\{}\"'")
    words = [char for char in text if not char.isspace() and unicodedata.category(char)[0] not in "PCZ"]
    return says_nothing(answer) or not words or text[-1] in ":："


def _without_control(text: str) -> str:
    """Without control tokens and invisible characters. A space stands for each, so that no two pieces make a token."""
    visible = (
        char if char in "\n\t" or char in _JOINERS or unicodedata.category(char) not in _INVISIBLE else " "
        for char in text
    )
    return _CONTROL_TOKENS.sub(" ", "".join(visible))


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds that the endpoint asks to wait; 0 where it does not say so, or says it as a date."""
    said = response.headers.get("Retry-After", "")
    return float(said) if re.fullmatch(r"\d{1,6}(?:\.\d{1,6})?", said, re.ASCII) else 0.0


def _short(text: str) -> str:
    """One line of it, from its end: that is where a verdict would stand."""
    line = " ".join(text.split())
    return line if len(line) <= _REASON_CHARS else f"… {line[-_REASON_CHARS:]}"


def _prompt(file: str, words: tuple[str, ...]) -> str:
    path = Path(file) if file else Path(__file__).with_name("judge.txt")
    try:
        prompt = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        prompt, reason = "", f"cannot be read ({error})"
    else:
        lacks = [f"{{{name}}}" for name in ("question", "answer", "response") if f"{{{name}}}" not in prompt]
        lacks += [f"the word {word}" for word in words if not re.search(rf"\b{word}\b", prompt)]
        reason = f"lacks {', '.join(lacks)}" if lacks else ""
    check(not reason, f"tasks.judge_prompt_file: {file} {reason}; the built-in one is tasks/judge.txt")
    return prompt
