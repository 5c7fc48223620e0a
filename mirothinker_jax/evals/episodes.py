"""A recorded episode as a reader's page takes it: plain JSON of who said what, what each turn saw, and when calls ran.

A page's text is untrusted, and stays as it came; whoever shows it escapes it. Control tokens that a web page *wrote*
stay visible. What is longer than LONGEST_TEXT_CHARS is cut, and says so. The tokens are a record of their own, which
a page decodes when somebody asks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.wire.formats import WIRES, Wire
from mirothinker_jax.agent.wire.turn import Malformed
from mirothinker_jax.tools.hermes import CALL_TAGS
from mirothinker_jax.trajectory.journal import History, context_deltas, parts
from mirothinker_jax.trajectory.timeline import EpisodeTimes, read_timelines
from mirothinker_jax.trajectory.types import Segment, Source, Trajectory

LONGEST_TEXT_CHARS = 100_000

Decode = Callable[[Sequence[int]], str]


@dataclass
class Episodes:
    """Those of journals, which stay on disk until they are asked for. Ids of different journals differ."""

    histories: list[History] = field(default_factory=list)
    times: dict[str, EpisodeTimes] = field(default_factory=dict)

    @property
    def damaged(self) -> int:
        """Lines and episodes that could not be read so far."""
        return sum(history.damaged for history in self.histories)

    @property
    def unfinished(self) -> int:
        """Episodes that began and did not end."""
        return sum(len(history.unfinished) for history in self.histories)

    def ended(self) -> Iterator[Trajectory]:
        """In the order in which they ended."""
        for history in self.histories:
            yield from history.trajectories()


def read_episodes(paths: Sequence[Path]) -> Episodes:
    """The episodes of these journals."""
    found = Episodes()
    for path in paths:
        found.histories.append(History(path))
        found.times |= read_timelines(path)
    return found


def journals(folder: Path) -> list[Path]:
    """The journals of a folder, by the names that their parts share."""
    whole = {re.sub(r"(\.\d+-of-\d+)?\.columns$", ".jsonl", path.name) for path in folder.glob("*.columns")}
    return [folder / name for name in sorted(whole) if parts(folder / name)]


def choose(episodes: Sequence[Trajectory]) -> list[Trajectory]:
    """Up to three of those with the most calls allowed: the deepest right one, the wrong one with most calls,
    the shallowest right one. Where there are no wrong or no right ones, others of the rest.
    """
    most = max((_allowed_calls(e) for e in episodes), default=0)
    episodes = [e for e in episodes if _allowed_calls(e) == most]
    by_depth = sorted(episodes, key=lambda e: (hops(e), e.calls))
    right = [e for e in by_depth if e.correct]
    wrong = sorted((e for e in episodes if not e.correct), key=lambda e: (e.calls, hops(e)))
    chosen = [*right[-1:], *wrong[-1:], *right[:1]]
    if len(right) < 2:
        chosen += wrong[:1]
    return list({id(e): e for e in chosen}.values())[:3]


def hops(episode: Trajectory) -> int:
    """The question's depth; 0 where it has none."""
    return int(episode.metadata.get("hops", 0))


def _allowed_calls(episode: Trajectory) -> int:
    return int(episode.metrics.get("max_calls", 0))


def run_of(episode: Trajectory) -> str:
    """What the episode's id says beside its question: the number of its run, or the stage and the budget.

    >>> from types import SimpleNamespace as T
    >>> run_of(T(id="eval/q1#2", question_id="q1")), run_of(T(id="sft-32/q1", question_id="q1"))
    ('2', 'sft-32')
    """
    before, _, after = episode.id.rpartition(episode.question_id)
    return after.lstrip("#") or before.rstrip("/")


def episode_record(
    t: Trajectory, times: EpisodeTimes | None, call_format: str | None, unit: str = "token"
) -> dict[str, Any]:
    """What the page shows of an episode. `unit` is what the policy's tokens are: an endpoint's are characters.

    Returns: `segments` in the ledger's order, each with its source, number of tokens and `parts` ([kind, title, text,
      characters left out]); `turns` as [segment, how much of the last turn's context stays, what follows that,
      attempt]; `calls` as [turn, number, tool, when asked, waiting_s, running_s, failure, cached, truncated] with times
      from the first one on (None where the journal does not say); and `turn_times`.
    """
    wire = WIRES[call_format or _call_format(t)]
    segments = [_segment(segment, wire) for segment in t.segments]
    return {
        **{name: getattr(t, name) for name in ("id", "question", "expected", "answer", "correct", "reason")},
        **{
            name: getattr(t, name)
            for name in ("calls", "failed_calls", "malformed_calls", "reward", "tokens")
        },
        "stop": str(t.stop),
        "unit": unit,
        "terms": dict(t.terms),
        "metrics": dict(t.metrics),
        "segments": segments,
        "turns": list(context_deltas(t.turns)),
        **_times(times or EpisodeTimes()),
    }


def token_record(t: Trajectory, decode: Decode | None) -> dict[str, Any]:
    """The sampled tokens, which are those that are trained: of each POLICY segment, by its number, `[what each token
    says, or its id where there is no `decode`; log-probs, in 1/1000 nat]`."""
    record, known = {}, dict[int, str]()
    for number, segment in enumerate(t.segments):
        if segment.source is not Source.POLICY:
            continue
        if decode is not None:
            known |= {token: decode([token]) for token in set(segment.tokens) - known.keys()}
        said = [known[token] for token in segment.tokens] if decode else list(segment.tokens)
        record[str(number)] = [said, [round(1000 * x) for x in segment.logprobs]]
    return record


def has_logprobs(t: Trajectory) -> bool:
    """Whether the engine told any: an endpoint, or a script, leaves zeros."""
    return any(any(segment.logprobs) for segment in t.segments)


def _call_format(t: Trajectory) -> str:
    """The format that its turns seem to be in, where nobody says."""
    texts = [s.text for s in t.segments if s.source is Source.POLICY]
    of_hermes = sum(CALL_TAGS[0] in text for text in texts)
    return "hermes" if of_hermes > sum("<use_mcp_tool>" in text for text in texts) else "mcp"


def _segment(segment: Segment, wire: Wire) -> dict[str, Any]:
    if segment.source is Source.POLICY:
        said = [part for _, text in segment.messages for part in _said(text, wire)]
    else:
        said = [_part(role, text) for role, text in segment.messages]
    record: dict[str, Any] = {"source": str(segment.source), "tokens": len(segment.tokens), "parts": said}
    if segment.hides is not None:
        record["hides"] = segment.hides
    if segment.logprobs:
        record["logprob"] = round(sum(segment.logprobs) / len(segment.logprobs), 4)
    return record


def _said(text: str, wire: Wire) -> Iterator[list[Any]]:
    """What the policy said in one turn: thoughts, calls, results that it made up, and the rest (an answer where it
    holds a box)."""
    stretches = wire.stretches(text)
    if not any(s.kind == "call" for s in stretches) and (stray := wire.parse(text).calls):
        (malformed,) = stray
        assert isinstance(malformed, Malformed), malformed
        yield _part("call", text, malformed.reason)
        return
    for stretch in stretches:
        if isinstance(stretch.call, Malformed):
            yield _part("call", stretch.text, stretch.call.reason)
        elif stretch.call is not None:
            call = stretch.call
            lines = [f"{k} = {v if isinstance(v, str) else _json(v)}" for k, v in call.arguments.items()]
            yield _part(
                "call", "\n".join(lines), f"{call.server} / {call.tool}" if call.server else call.tool
            )
        elif stretch.text.strip():
            kind = {"thought": "think", "result": "forged"}.get(stretch.kind)
            yield _part(kind or ("answer" if "\\boxed{" in stretch.text else "text"), stretch.text)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _part(kind: str, text: str, title: str = "") -> list[Any]:
    text = text.strip()
    return [kind, title, text[:LONGEST_TEXT_CHARS], max(0, len(text) - LONGEST_TEXT_CHARS)]


def _times(times: EpisodeTimes) -> dict[str, Any]:
    begun = [*times.turns.values(), *(c.asked for c in times.calls.values() if c.asked is not None)]
    start = min(begun, default=0.0)
    since = lambda at: None if at is None else round(at - start, 3)  # noqa: E731
    return {
        "calls_made": [
            [
                *(turn, number, f"{c.server} / {c.tool}" if c.server else c.tool, since(c.asked)),
                *(None if c.waiting_s is None else round(c.waiting_s, 3), round(c.running_s, 3)),
                *(c.failure, c.cached, c.truncated),
            ]
            for (turn, number), c in sorted(times.calls.items())
        ],
        "turn_times": [[number, since(at)] for number, at in sorted(times.turns.items())],
    }
