"""What we write between the turns: the prompt, the results, what we ask for last; and whether there is room for it.

Nothing is written that would not leave room for the turn after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from mirothinker_jax.agent.ledger import Ledger
from mirothinker_jax.agent.policy import Chat
from mirothinker_jax.agent.prompt import fill
from mirothinker_jax.agent.setting import Setting, reserve
from mirothinker_jax.trajectory.types import Said, Source

FULL = "results dropped: the context is full"


class Conversation:
    """A ledger with words: texts in, tokens in the ledger."""

    def __init__(self, ledger: Ledger, chat: Chat, setting: Setting, question: str):
        self._ledger, self._chat, self._setting = ledger, chat, setting
        self.final_request = fill(setting.final_request, question=question)
        self.failure_request = fill(setting.failure_request, question=question)
        self._last_request = self.final_request  # the longest that may have to follow a result
        if setting.restarts and setting.restart_with == "summary":
            self._last_request = max(
                self.final_request, self.failure_request, key=lambda r: len(self._ids([], r))
            )
        self._reserve = reserve(setting, chat, self._last_request)
        self._user = ""

    def begin(self, user: str, request: str | None = None) -> bool:
        """A new conversation, which asks `user` and at once `request`; False where that leaves no room for a turn."""
        text = user if request is None else f"{user}\n{request}"
        ids = self._chat.prompt(self._setting.system, text, self._setting.functions)
        if not self._fits(len(ids)):
            return False
        system = () if self._setting.system is None else (("system", self._setting.system),)
        self._user = user
        self._ledger.begin(ids, (*system, ("user", text)))
        return True

    def may_go_on(self, results: Sequence[str]) -> bool:
        """Whether there is room for another free turn after these results, so that an answer can be asked for after
        it. With overflow=drop the turn must fit, and is dropped if what it brings does not."""
        end = self._end()
        if self._setting.overflow == "reserve":
            ids = self._chat.observation(results, end)
            return self._ledger.length(len(ids)) + self._reserve <= self._setting.context_tokens
        # Either may be the longer one: a request that lifts the pile above its mark has results hidden.
        choices = (self._chat.observation(results, end, request) for request in (None, self._last_request))
        return all(self._fits(self._ledger.length(len(ids))) for ids in choices)

    def observe(self, results: Sequence[str]) -> None:
        """The results of the last turn's calls."""
        self._ledger.observe(self._chat.observation(results, self._end()), _said(results))

    def ask(self, request: str, results: Sequence[str] = (), drop: bool = True) -> bool:
        """Puts `request` behind the results of the last turn's calls. Where there is no room, the results go, or with
        `drop` the whole turn, and the one before it, until there is. False where that is not enough."""
        ledger, results = self._ledger, tuple(results)
        while True:
            if (
                ledger.last.source is Source.OBSERVATION
            ):  # it was shown already; now it comes with the request
                results = tuple(text for role, text in ledger.take_back().messages if role == "tool")
            if ledger.last.source is Source.PROMPT:
                return self.begin(self._user, request)
            options = [results] if drop or not results else [results, (FULL,)]
            for texts in options:
                ids = self._chat.observation(texts, self._end(), request)
                if self._fits(ledger.length(len(ids))):
                    ledger.observe(ids, _said(texts, request))
                    return True
            if not drop:
                return False
            ledger.take_back()

    def _fits(self, tokens: int) -> bool:
        return tokens + self._setting.turn_tokens <= self._setting.context_tokens

    def _end(self) -> int:
        """The last token of the last turn."""
        return self._ledger.end

    def _ids(self, texts: Sequence[str], request: str) -> Sequence[int]:
        return self._chat.observation(texts, request=request)


def _said(results: Sequence[str], request: str | None = None) -> tuple[Said, ...]:
    asked = () if request is None else (("user", request),)
    return (*(("tool", text) for text in results), *asked)
