"""The settings of the agent loop, and its presets.

A preset gives every setting that nobody gave, of the loop and of sampling. So the fields that it has a say in are UNSET
by default, and resolved when the dataclass is made (those of sampling, when Config is): whoever reads
`config.agent.max_calls` has a number. A setting that was given wins.

Not safe: `dataclasses.replace(agent, preset=…)` changes nothing else, as it hands on what was resolved before.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mirothinker_jax.config_tree import UNSET, check, one_of

_ALONE: Mapping[str, Any] = {
    "max_calls": 16,
    "context_tokens": 2048,
    "turn_tokens": 96,
    "keep_results": -1,
    "overflow": "reserve",
    "final_answer": "forced",
    "fallback": False,
    "rollbacks": 0,
    "restarts": 0,
    "restart_with": "summary",
}
_LONG: Mapping[str, Any] = {**_ALONE, "context_tokens": 262_144, "turn_tokens": 16_384}
_RELEASED: Mapping[str, Any] = {
    **_LONG,
    "keep_results": 5,
    "overflow": "drop",
    "final_answer": "always",
    "fallback": True,
    "rollbacks": 4,
    "restarts": 5,
}
# What the released scaffolds of MiroThinker run with (arXiv 2511.11793 and the model cards), and two baselines.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "": _ALONE,
    "v1.0": {**_RELEASED, "max_calls": 600},
    "v1.5": {**_RELEASED, "max_calls": 400},
    "v1.7": {**_RELEASED, "max_calls": 300, "restart_with": "nothing"},
    "react": {**_LONG, "max_calls": 20},
    "none": {**_LONG, "max_calls": 0},
}
# What asking and evaluating sample with under each (EvalConfig); published for the releases.
_PLAIN_SAMPLING: Mapping[str, float] = {"temperature": 1.0, "top_p": 0.95, "repetition_penalty": 1.0}
_RELEASED_SAMPLING: Mapping[str, float] = {**_PLAIN_SAMPLING, "repetition_penalty": 1.05}
SAMPLING: Mapping[str, Mapping[str, float]] = {
    name: _RELEASED_SAMPLING if name.startswith("v") else _PLAIN_SAMPLING for name in PRESETS
}


@dataclass(frozen=True)
class AgentConfig:
    """The ReAct loop: think → call → observation → … → boxed answer."""

    # Gives what is not set below: v1.0, v1.5 and v1.7 as MiroThinker's releases run; react, a plain loop of at most 20
    # calls; none, an answer without tools. Empty: the values in brackets.
    preset: str = ""
    # Tool calls allowed in an attempt; then the final answer is asked for. 0: no tools at all. [16]
    max_calls: int = UNSET
    context_tokens: int = UNSET  # the most that a turn sees and adds: prompt, turns and tool results [2048]
    turn_tokens: int = UNSET  # most new tokens of one assistant turn [96]
    # How many of the last tool results the model sees; a line stands for each older one, and thoughts and calls all
    # stay. -1: all. [-1]
    keep_results: int = UNSET
    # With keep_results: let results pile up, and cut them to keep_results at once when more than so many are seen. The
    # context's front then changes seldom, and what was computed of it is used again. 0: cut at every result.
    high_results: int = 0
    high_tokens: int = 0  # the same where they have more than so many tokens; either mark will do
    # When the context is nearly full. reserve: the answer is asked for while a turn and a result still fit before it;
    # drop: as late as can be, and a turn whose results leave no room is dropped with them. [reserve]
    overflow: str = UNSET
    # When the final answer is asked for. forced: where calls or context are used up; always: also after a turn without
    # a call, as MiroThinker's releases do, whose answer is the turn after that. [forced]
    final_answer: str = UNSET
    # The last box of an earlier turn is the answer where the final turn has none. [false]
    fallback: bool = UNSET
    # Turns that may be taken back and sampled again in a row: malformed or cut calls, refusals, queries asked before,
    # unknown tools, searches that find nothing. 0: none, and the model is told what was wrong. [0]
    rollbacks: int = UNSET
    restarts: int = UNSET  # fresh attempts at a question after one without a boxed answer [0]
    # What a fresh attempt knows of those before. summary: what the model wrote down of each when it failed; nothing:
    # the question alone. [summary]
    restart_with: str = UNSET
    # So many failures in a row of our own services (search, sandbox, a full quota) end an episode, which is then run
    # again and never judged.
    outage_calls: int = 5
    system_prompt_file: str = ""  # empty: the built-in template
    # What $date becomes in that file, as YYYY-MM-DD. Empty: the day (by UTC) on which a run or an evaluation began, and
    # which it keeps however often it goes on; where a question is asked, today.
    date: str = ""
    # What asks for the final answer, and may hold $question; empty: the built-in one. A released model wants the words
    # that it was trained with.
    final_prompt_file: str = ""
    failure_prompt_file: str = ""  # with restarts: what asks for a failed attempt's summary; empty: built-in
    # What the user says in the attempts after that, with $question and $failures; empty: the built-in one.
    restart_prompt_file: str = ""

    def __post_init__(self):
        one_of("agent.preset", self.preset, tuple(PRESETS))
        for key, value in PRESETS[self.preset].items():
            if getattr(self, key) is UNSET:
                object.__setattr__(self, key, value)
        for key in ("max_calls", "high_results", "high_tokens", "rollbacks", "restarts"):
            check(getattr(self, key) >= 0, f"agent.{key} is {getattr(self, key)}; it must be ≥ 0")
        check(
            0 < self.turn_tokens < self.context_tokens,
            f"agent.turn_tokens ({self.turn_tokens}) must be below agent.context_tokens "
            f"({self.context_tokens})",
        )
        check(
            self.keep_results == -1 or self.keep_results >= 1,
            f"agent.keep_results is {self.keep_results}; give ≥ 1, or -1 for all: without its last result, an agent "
            "would call for nothing",
        )
        check(
            self.keep_results > 0 or not (self.high_results or self.high_tokens),
            "agent.high_results and agent.high_tokens say when results are cut to agent.keep_results, which is -1; "
            "give it too",
        )
        check(
            self.high_results == 0 or self.high_results > self.keep_results,
            f"agent.high_results ({self.high_results}) must be above agent.keep_results ({self.keep_results})",
        )
        one_of("agent.overflow", self.overflow, ("reserve", "drop"))
        one_of("agent.final_answer", self.final_answer, ("forced", "always"))
        one_of("agent.restart_with", self.restart_with, ("summary", "nothing"))
        check(not self.date or _is_day(self.date), f"agent.date is {self.date!r}; write a day as YYYY-MM-DD")
        check(self.outage_calls >= 1, f"agent.outage_calls is {self.outage_calls}; it must be ≥ 1")

    def context_edits(self) -> list[str]:
        """The settings by which a turn may be sampled in something else than all that came before it, as KEY=VALUE.

        Of an episode without them, the ledger is one sequence, which one row trains (else: trajectory/tree.py).
        """
        edits = []
        if self.keep_results != -1:
            edits.append(f"agent.keep_results={self.keep_results}")
        if self.overflow == "drop":
            edits.append("agent.overflow=drop")
        edits += [
            f"agent.{key}={getattr(self, key)}" for key in ("rollbacks", "restarts") if getattr(self, key)
        ]
        return edits


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
