"""Recorded episodes as a person reads them: who said what, in order.

A journal that is half written, or damaged, still shows what it can: what cannot be read is counted, not fatal. The
text stays untrusted; whoever shows it escapes it. Control tokens that a web page *wrote* stay visible.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mirothinker_jax.trajectory.journal import History
from mirothinker_jax.trajectory.types import Trajectory

LONGEST_PART_CHARS = 2000

# A thought, or a call; a turn cut by its length limit may leave either open.
_SPOKEN = re.compile(r"<think>(.*?)(?:</think>|\Z)|<use_mcp_tool>(.*?)(?:</use_mcp_tool>|\Z)", re.DOTALL)
_CALL = re.compile(
    r"\s*<server_name>([^<]*+)</server_name>\s*<tool_name>([^<]*+)</tool_name>\s*<arguments>(.*)</arguments>\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Part:
    """One piece of an episode. `kind`: prompt, think, call, observation, answer, or text (all else said)."""

    kind: str
    text: str
    title: str = ""  # of a call: the tool's name
    left_out_chars: int = 0


@dataclass(frozen=True)
class Episode:
    """One recorded episode, without its tokens."""

    question: str
    expected: str
    answer: str | None
    correct: bool
    reward: float
    stop: str
    calls: int
    failed_calls: int
    malformed_calls: int
    hops: int
    allowed_calls: int | None  # None where the record does not say
    parts: tuple[Part, ...]


def read_episodes(path: str | os.PathLike[str]) -> tuple[list[Episode], int]:
    """The episodes of a journal that were judged, and how many of its lines and episodes could not be read."""
    history = History(Path(path))
    found = [_episode(t) for t in history.trajectories() if t.correct is not None]
    return found, history.damaged


def choose(episodes: Sequence[Episode]) -> list[Episode]:
    """Up to three of those with the most calls allowed: the deepest right one, the wrong one with most calls,
    the shallowest right one. Where there are no wrong or no right ones, others of the rest.
    """
    most = max((e.allowed_calls or 0 for e in episodes), default=0)
    episodes = [e for e in episodes if (e.allowed_calls or 0) == most]
    by_depth = sorted(episodes, key=lambda e: (e.hops, e.calls))
    right = [e for e in by_depth if e.correct]
    wrong = sorted((e for e in episodes if not e.correct), key=lambda e: (e.calls, e.hops))
    chosen = [*right[-1:], *wrong[-1:], *right[:1]]
    if len(right) < 2:
        chosen += wrong[:1]
    return list({id(e): e for e in chosen}.values())[:3]


def split_thought(text: str) -> list[Part]:
    """What the policy said in one turn: thoughts, calls, and the rest (an answer where it holds a box)."""
    parts, end = [], 0
    text = text.strip().removesuffix("<|im_end|>")
    for match in _SPOKEN.finditer(text):
        parts += _said(text[end : match.start()])
        thought, call = match.groups()
        if call is None:
            parts += [_part("think", thought)] if thought.strip() else []
        else:
            parts.append(_call(call))
        end = match.end()
    return parts + _said(text[end:])


def _episode(trajectory: Trajectory) -> Episode:
    parts: list[Part] = []
    for message in trajectory.messages():
        if message["role"] == "assistant":
            parts += split_thought(message["content"])
        else:
            kind = "prompt" if not parts or parts[-1].kind == "prompt" else "observation"
            parts.append(_part(kind, message["content"]))
    allowed = trajectory.metrics.get("max_calls")
    return Episode(
        question=trajectory.question,
        expected=trajectory.expected,
        answer=trajectory.answer,
        correct=bool(trajectory.correct),
        reward=trajectory.reward,
        stop=str(trajectory.stop),
        calls=trajectory.calls,
        failed_calls=trajectory.failed_calls,
        malformed_calls=trajectory.malformed_calls,
        hops=int(trajectory.metadata.get("hops", 0)),
        allowed_calls=None if allowed is None else int(allowed),
        parts=tuple(parts),
    )


def _said(text: str) -> list[Part]:
    if not text.strip():
        return []
    return [_part("answer" if "\\boxed{" in text else "text", text)]


def _call(inner: str) -> Part:
    whole = _CALL.fullmatch(inner)
    if whole is None:
        return _part("call", inner, "malformed call")
    server, tool, arguments = (group.strip() for group in whole.groups())
    try:
        items = json.loads(arguments, strict=False).items()
    except (ValueError, AttributeError, RecursionError):
        return _part("call", arguments, f"{server} / {tool}")
    lines = [f"{key} = {value if isinstance(value, str) else json.dumps(value)}" for key, value in items]
    return _part("call", "\n".join(lines), f"{server} / {tool}")


def _part(kind: str, text: str, title: str = "") -> Part:
    text = text.strip()
    return Part(kind, text[:LONGEST_PART_CHARS], title, max(0, len(text) - LONGEST_PART_CHARS))
