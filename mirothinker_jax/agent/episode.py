"""The ReAct loop: think → call → observation → … → boxed answer, as a ledger of tokens.

A failed or malformed call is an observation, never an exception. When the budget of calls or the context
is used up, the last observation asks for the final answer, and one more turn is sampled. Left out: rollback,
keep-K contexts and restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mirothinker_jax.agent.answer import boxed_answer, last_box
from mirothinker_jax.agent.calls import Executor, batches, results
from mirothinker_jax.agent.policy import Chat, Policy, Session
from mirothinker_jax.agent.prompt import FINAL_REQUEST
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.tools.spec import Failure, ToolResult
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory

# Failures in a row that are not the model's fault, after which the tools are taken to be down.
INFRASTRUCTURE_LIMIT = 5


@dataclass(frozen=True)
class Task:
    id: str
    question: str
    expected: str
    hops: int = 0


@dataclass(frozen=True)
class Setting:
    """What an episode runs under. Token counts are of this run's tokenizer."""

    system: str | None
    max_calls: int
    context_tokens: int
    turn_tokens: int
    output_tokens: int  # the executor's cap on one observation
    functions: Sequence[Mapping[str, Any]] = ()  # schemas for the system message, where the chat writes them


@dataclass
class _Ledger:
    decode: Callable[[Sequence[int]], str]
    segments: list[Segment] = field(default_factory=list)
    routes: list[np.ndarray] = field(
        default_factory=list
    )  # of the tokens in order; what was never fed has none
    tokens: int = 0

    def add(self, source: Source, tokens: Sequence[int], logprobs: Sequence[float] = ()) -> str:
        text = self.decode(tokens)
        self.segments.append(Segment(source, tuple(tokens), text, tuple(logprobs)))
        self.tokens += len(tokens)
        return text


@dataclass
class _Tally:
    calls: int = 0
    failed: int = 0
    malformed: int = 0
    infrastructure_row: int = 0


async def run_episode(
    task: Task,
    *,
    policy: Policy,
    executor: Executor,
    chat: Chat,
    decode: Callable[[Sequence[int]], str],
    setting: Setting,
    episode_id: str,
    seed: int,
) -> Trajectory:
    """One episode of `task`, from the prompt to a Stop. Malformed calls count against the budget too."""
    ledger, tally = _Ledger(decode), _Tally()
    session = await policy.open(seed)
    try:
        answer, stop = await _converse(task, session, executor, chat, setting, episode_id, ledger, tally)
    finally:
        session.close()
    return Trajectory(
        id=episode_id,
        question_id=task.id,
        question=task.question,
        expected=task.expected,
        answer=answer,
        stop=stop,
        calls=tally.calls,
        failed_calls=tally.failed,
        malformed_calls=tally.malformed,
        segments=tuple(ledger.segments),
        hops=task.hops,
        routes=np.concatenate(ledger.routes) if ledger.routes else None,
    )


def _reserve(setting: Setting, chat: Chat) -> tuple[int, int]:
    """Tokens of the request for the final answer, and what a free turn may cost before it: itself, an observation
    with the request, the last turn."""
    request = len(chat.observation([], request=FINAL_REQUEST))
    # Of "mcp", all that a result adds to the message is a newline.
    framed = len(chat.observation([""], request=FINAL_REQUEST)) - 1
    return request, 2 * setting.turn_tokens + setting.output_tokens + max(request, framed)


def min_context_tokens(setting: Setting, chat: Chat) -> int:
    """The context in which an agent can be sure of two turns with calls, but for what the question takes."""
    result = len(chat.observation([""])) + setting.output_tokens
    prompt = len(chat.prompt(setting.system, "", setting.functions))
    return prompt + setting.turn_tokens + result + _reserve(setting, chat)[1]


async def _converse(
    task: Task,
    session: Session,
    executor: Executor,
    chat: Chat,
    setting: Setting,
    episode_id: str,
    ledger: _Ledger,
    tally: _Tally,
) -> tuple[str | None, Stop]:
    forced = setting.max_calls == 0
    question = f"{task.question}\n{FINAL_REQUEST}" if forced else task.question
    feed, source = chat.prompt(setting.system, question, setting.functions), Source.PROMPT
    parse = WIRES[chat.call_format].parse
    request, reserve = _reserve(setting, chat)
    turn_number = 0
    while True:
        if ledger.tokens + len(feed) + setting.turn_tokens > setting.context_tokens:
            return None, Stop.CONTEXT
        ledger.add(source, feed)
        turn = await session.sample(feed, setting.turn_tokens)
        text = ledger.add(Source.POLICY, turn.tokens, turn.logprobs)
        if turn.routes is not None:
            ledger.routes.append(turn.routes)
        turn_number += 1
        said = parse(text)
        if forced:
            return _ending(said.words, Stop.FORCED)
        if not turn.complete:
            return None, Stop.LENGTH
        if not said.calls:
            return _ending(said.words, Stop.ANSWERED)
        texts = []
        allowed = said.calls[: setting.max_calls - tally.calls - tally.malformed]
        numbered = [(f"{episode_id}:{turn_number}.{number}", call) for number, call in enumerate(allowed)]
        for batch in batches(numbered, executor):
            for result in await results(batch, executor):
                texts.append(_observe(result, tally))
                if tally.infrastructure_row >= INFRASTRUCTURE_LIMIT:
                    return None, Stop.INFRASTRUCTURE
        end = turn.tokens[-1]
        feed, source = chat.observation(texts, end), Source.OBSERVATION
        room = setting.context_tokens - ledger.tokens - len(feed)
        forced = tally.calls + tally.malformed >= setting.max_calls or room < reserve
        if forced:
            if room < request + setting.turn_tokens:  # several long results in one turn
                texts = ["results dropped: the context is full"]
            feed = chat.observation(texts, end, FINAL_REQUEST)


def _ending(words: str, answered: Stop) -> tuple[str | None, Stop]:
    answer = boxed_answer(words)
    if answer is not None:
        return answer, answered
    return None, Stop.NO_ANSWER if last_box(words) is None else Stop.GAVE_UP


def _observe(result: ToolResult | Malformed, tally: _Tally) -> str:
    if isinstance(result, Malformed):
        tally.malformed += 1
        return result.reason
    tally.calls += 1
    tally.failed += result.failure is not None
    # An unknown tool or an address that does not answer says nothing about our services.
    if result.failure is None or result.failure is Failure.TOOL_ERROR:
        tally.infrastructure_row = 0
    elif result.failure.infrastructure:
        tally.infrastructure_row += 1
    return result.text
