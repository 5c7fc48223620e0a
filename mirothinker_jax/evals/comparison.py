"""Two evaluations of the same questions: how much better the second is, and whether that may be chance. Also several
pairs, such as one for each budget of calls.

Reads manifest.json and answers.jsonl, so nothing is asked and no model is loaded. Questions that only one has are left
out and counted. What sets the two apart (policy, agent, tools, sampling) is what is compared, and told; other questions
under the same ids, or another way of grading, would be a difference that is none of the policy, and are refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirothinker_jax.config_tree import check, difference
from mirothinker_jax.data.atomic import replacing, write_json
from mirothinker_jax.evals.answers import read_answers
from mirothinker_jax.evals.manifest import read_manifest
from mirothinker_jax.evals.paired import holm, paired_difference
from mirothinker_jax.evals.repeated import Scores

_NAMED = 6  # questions in a line for people
_WHERE_FROM = ("tasks.environment", "tasks.judge_prompt_file")  # of which questions and digests tell


@dataclass(frozen=True)
class _Evaluated:
    """A folder of the evaluate command: its manifest, and the lines of its answers by question, the judged ones."""

    folder: Path
    manifest: dict[str, Any]
    answers: dict[str, list[dict[str, Any]]]

    def scores(self, questions: Sequence[str]) -> Scores:
        return {q: [answer["correct"] for answer in self.answers[q]] for q in questions}

    def share(self, question: str) -> float:
        return float(np.mean([answer["correct"] for answer in self.answers[question]]))

    def about(self, questions: Sequence[str]) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "policy": self.manifest["policy"],
            "mean": float(np.mean([self.share(question) for question in questions])),
            "answers": sum(len(self.answers[question]) for question in questions),
            "max_calls": self.manifest["settings"].get("agent.max_calls"),
            "only_here": len(self.answers) - len(questions),
        }


def compare_folders(folders: Sequence[str | Path]) -> dict[str, Any]:
    """The comparisons of the first folder with the second, the third with the fourth, and so on, as JSON values.

    Raises ConfigError or DataError, one line, where there is no pair, a folder is not a finished evaluation, or two
    have other questions or other graders.
    """
    check(
        len(folders) >= 2 and len(folders) % 2 == 0,
        f"--compare has {len(folders)} folder(s); give two, or several pairs, each the first policy's and the second's",
    )
    found = [
        _compare(_read(Path(a)), _read(Path(b))) for a, b in zip(folders[::2], folders[1::2], strict=True)
    ]
    adjusted = holm({place: comparison["p"] for place, comparison in enumerate(found)})
    return {"comparisons": [c | {"p_holm": adjusted[place]} for place, c in enumerate(found)]}


def write_comparison(folder: Path, found: dict[str, Any]) -> None:
    """comparison.json and comparison.html, each whole or not at all."""
    # Only now: what makes pages takes time to import.
    from mirothinker_jax.evals.page import template

    write_json(folder / "comparison.json", found)
    page = template("comparison.html.j2").render(found)
    with replacing(folder / "comparison.html") as scratch:
        scratch.write_text(page, encoding="utf-8", errors="backslashreplace")


def rows(found: dict[str, Any]) -> str:
    """`compare_folders` for people, some lines a comparison."""
    several = len(found["comparisons"]) > 1
    return "\n".join("".join(_rows(c, several)) for c in found["comparisons"])


def _rows(c: dict[str, Any], several: bool) -> list[str]:
    def side(it: dict[str, Any]) -> str:
        alone = f"; {it['only_here']} more questions here alone" if it["only_here"] else ""
        return f"{it['mean']:.3f}  {it['folder']}, {it['answers']} answers, {it['max_calls']} calls allowed{alone}"

    p = f"p = {c['p']:.3g} ({c['test']})" + (f", {c['p_holm']:.3g} after Holm" if several else "")
    verdict = "" if c["low"] > 0 or c["high"] < 0 else "; it may be chance"
    lines = [
        ("first", side(c["first"])),
        ("second", side(c["second"])),
        ("better by", f"{c['mean']:+.3f}  [{c['low']:+.3f}, {c['high']:+.3f}], {p}{verdict}"),
        (
            "questions",
            f"{c['n']} of both: {c['only_first']} better by the first, {c['only_second']} by the second",
        ),
    ]
    for name, sign in (("lost", -1), ("won", 1)):
        if ids := [q["id"] for q in c["questions"] if sign * q["change"] > 0]:
            more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
            lines.append((name, ", ".join(ids[:_NAMED]) + more))
    return [f"{name:<10}{value}\n" for name, value in lines]


def _compare(first: _Evaluated, second: _Evaluated) -> dict[str, Any]:
    both = [question for question in first.answers if question in second.answers]
    _check_same(first, second, both)
    told = [
        {
            "id": q,
            "question": first.answers[q][0]["question"],
            "expected": first.answers[q][0]["expected"],
            "first": first.share(q),
            "second": second.share(q),
            "change": second.share(q) - first.share(q),
            "answers": [[a["answer"] for a in side.answers[q]] for side in (first, second)],
        }
        for q in both
        if first.share(q) != second.share(q)
    ]
    apart = difference(first.manifest["settings"], second.manifest["settings"])
    return dataclasses.asdict(paired_difference(first.scores(both), second.scores(both))) | {
        "first": first.about(both),
        "second": second.about(both),
        "apart": [line for line in apart if not line.startswith(_WHERE_FROM)],
        "questions": told,
    }


def _check_same(first: _Evaluated, second: _Evaluated, both: Sequence[str]) -> None:
    names = f"{first.folder} and {second.folder}"
    digests = [side.manifest["tasks"] for side in (first, second)]
    other = next((q for q in both if digests[0].get(q) != digests[1].get(q)), None)
    check(
        other is None,
        f"{names} have other questions, answers or attachments under the id {other!r}; evaluate both on the same file",
    )
    check(bool(both), f"{names} have no judged question in common; evaluate both on the same file")
    graders = [
        {key: value for key, value in side.manifest["settings"].items() if key.startswith("tasks.")}
        | {"the judge's prompt": side.manifest["files"].get("tasks.judge_prompt_file")}
        for side in (first, second)
    ]
    apart = [line for line in difference(*graders) if not line.startswith(_WHERE_FROM)]
    check(
        not apart,
        f"{names} were graded in other ways ({'; '.join(apart)}); grade one of them as the other, with --rejudge",
    )


def _read(folder: Path) -> _Evaluated:
    manifest, answers = read_manifest(folder), read_answers(folder)
    check(
        manifest is not None and answers is not None,
        f"{folder} is no evaluation that has come to its end; give a folder that the evaluate command wrote (--out)",
    )
    assert manifest is not None and answers is not None
    return _Evaluated(folder, manifest, answers)
