"""Episodes as data to learn from: correct ones as SFT records, correct against wrong as preference pairs.

An episode whose context was edited is exported as the last attempt's whole conversation: every result as it came,
also one that later turns saw as a placeholder, and no turn that was taken back. Which results are hidden when is a
setting of the agent that asked, and the student may run under another one; what it learns is to go on from what was
found. Of several attempts only the last one earned the answer.

A message says what the policy said, with calls as text of the call format. A thought in front of it becomes
`reasoning_content`, where the student's template writes it back as it was. So what is rendered of a record is what
was sampled, but for the template's own additions (data/templates.py) and text that the tokenizer splits otherwise;
where the policy's tokens are known, the note counts the records that become other tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mirothinker_jax.agent.wire.formats import call_keys
from mirothinker_jax.data.templates import Template, assistant_text
from mirothinker_jax.trajectory.curation import reason_to_drop
from mirothinker_jax.trajectory.pairs import make_pairs
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory

Record = dict[str, Any]


@dataclass(frozen=True)
class Writing:
    """How the policy's conversations are written.

    Attributes:
      template: of the chat.
      call_format: one of WIRES.
      functions: schemas that the chat lists in the system message.
      end_ids: the tokens that end a turn.
      render: (messages, tools) → token ids; None where the policy's own are not known.
    """

    template: Template
    call_format: str
    functions: Sequence[Mapping[str, Any]]
    end_ids: Sequence[int]
    render: Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], np.ndarray] | None = None


class Exported(NamedTuple):
    """Records for a file, and a line that says what they are."""

    records: list[Record]
    note: str


def sft_records(trajectories: Sequence[Trajectory], writing: Writing) -> Exported:
    """The correct episodes that pass the rules of curation, each a record of data/records.py."""
    records, dropped, other = [], Counter[str](), 0
    for trajectory in trajectories:
        if not trajectory.correct:
            continue
        if reason := _reason_to_drop(trajectory, writing):
            dropped[reason] += 1
            continue
        messages = conversation(trajectory, writing)
        record = {"id": trajectory.id, "messages": messages} | _tools(writing)
        records.append(record | {"metadata": {"question_id": trajectory.question_id}})
        other += _differs(trajectory, messages, writing)
    return Exported(records, _note(len(records), "correct episodes", other, dropped))


def pair_records(
    trajectories: Sequence[Trajectory], writing: Writing, per_question: int, seed: int
) -> Exported:
    """Correct episodes against wrong ones of the same question, at most so many pairs each, every episode in one at
    most. Both pass the rules of curation, and began in the same way.

    The tokens of both are in the metadata where the policy's are known, and its context was not edited.
    """
    dropped, usable = Counter[str](), []
    for trajectory in trajectories:
        reason = _reason_to_drop(trajectory, writing)
        if reason and trajectory.correct is not None:
            dropped[reason] += 1
        elif not reason:
            usable.append(trajectory)
    records, other = [], 0
    for both in make_pairs(usable, per_question, seed):
        said = [conversation(t, writing) for t in both]
        (prompt, chosen), (begun, rejected) = map(_apart, said)
        if prompt != begun:
            dropped["began otherwise than its counterpart, after other attempts"] += 1
            continue
        metadata: Record = {"question_id": both[0].question_id, "chosen": both[0].id, "rejected": both[1].id}
        if writing.render is not None and all(t.linear for t in both):
            metadata["tokens"] = dict(zip(("chosen", "rejected"), map(_tokens, both), strict=True))
        records.append(
            {"prompt": prompt, "chosen": chosen, "rejected": rejected}
            | _tools(writing)
            | {"metadata": metadata}
        )
        other += any(_differs(t, messages, writing) for t, messages in zip(both, said, strict=True))
    return Exported(records, _note(len(records), "pairs", other, dropped))


def conversation(trajectory: Trajectory, writing: Writing) -> list[Record]:
    """The last attempt as messages of data/messages.py, with every observation as it came."""
    messages: list[Record] = []
    shown = _shown(trajectory)
    for place, segment in enumerate(shown):
        if segment.source is Source.POLICY:
            (_, text), *_ = segment.messages
            messages.append(_spoken(text, place == len(shown) - 1, writing.template))
        else:
            messages += _heard(segment, writing.call_format)
    return messages


def _shown(trajectory: Trajectory) -> list[Segment]:
    last = trajectory.turns[-1]
    shown = [trajectory.segments[i] for i in (*last.context, last.segment)]
    return [s if s.hides is None else trajectory.segments[s.hides] for s in shown]


def _heard(segment: Segment, call_format: str) -> list[Record]:
    """Of "mcp", results and what we ask after them are one user message; with results alone, these are of role tool."""
    roles = {role for role, _ in segment.messages}
    if call_format == "mcp" and roles == {"tool", "user"}:
        return [{"role": "user", "content": "\n".join(text for _, text in segment.messages)}]
    return [{"role": role, "content": text} for role, text in segment.messages]


def _spoken(text: str, last: bool, template: Template) -> Record:
    """The thought apart, where that is written back as it was."""
    whole: Record = {"role": "assistant", "content": text}
    opened = f"<think>\n{text}" if template.opens_thought and "<think>" not in text else text
    thought, end, said = opened.partition("\n</think>\n\n")
    if not end or not thought.startswith("<think>\n"):
        return whole
    apart = {"role": "assistant", "reasoning_content": thought.removeprefix("<think>\n"), "content": said}
    return apart if assistant_text(template, apart, last).text == opened else whole


def _apart(messages: list[Record]) -> tuple[list[Record], list[Record]]:
    """(up to the first turn, from there on)."""
    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:first], messages[first:]


def _tools(writing: Writing) -> Record:
    return {"tools": list(writing.functions)} if writing.functions else {}


def _reason_to_drop(trajectory: Trajectory, writing: Writing) -> str:
    if reason := reason_to_drop(trajectory, call_keys(writing.call_format)):
        return reason
    if trajectory.stop is Stop.FALLBACK:
        return "has its answer in an earlier turn than the last one"
    ended = set(writing.end_ids)
    if any(
        s.source is Source.POLICY and not (s.tokens and s.tokens[-1] in ended) for s in _shown(trajectory)
    ):
        return "has a turn that was cut"
    return ""


def _differs(trajectory: Trajectory, messages: Sequence[Record], writing: Writing) -> bool:
    if writing.render is None:
        return False
    rendered = writing.render(messages, writing.functions)
    return rendered.tolist() != [token for segment in _shown(trajectory) for token in segment.tokens]


def _tokens(trajectory: Trajectory) -> list[int]:
    return [token for segment in trajectory.segments for token in segment.tokens]


def _note(count: int, what: str, other: int, dropped: Counter[str]) -> str:
    parts = [f"{count} {what}"]
    if other:
        parts.append(f"{other} of them become other tokens than were sampled")
    parts += [f"{n} left out: {reason}" for reason, n in dropped.most_common()]
    return "; ".join(parts)
