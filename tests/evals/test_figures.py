"""Figures of episodes against counting by hand, and what makes a figure comparable."""

import dataclasses
import datetime
import math

import pytest
from benchmark_files import CANARY, encode

from mirothinker_jax.config import AgentConfig, Config, EvalConfig, TasksConfig, ToolsConfig
from mirothinker_jax.evals.calibration import calibration_error, stated_confidence
from mirothinker_jax.evals.catalogue import BENCHMARKS
from mirothinker_jax.evals.comparable import differences, line
from mirothinker_jax.evals.figures import figures, predictions
from mirothinker_jax.evals.repeated import accuracy
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, TurnContext


def episode(question, answer="x", correct: bool | None = True, attempts=1, said="", **fields):
    segments = [Segment(Source.PROMPT, (1,) * 10, (("user", "?"),))]
    turns = []
    for attempt in range(attempts):
        segments.append(Segment(Source.POLICY, (2,) * 4, (("assistant", said),), (-1.0,) * 4))
        turns.append(TurnContext(len(segments) - 1, tuple(range(len(segments) - 1)), attempt))
    known = {"expected": "x", "stop": Stop.ANSWERED, "calls": 3, "failed_calls": 1, "malformed_calls": 0}
    known |= {"answer": answer, "correct": correct, "segments": tuple(segments), "turns": tuple(turns)}
    return Trajectory("", question, "?", **known | fields)


def test_two_runs_of_a_benchmark():
    broken = {"correct": None, "stop": Stop.INFRASTRUCTURE}
    runs = [
        [episode("a"), episode("b", "y", False), episode("c", None, False, stop=Stop.NO_ANSWER, calls=9)],
        [episode("a", attempts=2), episode("b", "X"), episode("c", "z", None), episode("d", None, **broken)],
    ]
    found = figures("gaia", runs, input_price=2.0, output_price=10.0)
    assert (found["episodes"], found["unjudged"], found["broken"], found["questions"]) == (6, 1, 1, 3)
    assert found["accuracy"] == (1 + 1 / 2 + 0) / 3 and found["by_run"] == [1 / 3, 1.0]
    assert found["std_over_runs"] == pytest.approx(math.sqrt(2) / 3)
    assert found["accuracy_without_restarts"] == 2 / 5
    # By GAIA's own scorer, case does not count.
    assert found["string_accuracy"] == 3 / 5
    assert found["pass_at"] == {"1": pytest.approx((1 + 0.5 + 0) / 3), "2": 1.0}
    assert found["majority_at"] == {"2": 0.5} and found["avg_at"] == {"2": 0.5}
    assert found["stops"] == {"answered": 5, "infrastructure": 1, "no_answer": 1}
    assert (found["calls"], found["failed_calls"], found["attempts"]) == (4, 1, pytest.approx(7 / 6))
    assert found["tokens_written"] == pytest.approx(28 / 6) and found["tokens_read"] == pytest.approx(74 / 6)
    assert found["cost"] == pytest.approx((74 / 6 * 2 + 28 / 6 * 10) / 1e6)
    same = accuracy({"a": [True, True], "b": [False, True], "c": [False]})
    assert (found["accuracy"], found["low"], found["high"]) == (same.mean, same.low, same.high)
    assert figures("gaia", [[episode("a", correct=None)]])["unjudged"] == 1
    assert "accuracy" not in figures("gaia", [[episode("a", correct=None)]])
    assert figures("gaia", [[episode("d", **broken)]])["broken"] == 1


def test_the_string_scorer_reads_an_encoded_reference(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "both", dataclasses.replace(BENCHMARKS["browsecomp"], string_rule="gaia"))
    sealed = {"expected": encode("x"), "metadata": {"canary": CANARY, "cipher": "sha256"}}
    assert figures("both", [[episode("a", "X", **sealed)]])["string_accuracy"] == 1


def test_figures_that_a_benchmark_has_of_its_own():
    said = [
        episode("a", said="Confidence: 90%"),
        episode("b", "y", False, terms={"confidence": 0.5}),
        episode("c"),
    ]
    found = figures("hle-text", [said])
    assert found["confident_answers"] == 2
    assert found["calibration_error"] == pytest.approx(abs(0.7 - 0.5))
    assert figures("hle", [[episode("a")]])["calibration_error"] is None
    parts = [episode("a", terms={"precision": 1.0, "recall": 1.0, "f1": 1.0}), episode("b", None, False)]
    parts.append(episode("c", "y", False, terms={"precision": 0.5, "recall": 1.0, "f1": 2 / 3}))
    found = figures("deepsearchqa", [parts])
    assert found["accuracy"] == pytest.approx(1 / 3) and found["f1"] == pytest.approx(5 / 9)
    # One right without asking, one right, one wrong, one not attempted, one unparsable, one without an answer.
    grades = [
        episode("a"),
        episode("b", terms={"attempted": 1.0}),
        episode("c", "y", False, terms={"attempted": 1.0}),
    ]
    grades += [episode("d", "?", False, terms={"attempted": 0.0}), episode("f", None, False)]
    grades.append(episode("e", "z", False, terms={"attempted": 0.0, "unparsable": 1.0}))
    found = figures("simpleqa", [grades])
    assert (found["accuracy"], found["attempted"]) == (pytest.approx(1 / 3), 0.5)
    assert found["accuracy_of_attempted"] == pytest.approx(2 / 3) and found["unparsable"] == 1
    assert found["f1"] == pytest.approx(2 * (1 / 3) * (2 / 3) / (1 / 3 + 2 / 3))
    assert figures("simpleqa", [grades[3:]])["f1"] == 0


def test_predictions():
    runs = [[episode("a", "Oslo"), episode("b", None)], [episode("a", "Rome"), episode("b", "1")]]
    runs.append([episode("a", "rome"), episode("b", "2")])
    assert predictions(runs) == {"a": "Rome", "b": "1"}
    assert predictions([[episode("c", None)]]) == {"c": None}
    assert "accuracy" not in figures("futurex", runs) and figures("futurex", runs)["calls"] == 3


def test_calibration():
    assert calibration_error([(0.8, True), (0.6, True)]) == pytest.approx(0.3)
    # Three bins of two, and the last takes the odd one. Bins: .1 .2 | .3 .4 | .5 .6 .9.
    answers = [(0.9, True), (0.1, False), (0.2, False), (0.3, True), (0.4, True), (0.5, False), (0.6, True)]
    squares = 2 * 0.15**2 + 2 * 0.65**2 + 3 * (2 / 3 - 2 / 3) ** 2
    assert calibration_error(answers, size=2) == pytest.approx(math.sqrt(squares / 7))
    # Were the last bin left out, an error in it alone would not show.
    late = [(0.0, False)] * 100 + [(1.0, False)] * 100
    assert calibration_error(late) == pytest.approx(math.sqrt(0.5))
    with pytest.raises(ValueError, match="no answer states a confidence"):
        calibration_error([])
    assert stated_confidence("Confidence: 20%\nconfidence is now **85.5** %") == 0.855
    assert stated_confidence("置信度：70％") == 0.7
    assert stated_confidence("Confidence: 300%") is None and stated_confidence("I am sure.") is None


DAY = datetime.date(2026, 3, 5)


def compared(
    name="gaia",
    agent=None,
    tools=None,
    sampling=None,
    judge="gpt-4.1-2025-04-14",
    runs=8,
    prompt="2026-03-05",
    remarks=(),
    **tasks,
):
    graded = {
        "grader": "judge",
        "judge_url": "http://a.test/v1",
        "judge_model": judge,
        "judge_prompt_file": "p.txt",
    }
    return differences(
        name,
        Config(
            stages=(),
            agent=agent or AgentConfig(preset="v1.5"),
            tools=tools or ToolsConfig(refuse=BENCHMARKS[name].refuse),
            tasks=TasksConfig(**graded | {"judge_reading": BENCHMARKS[name].reading or "word"} | tasks),
            evaluation=EvalConfig(**sampling or {}),
        ),
        runs=runs,
        remarks=remarks,
        prompt=prompt or str(DAY),
        day=DAY,
    )


def test_comparable():
    assert compared() == [] == compared(judge="openai/gpt-4.1-2025-04-14", runs=16)
    assert line(compared()) == "comparable with published: yes"
    for prompt in ("Today is March 5, 2026.", "5 Mar 2026", "今天是2026年3月5日"):
        assert compared(prompt=prompt) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agent": AgentConfig()}, "agent.preset is '', and not one of v1.0, v1.5, v1.7"),
        ({"agent": AgentConfig(preset="v1.5", restarts=0)}, "agent.restarts is 0, and v1.5 has 5"),
        ({"agent": AgentConfig(preset="v1.0", max_calls=20)}, "agent.max_calls is 20, and v1.0 has 600"),
        (
            {"sampling": {"repetition_penalty": 1.0}},
            "evaluation.repetition_penalty is 1.0, and v1.5 has 1.05",
        ),
        ({"prompt": "Today is 2026-03-04."}, "the prompt does not say the date (2026-03-05)"),
        (
            {"tools": ToolsConfig(refuse=BENCHMARKS["gaia"].refuse[1:])},
            "the leak guard does not refuse gaia-benchmark",
        ),
        ({"judge": "gpt-4.1"}, "the judge is gpt-4.1, and papers have gpt-4.1-2025-04-14"),
        ({"judge_reading": "choice"}, "tasks.judge_reading is 'choice', and papers have 'word'"),
        ({"judge_prompt_file": ""}, "the judge's words are our own"),
        ({"runs": 3}, "3 runs, and papers made 8"),
        ({"remarks": ["20 questions, and GAIA, validation as published has 165"]}, "20 questions, and GAIA"),
        ({"name": "questions"}, "nobody has published figures of your own questions"),
        ({"name": "futurex"}, "predictions are scored when their time has come"),
    ],
)
def test_what_is_not_comparable(changes, reason):
    (found,) = compared(**changes)
    assert found.startswith(reason) and line([found]) == f"comparable with published: no, because {found}"


def test_a_rule_in_the_judges_place():
    tools = ToolsConfig(refuse=BENCHMARKS["gaia"].refuse)
    settings = {"agent": AgentConfig(preset="v1.5"), "tools": tools, "tasks": TasksConfig(grader="gaia")}
    found = differences(
        "gaia", Config(stages=(), **settings), runs=8, remarks=(), prompt="2026-03-05", day=DAY
    )
    assert found == ["tasks.grader is 'gaia', and papers have gpt-4.1-2025-04-14"]
