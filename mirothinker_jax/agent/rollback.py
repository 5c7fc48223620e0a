"""Turns that are taken back: the policy never learns of it, and its turn is sampled again.

The reasons are the released scaffold's. At most `Setting.rollbacks` happen in a row; after that a turn without a
usable call ends the loop, and everything else is passed on. What differs: an apology beside a boxed answer is no
refusal, nor is one in a thought; a turn that repeats a query makes none of its calls; what a turn that was taken back
has found may be asked for again; a turn that is cut at its token limit is taken back too.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence, Set

from mirothinker_jax.agent.answer import last_box
from mirothinker_jax.agent.wire.turn import Malformed, ParsedTurn
from mirothinker_jax.tools.spec import Failure, ToolCall, ToolResult

EXTRA_TURNS = 200  # sampled in an attempt beyond its budget of calls; then the loop ends

# What a call asks, by the tool's name: asked again, it brings nothing new. Of each group the first argument that is
# there.
_KEYS = {
    "google_search": (("q",),),
    "scrape_and_extract_info": (("url",), ("info_to_extract", "description", "introduction")),
}
_CANNOT = r"i(?: can(?:no|['’])t| am unable to|['’]m unable to| won['’]t be able to)"
_REFUSALS = re.compile(
    rf"\bi(?:['’]m| am) (?:sorry|afraid),? (?:but )?{_CANNOT}\b"
    rf"|\b{_CANNOT} (?:help|assist|answer|comply|complete|continue|solve|fulfil)"
    r"|\b(?:not enough|ran out of|lack of) time\b"
    r"|\b(?:due to|because of|given|under|within) (?:the )?time (?:limit|constraint)s?\b"
    r"|(?:抱歉|对不起)[，,]?\s*我?(?:无法|不能)",
    re.IGNORECASE,
)


class Reason(enum.StrEnum):
    """Why a turn is taken back."""

    CUT = "cut"  # at its token limit
    MALFORMED = "malformed"  # call tags that make no call
    REFUSED = "refused"
    REPEATED = "repeated"  # a search or a page that was asked for before, or twice in the turn
    BROKEN_CALL = (
        "broken_call"  # no such tool, arguments that it does not take, or no answer from its service
    )
    NOTHING_FOUND = "nothing_found"  # a search without results


_BROKEN = (Failure.UNKNOWN_TOOL, Failure.INVALID_ARGUMENTS, Failure.NETWORK)


def query(call: ToolCall) -> str | None:
    """What a search or a scrape asks for; None for other tools, and where the argument is missing."""
    groups = _KEYS.get(call.tool, ())
    given = [next((call.arguments[name] for name in group if name in call.arguments), "") for group in groups]
    return f"{call.tool} {given}" if given and given[0] else None


def fault_of_turn(said: ParsedTurn, complete: bool, asked: Set[str]) -> Reason | None:
    """Why a turn is to be taken back before its calls are made. `asked` are the queries that were answered."""
    if not complete:
        return Reason.CUT
    if any(isinstance(call, Malformed) for call in said.calls):
        return Reason.MALFORMED
    if not said.calls:
        refused = _REFUSALS.search(said.words) and last_box(said.words) is None
        return Reason.REFUSED if refused else None
    queries = [key for call in said.calls if isinstance(call, ToolCall) and (key := query(call)) is not None]
    if len(set(queries)) < len(queries) or asked & set(queries):
        return Reason.REPEATED
    return None


def fault_of_results(results: Sequence[ToolResult | Malformed]) -> Reason | None:
    """Why a turn is to be taken back after its calls were made."""
    failures = [result.failure for result in results if isinstance(result, ToolResult)]
    if any(failure in _BROKEN for failure in failures):
        return Reason.BROKEN_CALL
    return Reason.NOTHING_FOUND if Failure.NO_RESULTS in failures else None


def answered(
    calls: Sequence[ToolCall | Malformed], results: Sequence[ToolResult | Malformed], taken_back: bool
) -> set[str]:
    """The queries that need not be asked again: those with an answer, which the policy has seen unless its turn was
    `taken_back`, and those to which there is none."""
    known = (Failure.NO_RESULTS,) if taken_back else (Failure.NO_RESULTS, None)
    return {
        key
        for call, result in zip(calls, results, strict=True)
        if isinstance(call, ToolCall) and isinstance(result, ToolResult)
        if result.failure in known and (key := query(call)) is not None
    }
