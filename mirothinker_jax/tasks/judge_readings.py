"""How a judge's verdict is read: one reader for each way to say it, beside the built-in template that asks for it.

A reader returns None for what it cannot read, which is no verdict and never a wrong answer. The one exception is
SimpleQA's, whose published scorer takes it for "not attempted": it says so in a term, so that it can be counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mirothinker_jax.tasks.types import Verdict

_MARKUP = " \t*_`#>.!\"'“”。[](){}"
_VERDICT_LINE = re.compile(
    r"(?:(?:the |my )?(?:final |overall )?(?:verdict|judge?ment|grade|result|answer|response)\s*(?:[:：=]|is)\s*)?"
    r"(correct|incorrect)",
    re.IGNORECASE,
)
_LETTER_LINE = re.compile(
    r"(?:(?:final |overall )?(?:verdict|judge?ment|grade|choice|answer)\s*(?:[:：=]|is)\s*|"
    r"(?:选择|答案|结论)\s*[:：]\s*)?"
    r"[(（]?([A-Ca-c])[)）]?(?:[.:：、\s-]+(?:correct|incorrect|not[ _]attempted|正确|错误|不正确))?",
    re.IGNORECASE,
)
_CHINESE_LINE = re.compile(r"(?:最终)?(?:结论|判断|判定)\s*[:：]\s*(正确|不正确|错误)")
_FIELD_LINE = re.compile(
    r"(extracted_final_answer|reasoning|correct|confidence)\s*[:：]\s*(.*)", re.IGNORECASE
)
_OBJECTS = 64  # places in a reply where an object may begin, at most


class Reading(NamedTuple):
    """A way to say a verdict.

    Attributes:
      words: what a template must ask for, each as a word of its own.
      read: the verdict in what was said; None where there is none.
      template: the built-in one, beside this module.
      exact_first: what equals the reference as text is right without asking.
    """

    words: tuple[str, ...]
    read: Callable[[str], Verdict | None]
    template: str
    exact_first: bool = True


def read_word(said: str) -> bool | None:
    """The verdict on the last line, else on the first; None where neither is one, or they differ.

    >>> read_word("They agree.\\n**CORRECT**"), read_word("Verdict: incorrect."), read_word("NOT CORRECT")
    (True, False, None)
    """
    found = {
        match[1].lower() == "correct" for line in _ends(said) if (match := _VERDICT_LINE.fullmatch(line))
    }
    return found.pop() if len(found) == 1 else None


def read_letter(said: str) -> str | None:
    """The choice on the last line, else on the first: "A", "B" or "C"; None where neither is one, or they differ.

    >>> read_letter("B"), read_letter("The heights agree.\\n(A) CORRECT"), read_letter("A or B")
    ('B', 'A', None)
    """
    found = {match[1].upper() for line in _ends(said) if (match := _LETTER_LINE.fullmatch(line))}
    return found.pop() if len(found) == 1 else None


def read_chinese(said: str) -> bool | None:
    """The verdict on the one line that says 结论 with a colon of either width; None where lines differ.

    >>> read_chinese("解释：一致。\\n结论：正确"), read_chinese("结论: 错误"), read_chinese("正确")
    (True, False, None)
    """
    found = {
        match[1] == "正确"
        for line in said.splitlines()
        if (match := _CHINESE_LINE.fullmatch(re.sub("[*_`]", "", line).strip(_MARKUP)))
    }
    return found.pop() if len(found) == 1 else None


def read_fields(said: str) -> Verdict | None:
    """Four fields, as lines or as a JSON object: `correct` is yes or no, `confidence` a percentage or none.

    >>> read_fields("extracted_final_answer: 8\\nreasoning: same\\ncorrect: yes\\nconfidence: 87%").terms
    {'confidence': 0.87}
    """
    fields = next(
        ({str(k).lower(): v for k, v in found.items()} for found in _objects(said) if "correct" in found),
        None,
    )
    if fields is None:
        matches = [
            match
            for line in said.splitlines()
            if (match := _FIELD_LINE.fullmatch(re.sub("[*_`]", "", line).strip()))
        ]
        fields = {match[1].lower(): match[2] for match in matches}
        if len({match[2].strip(_MARKUP).lower() for match in matches if match[1].lower() == "correct"}) > 1:
            return None
    correct = {"yes": True, "true": True, "no": False, "false": False}.get(
        str(fields.get("correct")).strip(_MARKUP).lower()
    )
    if correct is None:
        return None
    percent = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%?", str(fields.get("confidence", "")).strip())
    stated = percent is not None and float(percent[1]) <= 100
    return Verdict(correct, terms={"confidence": float(percent[1]) / 100} if percent and stated else {})


def read_parts(said: str) -> Verdict | None:
    """A JSON object: `parts` of the reference, each with whether the response has it, and `excessive`, a list of what
    it names besides. Right is all parts and no excess; the terms have precision, recall and F1 of this item.

    >>> read_parts('{"parts": {"Oslo": true, "Bergen": false}, "excessive": []}').terms["recall"]
    0.5
    """
    found = next((o for o in _objects(said) if "parts" in o and "excessive" in o), None)
    if found is None or not isinstance(found["excessive"], list):
        return None
    parts = found["parts"]
    if isinstance(parts, list) and all(isinstance(part, dict) for part in parts):
        has = [part.get("correct") for part in parts]
    else:
        has = list(parts.values()) if isinstance(parts, dict) else []
    if not has or not all(isinstance(value, bool) for value in has):
        return None
    right, named = sum(has), sum(has) + len(found["excessive"])
    precision, recall = right / named if named else 0.0, right / len(has)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return Verdict(right == len(has) == named, terms={"precision": precision, "recall": recall, "f1": f1})


def read_grade(said: str) -> Verdict:
    """A (correct), B (incorrect) or C (not attempted), and C for what cannot be read.

    >>> read_grade("A").terms["attempted"], read_grade("C").terms["attempted"], read_grade("?").terms["unparsable"]
    (1.0, 0.0, 1.0)
    """
    letter = read_letter(said)
    unparsable = {} if letter else {"unparsable": 1.0}
    return Verdict(letter == "A", terms={"attempted": float(letter in ("A", "B")), **unparsable})


def _plain(read: Callable[[str], bool | None]) -> Callable[[str], Verdict | None]:
    def verdict(said: str) -> Verdict | None:
        correct = read(said)
        return None if correct is None else Verdict(correct)

    return verdict


def _choice(said: str) -> bool | None:
    return {"A": True, "B": False}.get(read_letter(said) or "")


def _ends(said: str) -> list[str]:
    """The first and the last line that say something, without markup."""
    lines = [re.sub("[*_`]", "", line.strip(_MARKUP)) for line in said.splitlines()]
    lines = [line for line in lines if line]
    return lines[:1] + lines[-1:]


def _objects(said: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a reply, the last first, and whole ones before those inside them."""
    decoder = json.JSONDecoder(strict=False)
    found, end = [], 0
    for start in [match.start() for match in re.finditer(r"\{", said)][:_OBJECTS]:
        if start < end:
            continue
        try:
            value, end = decoder.raw_decode(said, start)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            found.append(value)
    return reversed(found)


# By the name that tasks.judge_reading gives.
READINGS: Mapping[str, Reading] = {
    "word": Reading(("CORRECT", "INCORRECT"), _plain(read_word), "judge.txt"),
    "choice": Reading(("A", "B"), _plain(_choice), "judge_choice.txt"),
    "choice_zh": Reading(("A", "B"), _plain(_choice), "judge_choice_zh.txt"),
    "verdict_zh": Reading(("正确", "错误"), _plain(read_chinese), "judge_verdict_zh.txt"),
    "fields": Reading(("correct", "confidence"), read_fields, "judge_fields.txt"),
    "parts": Reading(("parts", "excessive"), read_parts, "judge_parts.txt", exact_first=False),
    "grades": Reading(("A", "B", "C"), read_grade, "judge_grades.txt"),
}
