"""A trajectory is a ledger of tokens: what the policy sampled is what is trained.

Nothing is ever rendered to text and tokenised again. Worked example, one call and an answer:

    source       text                                              trained   log-probs
    PROMPT       <|im_start|>user\\nWhere is KTM?<|im_end|>\\n<|im_start|>assistant\\n   no      –
    POLICY       <think>search</think><use_mcp_tool>…</use_mcp_tool><|im_end|>     yes    one a token
    OBSERVATION  \\n<|im_start|>user\\n1. KTM …<|im_end|>\\n<|im_start|>assistant\\n  no      –
    POLICY       \\boxed{Kathmandu}<|im_end|>                                    yes    one a token

A turn that ran into its length limit has no <|im_end|> of its own, and none is added to what is trained.
A turn that ended by another of the model's end tokens keeps it; the <|im_end|> after it is the observation's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np


class Source(enum.StrEnum):
    """Who wrote a segment."""

    PROMPT = "prompt"
    POLICY = "policy"
    OBSERVATION = "observation"


class Stop(enum.StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"  # a boxed answer, given freely
    FORCED = "forced"  # a boxed answer after the budget of calls or of context was used up
    GAVE_UP = "gave_up"  # a box that says nothing, such as "unknown": no answer, but no fault of form
    NO_ANSWER = "no_answer"  # neither a call nor a boxed answer
    LENGTH = "length"  # a turn ran into its token limit
    CONTEXT = "context"  # no room left even for the final answer
    INFRASTRUCTURE = "infrastructure"  # the sampler or the tools broke; not the policy's fault


@dataclass(frozen=True)
class Segment:
    """A stretch of tokens by one writer, with its text."""

    source: Source
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...] = ()  # POLICY only: under the distribution each token was sampled from

    def __post_init__(self):
        expected = len(self.tokens) if self.source is Source.POLICY else 0
        assert len(self.logprobs) == expected, (self.source, len(self.tokens), len(self.logprobs))


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
    reward: float = 0.0
    correct: bool = False
    hops: int = 0  # depth of the question
    policy_version: int = 0  # training step whose parameters sampled it
    metrics: dict[str, float] = field(default_factory=dict)
    routes: np.ndarray | None = field(default=None, compare=False, repr=False)
    """int16 [n, L, k]: the experts of the first n tokens, where the sampler recorded them. Tokens at the end that were
    never fed to the model have none."""

    @property
    def tokens(self) -> int:
        """Length of the ledger."""
        return sum(len(s.tokens) for s in self.segments)
