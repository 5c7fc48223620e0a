"""A trajectory is a ledger of tokens: what the policy sampled is what is trained.

Nothing is ever rendered to text and tokenised again. Worked example, one call and an answer:

    source       text                                              trained   log-probs
    PROMPT       <|im_start|>user\\nWhere is KTM?<|im_end|>\\n<|im_start|>assistant\\n   no      –
    POLICY       <think>search</think><use_mcp_tool>…</use_mcp_tool><|im_end|>     yes    one a token
    OBSERVATION  \\n<|im_start|>user\\n1. KTM …<|im_end|>\\n<|im_start|>assistant\\n  no      –
    POLICY       \\boxed{Kathmandu}<|im_end|>                                    yes    one a token

A turn that ran into its length limit has no <|im_end|> of its own, and none is added to what is trained.
A turn that ended by another of the model's end tokens keeps it; the <|im_end|> after it is the observation's.

The ledger holds every stretch of tokens once, in the order in which they came to be. What a turn was sampled in is a
list of them: all before it in a plain episode, and fewer where a turn was taken back, an observation was hidden (its
short form is a segment of its own) or the agent began anew. With the last one result kept:

    segments   0 PROMPT  1 POLICY  2 OBSERVATION  3 POLICY  4 OBSERVATION  5 PLACEHOLDER (of 2)  6 POLICY
    turns      (1, sampled in 0)  (3, in 0 1 2)  (6, in 0 1 5 3 4)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class Source(enum.StrEnum):
    """Who wrote a segment."""

    PROMPT = "prompt"
    POLICY = "policy"
    OBSERVATION = "observation"
    PLACEHOLDER = "placeholder"  # the short form of an observation that a context policy hides


class Stop(enum.StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"  # a boxed answer, given freely
    FORCED = "forced"  # a boxed answer after the budget of calls or of context was used up
    FALLBACK = "fallback"  # a box beside an earlier turn, for want of one in the final answer
    GAVE_UP = "gave_up"  # a box that says nothing, such as "unknown": no answer, but no fault of form
    NO_ANSWER = "no_answer"  # neither a call nor a boxed answer
    LENGTH = "length"  # a turn ran into its token limit
    CONTEXT = "context"  # no room left even for the final answer
    INFRASTRUCTURE = "infrastructure"  # the sampler or the tools broke; not the policy's fault


Said = tuple[str, str]  # (role, content)

# In `Trajectory.metrics`, where there were any.
NETWORK_ROW = "network_failures_in_a_row"  # the longest row of calls that a host or a service did not answer
TIMEOUTS = "timeouts"  # calls that ran into their deadline


@dataclass(frozen=True)
class Segment:
    """A stretch of tokens by one writer, and what it says as chat messages.

    `messages` are without the frame that a chat template puts around them: of a PROMPT the system's and the user's, of
    POLICY the assistant's (without its end token), of an OBSERVATION one of role "tool" for each result, and the user's
    for what we ask after them.
    """

    source: Source
    tokens: tuple[int, ...]
    messages: tuple[Said, ...] = ()
    logprobs: tuple[float, ...] = ()  # POLICY only: under the distribution each token was sampled from
    hides: int | None = None  # PLACEHOLDER only: the segment that it stands for

    def __post_init__(self):
        expected = len(self.tokens) if self.source is Source.POLICY else 0
        assert len(self.logprobs) == expected, (self.source, len(self.tokens), len(self.logprobs))
        assert (self.hides is not None) == (self.source is Source.PLACEHOLDER), (self.source, self.hides)

    @property
    def text(self) -> str:
        """What it says, message after message."""
        return "\n".join(content for _, content in self.messages)


@dataclass(frozen=True)
class Turn:
    """One sampled assistant turn. `complete`: it ended by one of the model's end tokens, which is its last.

    `logprobs` are under the distribution that the tokens were drawn from (for greedy turns: the model's own),
    `raw_logprobs` under the model's own, at temperature 1 and whole; () where the engine does not tell them.
    `versions` are of the policy that sampled each token; () where the engine does not tell them.

    `stop` is what ended it of the request's own stop ids and strings; None: the model's end token, or the limit.

    `routes`, where they are recorded: int16 [n, L, k], the experts of the n tokens that were fed to the model for this
    turn. The last token of a turn is fed with what follows it.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    complete: bool
    raw_logprobs: tuple[float, ...] = ()
    versions: tuple[int, ...] = ()
    routes: np.ndarray | None = field(default=None, compare=False)
    stop: int | str | None = None


@dataclass(frozen=True)
class TurnContext:
    """A turn: which segment it is, and the segments it was sampled in, in their order."""

    segment: int
    context: tuple[int, ...]
    attempt: int = 0  # counts the fresh starts of an episode


@dataclass(frozen=True)
class Trajectory:
    """An episode: its ledger of tokens, how it ended and what it earned."""

    id: str
    question_id: str
    question: str
    expected: str  # the reference answer
    answer: str | None  # the last balanced \\boxed{}
    stop: Stop
    calls: int  # tool calls made
    failed_calls: int
    malformed_calls: int
    segments: tuple[Segment, ...]
    turns: tuple[TurnContext, ...] = ()
    reward: float = 0.0
    correct: bool | None = False  # None: not judged
    reason: str = ""  # the grader's
    terms: Mapping[str, float] = field(
        default_factory=dict
    )  # of the reward, by name, as the grader gave them
    metadata: Mapping[str, Any] = field(default_factory=dict)  # the task's
    policy_version: int = 0  # training step whose parameters sampled its oldest token
    metrics: dict[str, float] = field(default_factory=dict)
    routes: np.ndarray | None = field(default=None, compare=False, repr=False)
    """int16 [n, L, k]: the experts of the first n tokens, where the sampler recorded them. Tokens at the end that were
    never fed to the model have none."""

    @property
    def tokens(self) -> int:
        """Length of the ledger."""
        return sum(len(s.tokens) for s in self.segments)

    @property
    def linear(self) -> bool:
        """Whether every turn was sampled in all that came before it, so that the ledger is one sequence."""
        return all(turn.context == tuple(range(turn.segment)) for turn in self.turns)

    def messages(self) -> list[dict[str, str]]:
        """`role` and `content` of the last attempt, with every observation as it came; turns that were taken back are
        not in it."""
        if not self.turns:
            shown = tuple(range(len(self.segments)))
        else:
            shown = (*self.turns[-1].context, self.turns[-1].segment)
        full = (self.segments[i] for i in shown)
        whole = (s if s.hides is None else self.segments[s.hides] for s in full)
        return [{"role": role, "content": content} for s in whole for role, content in s.messages]
