"""`python -m mirothinker_jax.evaluate --benchmark`: a policy, a judge and a corpus, all on loopback."""

import base64
import csv
import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest
from chat_server import said, serving

from mirothinker_jax.evaluate import OUTAGE, main

CANARY = "made up: 7f3a"


def policy(body):
    """Says the height in words; of every second hill another one."""
    number = int(re.findall(r"Hill (\d+)", body["messages"][1]["content"])[-1])
    return said(f"\\boxed{{about {number if number % 2 else 7} hundred metres}}")


def judge(body):
    """Right is what has the reference's first number in it."""
    prompt = body["messages"][0]["content"]
    reference, response = (re.search(rf"{name}:\n(.*)\n", prompt)[1] for name in ("answer", "Response"))
    right = bool(re.search(rf"\b{reference[0]}\b", response))
    return said(
        ("A" if right else "B") if "Write one letter" in prompt else "CORRECT" if right else "INCORRECT"
    )


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capfd):
    """(arguments, judge) → (exit status, stdout, stderr, requests to the policy, requests to the judge)."""
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text(json.dumps({"url": "http://a.test/1", "title": "x", "text": "x"}) + "\n")

    def run(*arguments, script=judge, graded=True):
        with serving(policy) as asked, serving(script) as judging:
            options = [
                "--policy",
                asked.url,
                "--out",
                "out",
                "--config.tools.corpus=corpus.jsonl",
                *arguments,
            ]
            if graded:
                options += [f"--config.tasks.judge_url={judging.url}", "--config.tasks.grader=judge"]
                options += (
                    [] if any("judge_model" in o for o in options) else ["--config.tasks.judge_model=m"]
                )
            try:
                status = main(options)
            except SystemExit as error:
                status = error.code
        return status, *capfd.readouterr(), len(asked.bodies), len(judging.bodies)

    return run


def gaia(count=4):
    rows = [
        {"task_id": f"t{n}", "Question": f"How high is Hill {n}?", "Level": 1, "Final answer": f"{n}00 m"}
        for n in range(1, count + 1)
    ]
    Path("metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--benchmark", "gaia", "--data", "metadata.jsonl"]


def browsecomp():
    key = hashlib.sha256(CANARY.encode()).digest()

    def encode(text):
        return base64.b64encode(bytes(a ^ b for a, b in zip(text.encode(), itertools.cycle(key)))).decode()

    with Path("b.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["problem", "answer", "canary"])
        writer.writerow([encode("How high is Hill 3?"), encode("3 hundred m"), CANARY])
    return ["--benchmark", "browsecomp", "--tasks", "b.csv"]


def summary():
    return json.loads(Path("out", "summary.json").read_text())["benchmark"]


def test_a_benchmark_from_file_to_figures(evaluate):
    status, out, err, asked, judged = evaluate(*gaia(), "--runs", "2", "--view", "logs", "--concurrency", "1")
    assert (status, asked) == (0, 8), err
    # Each of the four answers once, for the other run says the same, and twenty attacks.
    assert judged == 4 + 20
    found = summary()
    assert (found["accuracy"], found["by_run"], found["string_accuracy"]) == (0.5, [0.5, 0.5], 0.0)
    assert found["pass_at"] == {"1": 0.5, "2": 0.5} and found["attacks"] == {
        "passed": [],
        "judged": 20,
        "unjudged": 0,
    }
    assert found["judge"]["calls"] == 24 and found["judge"]["remembered"] == 4
    assert "the judge passed 0 of 20 answers that are wrong for every question" in out
    assert (
        "by the string scorer: 0.000" in out
        and "comparable with published: no, because 4 questions, and" in out
    )
    reasons = " ".join(found["comparable"]["because"])
    assert "the judge is m" in reasons and "2 runs" in reasons and "leak guard" not in reasons
    (log,) = Path("logs").iterdir()
    assert len(json.loads(log.read_text())["samples"]) == 8
    assert (
        json.loads(Path("out", "manifest.json").read_text())["settings"]["tools.refuse"][0]
        == "gaia-benchmark"
    )

    # Another judge is refused, unless what is there is to be judged once more: no episode is run.
    other = [*gaia(), "--runs", "2", "--config.tasks.judge_model=n"]
    assert evaluate(*other)[0] == 2
    status, out, err, asked, judged = evaluate(*other, "--rejudge", script=lambda body: said("CORRECT"))
    assert (status, asked, summary()["accuracy"]) == (0, 0, 1.0), err
    assert len(summary()["attacks"]["passed"]) == 20
    assert evaluate(*other)[0] == 0 and summary()["accuracy"] == 1.0


def test_an_encoded_benchmark(evaluate):
    status, _, err, *_ = evaluate(*browsecomp())
    assert status == 0 and summary()["accuracy"] == 1.0, err
    (answer,) = map(json.loads, Path("out", "answers.jsonl").read_text().splitlines())
    assert answer["question"] is None and answer["correct"] is True and answer["reason"] == ""
    written = {path.name: path.read_text(errors="replace") for path in Path("out").iterdir()}
    assert not any("3 hundred m" in re.sub("hundred metres", "", text) for text in written.values())
    assert [name for name, text in written.items() if "Hill 3" in text] == ["episodes.jsonl"]
    assert CANARY in written["episodes.jsonl"]
    for export in ("--export", "--export-pairs", "--view"):
        status, _, err, *_ = evaluate(*browsecomp(), export, "exported")
        assert (
            status == 2 and "these questions were published encoded" in err and not Path("exported").exists()
        )
    assert evaluate(*browsecomp(), "--view", "exported", "--allow-encoded")[0] == 0
    (log,) = Path("exported").iterdir()
    assert json.loads(log.read_text())["eval"]["metadata"] == {"canary": [CANARY]}


def test_agreement_with_a_second_judge_and_with_people(evaluate):
    def two(body):
        """The second one says no to all."""
        return judge(body) if body["model"] == "m" else said("INCORRECT")

    Path("people.csv").write_text("episode,correct\neval/t1#0,yes\neval/t2#0,yes\neval/t4#0,no\n")
    both = ["--second-judge", "n", "--people", "people.csv"]
    status, out, err, *_ = evaluate(*gaia(), *both, script=two)
    assert status == 0, err
    found = summary()["agreement"]
    assert found["n"] == {"both_right": 0, "only_first": 2, "only_second": 0, "both_wrong": 2, "kappa": 0.0}
    assert found["people"]["kappa"] == pytest.approx(0.4)
    assert "the judge and people: they agree on 2 of 3 answers (κ = 0.400)" in out
    assert evaluate("--tasks", "q.jsonl", *both[:2])[0] == evaluate("--tasks", "q.jsonl", *both[2:])[0] == 2
    Path("people.csv").write_text("episode,correct\nsomebody,yes\n")
    status, _, err, *_ = evaluate(*gaia(), *both[2:])
    assert status == 2 and "--people people.csv: no answer was judged by both" in err


def test_what_judging_would_cost(evaluate):
    prices = ["--config.tasks.judge_input_price=2", "--config.tasks.judge_output_price=8"]
    status, out, _, asked, judged = evaluate(*gaia(), "--runs", "3", "--dry-run", *prices)
    assert (status, asked, judged) == (0, 0, 0) and not Path("out").exists()
    assert re.match(
        r"4 questions × 3; judging takes at most 32 calls, about [\d,]+ tokens read and [\d,]+ wr", out
    )


def test_a_judge_that_says_nothing_fails_the_run_and_judging_again_mends_it(evaluate):
    lenient = ["--config.tasks.broken_share=0.9", "--config.tasks.tries=1"]

    def unsure(body):
        return said("Well, well.") if "Hill 1?" in json.dumps(body) else judge(body)

    status, _, err, asked, _ = evaluate(*gaia(), *lenient, script=unsure)
    assert (status, asked) == (OUTAGE, 4)
    assert "error: 1 of 4 answers could not be judged, more than 1% (the judge gave no verdict" in err
    assert summary()["unjudged"] == 1 and summary()["accuracy"] == pytest.approx(1 / 3)
    status, _, err, asked, _ = evaluate(*gaia(), *lenient)
    assert (status, asked, summary()["accuracy"]) == (0, 0, 0.5), err


@pytest.mark.parametrize(
    ("arguments", "graded", "message"),
    [
        (
            ["--benchmark", "gaja", "--tasks", "metadata.jsonl"],
            True,
            "--benchmark is 'gaja'; choose one of gaia, ",
        ),
        (
            ["--benchmark", "gaia"],
            True,
            "--benchmark is gaia; give its file with --tasks FILE, as it was published",
        ),
        (
            ["--benchmark", "gaia", "--tasks", "metadata.jsonl"],
            False,
            "gaia is graded by a judge: set tasks.grader=",
        ),
        (
            ["--benchmark", "frames", "--tasks", "metadata.jsonl"],
            True,
            "metadata.jsonl: header: has no column 'Prompt'",
        ),
        (["--tasks", "metadata.jsonl", "--dry-run"], True, "--dry-run is of a --benchmark; name one"),
    ],
)
def test_what_is_refused(evaluate, arguments, graded, message):
    gaia()
    status, _, err, asked, _ = evaluate(*arguments, graded=graded)
    assert (status, asked) == (2, 0) and message in err and err.count("\n") == 1
