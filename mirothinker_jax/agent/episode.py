"""The ReAct loop: think → call → observation → … → boxed answer, as a ledger of tokens.

A failed call is an observation, never an exception; so is a malformed one, unless turns may be taken back. When the
budget of calls or the context is used up, the final answer is asked for, and one more turn is sampled. What a setting
may add: hidden results (context.py), rollbacks (rollback.py), restarts (restart.py).

An episode is a function of its task, its seed, its setting, the turns and the results of the calls. Given the recorded
ones it comes to the same requests again; there is no other way to resume it. A turn's seed is of the episode's seed and
of how many turns were sampled before it, so that a turn taken back is not drawn again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mirothinker_jax.agent import rollback
from mirothinker_jax.agent.answer import boxed_answer, last_box
from mirothinker_jax.agent.calls import Executor, batches, results
from mirothinker_jax.agent.conversation import Conversation
from mirothinker_jax.agent.ledger import Ledger
from mirothinker_jax.agent.policy import Chat, Engine, EngineError, Request, Sampling, Turn
from mirothinker_jax.agent.restart import attempt_prompt
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.agent.wire.formats import WIRES
from mirothinker_jax.agent.wire.turn import Malformed, ParsedTurn
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolError, ToolResult
from mirothinker_jax.trajectory.types import NETWORK_ROW, TIMEOUTS, Stop, Trajectory

Ending = tuple[str | None, Stop]


async def run_episode(
    task: Task,
    *,
    engine: Engine,
    executor: Executor,
    chat: Chat,
    decode: Callable[[Sequence[int]], str],
    setting: Setting,
    episode_id: str,
    seed: int,
    sampling: Sampling = Sampling(),
) -> Trajectory:
    """One episode of `task`, from the prompt to a Stop.

    `episode_id` names the engine's session, the tools' state and the calls ("EPISODE:TURN.CALL"). Where the engine or
    a tool's beginning fails, or the last results are failures of our own services, the episode ends in
    Stop.INFRASTRUCTURE, and `reason` of the trajectory says how.
    """
    ledger = Ledger(chat, decode, setting.context)
    episode = _Episode(task, engine, executor, chat, setting, episode_id, seed, sampling, ledger)
    answer, stop, reason = None, Stop.INFRASTRUCTURE, ""
    try:
        await executor.begin(episode_id, task.files)
        answer, stop = await episode.run()
        if episode.down:  # what a policy says to a failure of ours says nothing about it
            stop, reason = Stop.INFRASTRUCTURE, episode.down
    except (EngineError, ToolError) as error:
        reason = str(error)
    finally:
        engine.forget(episode_id)
        await executor.end(episode_id)
    tally = episode.tally
    return Trajectory(
        id=episode_id,
        question_id=task.id,
        question=task.question,
        expected=task.answer,
        answer=answer,
        stop=stop,
        calls=tally.calls,
        failed_calls=tally.failed,
        malformed_calls=tally.malformed,
        segments=tuple(ledger.segments),
        turns=tuple(ledger.turns),
        reason=reason,
        metadata=task.metadata,
        metrics=tally.metrics(),
        routes=ledger.routes,
    )


@dataclass
class _Tally:
    """Of the whole episode, with the calls of turns that were taken back."""

    calls: int = 0
    failed: int = 0
    malformed: int = 0
    restarts: int = 0
    rollbacks: Counter[rollback.Reason] = field(default_factory=Counter)
    timeouts: int = 0
    network_row: int = 0  # network failures since the last call without one
    longest_row: int = 0

    def count(self, failure: Failure | None) -> None:
        """A call that was made, and how it failed."""
        self.calls += 1
        self.failed += failure is not None
        self.timeouts += failure is Failure.DEADLINE
        network = failure is Failure.UNREACHABLE or (failure is not None and failure.infrastructure)
        self.network_row = self.network_row + 1 if network else 0
        self.longest_row = max(self.longest_row, self.network_row)

    def metrics(self) -> dict[str, float]:
        figures = {f"rollbacks/{reason}": count for reason, count in sorted(self.rollbacks.items())}
        figures |= {"restarts": self.restarts, NETWORK_ROW: self.longest_row, TIMEOUTS: self.timeouts}
        return {name: float(count) for name, count in figures.items() if count}


@dataclass
class _Attempt:
    """Where an attempt stands."""

    number: int
    last: bool  # no other one follows
    spent: int = 0  # of the budget of calls; malformed ones count too
    turns: int = 0  # sampled, with those taken back
    row: int = 0  # turns taken back in a row
    asked: set[str] = field(default_factory=set)  # queries that were answered


class _Episode:
    def __init__(
        self,
        task: Task,
        engine: Engine,
        executor: Executor,
        chat: Chat,
        setting: Setting,
        episode_id: str,
        seed: int,
        sampling: Sampling,
        ledger: Ledger,
    ):
        self._question, self._engine, self._executor = task.question, engine, executor
        self._setting, self._id, self._seed, self._sampling = setting, episode_id, seed, sampling
        self._ledger = ledger
        self._talk = Conversation(ledger, chat, setting, task.question)
        self._parse = WIRES[chat.call_format].parse
        self._outages = 0  # failures of our own services in a row
        self._unseen: tuple[str, ...] = ()  # results that no turn has seen
        self._found: str | None = None  # the last box of a turn that was not the final answer
        self.down = ""  # what the last of these failures said
        self.tally = _Tally()

    async def run(self) -> Ending:
        """Attempts, until one ends with an answer."""
        setting = self._setting
        failures: list[str] = []
        ending: Ending = None, Stop.NO_ANSWER
        for number in range(setting.restarts + 1):
            self.tally.restarts, self._unseen = number, ()
            attempt = _Attempt(number, last=number == setting.restarts)
            ending = await self._attempt(attempt, failures)
            if ending[0] is not None or ending[1] is Stop.INFRASTRUCTURE:
                return ending
            if attempt.turns and not attempt.last and setting.restart_with == "summary":
                failures += await self._summary(attempt)
        if setting.fallback and self._found is not None:
            return self._found, Stop.FALLBACK
        return ending

    async def _attempt(self, attempt: _Attempt, failures: Sequence[str]) -> Ending:
        setting, talk = self._setting, self._talk
        request = None if setting.max_calls else talk.final_request
        starts = range(len(failures) + 1)  # the oldest summaries go where there is no room
        prompts = (attempt_prompt(setting.restart_prompt, self._question, failures[i:]) for i in starts)
        if not any(talk.begin(prompt, request) for prompt in prompts):
            return None, Stop.CONTEXT
        if request:
            return await self._final_turn(attempt, Stop.FORCED)
        while attempt.turns < setting.max_calls + rollback.EXTRA_TURNS:
            ending = await self._step(attempt)
            if ending is not None:
                return ending
        return await self._ask(attempt, Stop.FORCED)

    async def _step(self, attempt: _Attempt) -> Ending | None:
        """A turn and its calls; None where the attempt goes on."""
        turn, said = await self._sample(attempt)
        fault = rollback.fault_of_turn(said, turn.complete, attempt.asked)
        if self._take_back(attempt, fault):
            return None
        if not turn.complete:
            return None, Stop.LENGTH
        self._found = boxed_answer(said.words) or self._found
        refused = fault is rollback.Reason.REFUSED and self._setting.rollbacks > 0
        useless = self._setting.rollbacks > 0 and all(isinstance(call, Malformed) for call in said.calls)
        if said.calls and not useless:
            return await self._act(attempt, said.calls[: self._setting.max_calls - attempt.spent])
        self.tally.malformed += len(said.calls)
        if said.calls or refused:
            return await self._ask(attempt, Stop.FORCED)
        if self._setting.final_answer == "always":
            return await self._ask(attempt, Stop.ANSWERED)
        return _ending(said.words, Stop.ANSWERED)

    async def _act(self, attempt: _Attempt, calls: Sequence[ToolCall | Malformed]) -> Ending | None:
        """Makes the calls of a turn; None where the attempt goes on."""
        outcome = await self._call(calls)
        if self._outages >= self._setting.outage_calls:
            return None, Stop.INFRASTRUCTURE
        taken_back = self._take_back(attempt, rollback.fault_of_results(outcome))
        attempt.asked |= rollback.answered(calls, outcome, taken_back)
        if taken_back:
            return None
        attempt.row = 0
        attempt.spent += len(calls)
        self.tally.malformed += sum(isinstance(call, Malformed) for call in calls)
        texts = tuple(result.reason if isinstance(result, Malformed) else result.text for result in outcome)
        if attempt.spent < self._setting.max_calls and self._talk.may_go_on(texts):
            self._talk.observe(texts)
            return None
        if attempt.last:
            return await self._ask(attempt, Stop.FORCED, texts)
        self._unseen = texts
        return None, Stop.NO_ANSWER

    async def _ask(self, attempt: _Attempt, answered: Stop, results: Sequence[str] = ()) -> Ending:
        """Asks for the final answer. With an answer the episode ends in `answered`."""
        drop = self._setting.overflow == "drop"
        if not self._talk.ask(self._talk.final_request, results, drop):
            return None, Stop.CONTEXT
        return await self._final_turn(attempt, answered)

    async def _final_turn(self, attempt: _Attempt, answered: Stop) -> Ending:
        _, said = await self._sample(attempt)
        return _ending(said.words, answered)

    async def _summary(self, attempt: _Attempt) -> list[str]:
        """What the policy writes down of an attempt that failed; nothing where there is no room for it."""
        if not self._talk.ask(self._talk.failure_request, self._unseen):
            return []
        _, said = await self._sample(attempt)
        return [said.words.strip()] if said.words.strip() else []

    async def _sample(self, attempt: _Attempt) -> tuple[Turn, ParsedTurn]:
        context = self._ledger.context()
        request = Request(
            session=self._id,
            ids=self._ledger.ids(context),
            max_tokens=self._setting.turn_tokens,
            seed=turn_seed(self._seed, len(self._ledger.turns)),
            sampling=self._sampling,
        )
        turn = await self._engine.generate(request)
        attempt.turns += 1
        return turn, self._parse(self._ledger.speak(turn, context, attempt.number))

    async def _call(self, calls: Sequence[ToolCall | Malformed]) -> list[ToolResult | Malformed]:
        """What became of each call, in order; of fewer where too many failures of ours in a row end the episode."""
        turn = len(self._ledger.turns)
        numbered = [(f"{self._id}:{turn}.{number}", call) for number, call in enumerate(calls)]
        outcome: list[ToolResult | Malformed] = []
        for batch in batches(numbered, self._executor):
            for (_, call), result in zip(batch, await results(batch, self._executor), strict=True):
                outcome.append(result)
                if isinstance(result, Malformed) or isinstance(call, Malformed):
                    continue
                self.tally.count(result.failure)
                # An unknown tool or an address that does not answer says nothing about our services.
                if result.failure is None or result.failure.answered:
                    self._outages, self.down = 0, ""
                # Code of the policy's own that runs too long is no outage.
                elif result.failure.infrastructure and not (
                    result.failure is Failure.DEADLINE and self._executor.changes(call)
                ):
                    self._outages, self.down = self._outages + 1, result.text or str(result.failure)
                if self._outages >= self._setting.outage_calls:
                    return outcome
        return outcome

    def _take_back(self, attempt: _Attempt, fault: rollback.Reason | None) -> bool:
        """Takes the turn back where it has a fault, unless that happened too often in a row."""
        if fault is None or attempt.row >= self._setting.rollbacks:
            return False
        attempt.row += 1
        self.tally.rollbacks[fault] += 1
        self._ledger.take_back()
        return True


def turn_seed(seed: int, turns: int) -> int:
    """The seed of a turn, 0 ≤ seed < 2³¹: of the episode's, and of how many turns were sampled before."""
    return int.from_bytes(hashlib.sha256(f"{seed}|{turns}".encode()).digest()[:4]) >> 1


def _ending(words: str, answered: Stop) -> Ending:
    answer = boxed_answer(words)
    if answer is not None:
        return answer, answered
    return None, Stop.NO_ANSWER if last_box(words) is None else Stop.GAVE_UP
