"""What mirothinker-watch says of files that grow, and mirothinker-report of what it is given."""

import json

import pytest
from evaluation_folder import CALL, deep_episode, record, write_evaluation

from mirothinker_jax import report, watch
from mirothinker_jax.evals.progress import Progress, Tail
from mirothinker_jax.tasks.types import Verdict
from mirothinker_jax.trajectory.journal import Journal
from mirothinker_jax.trajectory.types import Turn


def test_an_evaluation_as_it_goes(tmp_path):
    manifest = {"runs": 2, "tasks": {"q1": "", "q2": ""}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    clock = [1000.0]
    progress = Progress(tmp_path, lambda: clock[0])
    assert progress.look() == {"training": None, "episodes": None}
    with Journal(tmp_path / "episodes.jsonl", lambda: clock[0]) as journal:
        turn = Turn((1, 2, 3), (-0.5,) * 3, True)
        journal.turn("eval/q1#0", 0, "", turn, "said")
        journal.ask("eval/q1#0", "eval/q1#0:1.0", CALL.server, CALL.tool)
        clock[0] += 4
        journal.ask("eval/q1#0", "eval/q1#0:1.1", CALL.server, "other")
        found = progress.look()["episodes"]
        assert (found["total"], found["going"], found["in_flight"]) == (4, 1, 2)
        assert found["longest_in_flight"] == ["web/search", 4.0] and found["accuracy"] is None
        fields = {"server": "web", "tool": "other", "failure": "deadline"}
        journal.call("eval/q1#0", "eval/q1#0:1.1", fields)
        assert progress.look()["episodes"]["in_flight"] == 1
        journal.turn("eval/q1#0", 1, "", turn, "said")  # another process went on: the call is nobody's now
        found = progress.look()["episodes"]
        assert (found["in_flight"], found["failures"], found["sampled_per_s"]) == (
            0,
            {"deadline": 1},
            1.5,
        )
        for question, correct in (("q1", True), ("q2", False), ("q2", None)):
            clock[0] += 10
            name = f"eval/{question}#{int(correct is None)}"
            journal.end(deep_episode(name, "?", correct))
            journal.verdict(name, Verdict(correct))
            found = progress.look()["episodes"]
    assert (found["ended"], found["going"], found["accuracy"], found["judged"], found["not_judged"]) == (
        3,
        0,
        0.5,
        2,
        1,
    )
    assert (found["episodes_per_s"], found["left_s"], found["stops"]) == (0.1, 10.0, {"answered": 3})


def test_only_what_is_new_is_read(tmp_path):
    path = tmp_path / "f.jsonl"
    tail = Tail(path)
    assert not tail.replaced() and list(tail.lines()) == []
    path.write_bytes(b"a\nb\nhal")
    assert list(tail.lines()) == [b"a\n", b"b\n"]
    with path.open("ab") as file:
        file.write(b"f\n")
    assert not tail.replaced() and list(tail.lines()) == [b"half\n"] and list(tail.lines()) == []
    other = tmp_path / "g"
    other.write_bytes(b"another one, longer than before\n")
    other.replace(path)
    assert tail.replaced() and list(tail.lines()) == [b"another one, longer than before\n"]


def test_training_and_its_last_journal(tmp_path):
    config = {"sft": {"training": {"steps": 100}}, "evaluation": {"questions": 2, "budgets": [1, 2]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lines = [{"stage": "sft", "step": s, "time_s": 10.0 * s, "loss": 2.0 - s / 100} for s in range(20)]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "s')
    progress = Progress(tmp_path, lambda: 195.0)
    found = progress.look()["training"]
    assert found == {
        "stage": "sft",
        "steps": 20,
        "total": 100,
        "step_s": 10.0,
        "left_s": 800.0,
        "quiet_s": 5.0,
        "loss": 1.81,
    }
    scratch = tmp_path / "scratch"  # a run that goes on from a checkpoint replaces the file
    scratch.write_text(json.dumps(lines[4]) + "\n")
    scratch.replace(metrics)
    assert progress.look()["training"]["steps"] == 5
    clock = [1.0]
    for part in ("0-of-2", "1-of-2"):
        with Journal(tmp_path / f"sft/eval_trajectories.{part}.jsonl", lambda: clock[0]) as journal:
            record(journal, deep_episode(f"sft-1/{part}", "?", True), clock)
    found = progress.look()["episodes"]
    assert (found["journal"], found["ended"], found["total"], found["calls"]) == (
        "sft/eval_trajectories",
        2,
        4,
        4,
    )


def test_the_watch_command(tmp_path, capsys):
    folder = write_evaluation(tmp_path)
    assert watch.main([str(folder), "--once"]) == 0
    out = capsys.readouterr().out
    assert "5/6" in out and "25.0% right of 4 judged, 1 not judged, 5 answered" in out
    assert (
        "1 under way, 1 calls in flight (the longest " in out and "10 calls, 5 failed: 5 unreachable" in out
    )
    assert watch.main([str(folder), "--once", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"]["ended"] == 5
    with Journal(folder / "episodes.jsonl") as journal:
        journal.end(deep_episode("eval/q3#1", "?", True))
        journal.verdict("eval/q3#1", Verdict(True))
    assert watch.main([str(folder)]) == 0, "it ends with the evaluation"
    assert "40.0% right of 5 judged" in capsys.readouterr().out
    assert watch.main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'} is no folder; ")


def test_names_of_tools_move_no_cursor():
    progress = {
        "journal": "e",
        "unit": "tokens",
        "quiet_s": 0.0,
        "longest_in_flight": ["\x1b[2J\ntool", 1.0],
        "in_flight": 1,
        "damaged": 0,
    }
    counts = dict.fromkeys(("ended", "going", "judged", "not_judged", "turns", "calls", "sampled_per_s"), 0)
    progress |= counts | {
        "total": None,
        "accuracy": None,
        "failures": {},
        "stops": {},
        "episodes_per_s": None,
    }
    lines = list(watch.summary({"training": None, "episodes": progress}, 80))
    assert "(the longest 1 s, ?[2J?tool)" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [([], "has no episodes; give a run's"), (["--tokenizer", "nowhere.json"], "nowhere.json")],
)
def test_the_report_command_refuses(tmp_path, capsys, arguments, error):
    assert report.main([str(tmp_path), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and error in err and err.count("\n") == 1


def test_the_report_command(tmp_path, capsys, run_folder):
    folder = write_evaluation(tmp_path)
    assert report.main([str(folder), "--questions", "q3", "--name", "three.html"]) == 0
    assert capsys.readouterr().out == f"{folder / 'three.html'}\n" and (folder / "three.html").exists()
    assert report.main([str(run_folder)]) == 0 and (run_folder / "report.html").exists()
    assert report.main([str(run_folder), "--questions", "q3"]) == 2
