"""Two evaluations of the same questions, through the command."""

import json

import pytest

from mirothinker_jax.evals.paired import holm, mcnemar, paired_difference
from mirothinker_jax.evaluate import main

SETTINGS = {"agent.max_calls": 8, "tasks.grader": "judge", "tasks.judge_model": "j", "tasks.environment": ""}
HOSTILE = "</td><script>document.title = 'taken'</script>\ud800"


def write(folder, verdicts, tasks=None, files=(), **settings):
    """An evaluation as the command leaves it: question → its verdicts, a run after another."""
    folder.mkdir()
    changed = {name.replace("__", "."): value for name, value in settings.items()}
    manifest = {
        "settings": SETTINGS | changed,
        "files": dict(files),
        "policy": {"model": folder.name},
        "tasks": tasks or {question: f"digest of {question}" for question in verdicts},
        "runs": 1,
        "began": "2026-01-01T00:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = [
        {"question_id": question, "run": run, "question": "Where?", "expected": "Oslo", "correct": correct}
        | {"answer": HOSTILE if correct is False else "Oslo"}
        for question, found in verdicts.items()
        for run, correct in enumerate(found)
    ]
    (folder / "answers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(folder)


def test_one_answer_each(tmp_path, capsys):
    """q0 … q9 right for both, q10 lost, q11 … q16 won; q17 not judged for the second, q18 only the first's."""
    first = {f"q{i}": [i <= 10] for i in range(19)}
    second = {f"q{i}": [i != 10] for i in range(17)} | {"q17": [None], "new": [True]}
    pair = [write(tmp_path / "a", first), write(tmp_path / "b", second, agent__max_calls=16)]
    assert main(["--compare", *pair, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    (found,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    assert (found["n"], found["only_first"], found["only_second"], found["test"]) == (17, 1, 6, "McNemar")
    assert found["p"] == found["p_holm"] == mcnemar(1, 6)
    assert (found["first"]["mean"], found["second"]["mean"]) == pytest.approx((11 / 17, 16 / 17))
    assert found["mean"] == pytest.approx(5 / 17) and found["low"] < 5 / 17 < found["high"]
    assert (found["first"]["only_here"], found["second"]["only_here"]) == (2, 1)
    assert found["apart"] == ["agent.max_calls: 8 → 16"]
    assert {q["id"]: q["change"] for q in found["questions"]} == {"q10": -1} | {
        f"q{i}": 1 for i in range(11, 17)
    }
    assert "+0.294" in shown and "lost      q10\n" in shown and "won       q11, q12" in shown
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "+29.4" in page and HOSTILE[:20] not in page and "&lt;/td&gt;&lt;script&gt;" in page


def test_several_runs_and_budgets(tmp_path, capsys, monkeypatch):
    """Runs may be of other numbers; p-values are adjusted for the number of pairs."""
    monkeypatch.chdir(tmp_path)
    names, expected = [], {}
    for calls in (8, 16, 32):
        first = {f"q{i}": [i % 3 == 0, i % 2 == 0] for i in range(12)}
        second = {f"q{i}": [i % 3 == 0, True, i % 2 == 0 or i < calls // 4] for i in range(12)}
        for name, scores in (("a", first), ("b", second)):
            names.append(write(tmp_path / f"{name}{calls}", scores, agent__max_calls=calls))
        expected[calls] = paired_difference(first, second)
    assert main(["--compare", *names]) == 0
    assert "after Holm" in capsys.readouterr().out
    folder = tmp_path / "runs" / "compared" / "a8-b8-a16-b16-a32-b32"
    found = json.loads((folder / "comparison.json").read_text())["comparisons"]
    assert [c["first"]["max_calls"] for c in found] == [8, 16, 32]
    assert [(c["mean"], c["low"], c["high"], c["p"]) for c in found] == [
        (e.mean, e.low, e.high, e.p) for e in expected.values()
    ]
    assert [c["p_holm"] for c in found] == list(holm({k: e.p for k, e in expected.items()}).values())
    assert {c["test"] for c in found} == {"sign flips"}


SAME = {"q1": [True], "q2": [False]}
REFUSED = {
    "another question": (SAME, {"tasks": {"q1": "x", "q2": "digest of q2"}}, "under the id 'q1'"),
    "no question": ({"q3": [True]}, {}, "have no judged question in common"),
    "another judge": (SAME, {"tasks__judge_model": "k"}, "tasks.judge_model: j → k"),
    "another template": (SAME, {"files": {"tasks.judge_prompt_file": "x"}}, "the judge's prompt: None → x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, capsys, case):
    verdicts, changes, message = REFUSED[case]
    pair = [write(tmp_path / "a", SAME), write(tmp_path / "b", verdicts, **changes)]
    assert main(["--compare", *pair, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_folders_that_are_none(tmp_path, capsys):
    good, unfinished = write(tmp_path / "a", SAME), write(tmp_path / "b", SAME)
    (tmp_path / "b" / "answers.jsonl").unlink()
    for folders, message in (
        ([good], "has 1 folder(s)"),
        ([good, unfinished], "b is no evaluation that has come to its end"),
        ([good, str(tmp_path)], "is no evaluation"),
    ):
        assert main(["--compare", *folders]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "b" / "answers.jsonl").write_text('{"run": 1}\n')
    assert main(["--compare", good, unfinished]) == 2 and "is not what" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["--compare", good, good, "--runs", "4"])
