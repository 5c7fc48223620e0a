"""Who grades which benchmark, what of an encoded one is told, attacks on a judge, and judging once more."""

import asyncio
import dataclasses
import json
from dataclasses import dataclass

import pytest
from benchmark_files import CANARY, encode, write

from mirothinker_jax.config import ConfigError, TasksConfig
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.evals.agreement import Agreement, agreement, read_people
from mirothinker_jax.evals.attacks import ANSWERS, Attacked, attack
from mirothinker_jax.evals.benchmark_environment import BenchmarkEnvironment
from mirothinker_jax.evals.estimate import estimate
from mirothinker_jax.evals.rejudge import refuse_unjudged, rejudge
from mirothinker_jax.evals.scoring import NO_REFERENCE, Scorer, graded_in_memory, grading, open_scorer
from mirothinker_jax.rollout.collect import OutageError
from mirothinker_jax.tasks.judge import Judge, JudgeFailed
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.types import Stop, Trajectory

JUDGED = TasksConfig(grader="judge", judge_url="http://judge.test/v1", judge_model="m")
TASKS = [Task(f"q{i}", f"What is {i}?", str(i)) for i in range(3)]


@dataclass(frozen=True)
class Said:
    answer: str | None
    id: str = "e"

    def messages(self):
        return []


class ScriptedJudge(Judge):
    """A judge whose model is the function `say` of the prompt."""

    def __init__(self, say, **settings):
        super().__init__(dataclasses.replace(JUDGED, **settings), "")
        self.say, self.prompts = say, []

    async def _asked(self, prompt, request_id):
        self.prompts.append(prompt)
        said = self.say(prompt)
        if isinstance(said, Exception):
            raise said
        return said


def grade(grader, task, answer):
    return asyncio.run(grader(task, Said(answer)))


@pytest.mark.parametrize(
    ("name", "settings", "grader", "reading"),
    [
        ("gaia", JUDGED, "judge", "word"),
        ("gaia", TasksConfig(grader="gaia"), "gaia", "word"),
        ("hle-text", JUDGED, "judge", "fields"),
        ("xbench-deepsearch", JUDGED, "judge", "verdict_zh"),
        (
            "browsecomp",
            dataclasses.replace(JUDGED, judge_prompt_file="p", judge_reading="word"),
            "judge",
            "word",
        ),
        ("aime2025", JUDGED, "number", "word"),
        ("aime2025", TasksConfig(), "number", "word"),
        ("questions", TasksConfig(grader="set"), "set", "word"),
        ("futurex", TasksConfig(), "text", "word"),
    ],
)
def test_who_grades(name, settings, grader, reading):
    found = grading(name, settings)
    assert (found.grader, found.judge_reading) == (grader, reading)
    assert bool(found.judge_url) == (grader == "judge")


def test_a_benchmark_that_is_judged_needs_a_judge():
    with pytest.raises(
        ConfigError, match=r"^gaia is graded by a judge: set tasks.grader=judge, .* tasks.grader=gaia$"
    ):
        grading("gaia", TasksConfig())
    with pytest.raises(ConfigError, match=r"^hle is graded by a judge: .* and tasks.judge_model$"):
        grading("hle", TasksConfig())


def test_scorers():
    aime = open_scorer("aime2025", grading("aime2025", TasksConfig()))
    task = Task("a", "?", "033")
    assert [
        grade(aime.grader, task, a).correct for a in ("33", r"\boxed{33}"[7:-1], "x = 33.", "3", "33 or 34")
    ] == [*(True, True, True, False, False)]
    futurex = open_scorer("futurex", TasksConfig())
    assert grade(futurex.grader, Task("f", "?"), "Oslo") == Verdict(False, NO_REFERENCE)
    judged = open_scorer("gaia", JUDGED)
    assert isinstance(judged, Scorer) and isinstance(judged.judge, Judge) and aime.judge is None
    assert grade(judged.grader, Task("g", "?", "Oslo"), "oslo") == Verdict(True, "the same as the reference")


def test_the_reference_of_an_encoded_task_is_used_and_not_told():
    task = Task("b", "Which town?", encode("Oslo"), metadata={"canary": CANARY, "cipher": "sha256"})
    judge = ScriptedJudge(lambda prompt: "Oslo it is.\nCORRECT" if '"Oslo town"' in prompt else "hm")
    grader = graded_in_memory(judge)
    assert grade(grader, task, "Oslo town") == Verdict(True) and "\nOslo\n" in judge.prompts[0]
    assert grade(grader, task, "OSLO").correct is True and len(judge.prompts) == 1
    assert grade(grader, task, "Rome") == Verdict(None)
    judge.say = lambda prompt: JudgeFailed("HTTP 503")
    assert grade(grader, task, "Paris") == Verdict(None, "the judge: HTTP 503")
    plain = dataclasses.replace(task, answer="Oslo", metadata={})
    assert grade(grader, plain, "Rome").reason == "the judge: HTTP 503"


def test_attacks():
    assert len(set(ANSWERS)) == 20
    strict, easy = (
        ScriptedJudge(lambda prompt: "INCORRECT"),
        ScriptedJudge(
            lambda prompt: (
                "hm"
                if '" "' in prompt
                else "CORRECT"
                if '":"' in prompt or "step by" in prompt
                else "INCORRECT"
            )
        ),
    )
    assert asyncio.run(attack(strict, TASKS)) == Attacked((), 20, 0)
    assert {prompt.partition("Response:")[0] for prompt in strict.prompts} == {
        prompt.partition("Response:")[0] for prompt in strict.prompts[:3]
    }
    found = asyncio.run(attack(easy, TASKS))
    assert found == Attacked((":", "Let us solve this step by step."), 19, 1)
    assert found.line().startswith(
        "the judge passed 2 of 19 answers that are wrong for every question: "
    ) and (found.line().endswith("; 1 more were not judged"))
    # What is the reference of a question is put beside another one, and where there is none, nowhere.
    asked = ScriptedJudge(lambda prompt: "INCORRECT")
    assert asyncio.run(attack(asked, [Task("q", "?", "解")])).judged == 19
    assert asyncio.run(attack(asked, [Task("q", "?")])) == Attacked((), 0, 0)


def test_what_judging_would_cost():
    prices = {"judge_input_price": 2.0, "judge_output_price": 8.0}
    found = estimate(TASKS, 8, dataclasses.replace(JUDGED, judge_reading="choice", **prices))
    assert found.calls == 3 * 8 + 20 and found.output_tokens == 2 * found.calls
    judge = ScriptedJudge(lambda prompt: "A", judge_reading="choice")
    grade(judge, TASKS[0], "7")
    assert found.input_tokens == pytest.approx(len(judge.prompts[0]) / 4 * found.calls, rel=0.05)
    assert found.cost == pytest.approx(found.input_tokens * 2e-6 + found.output_tokens * 8e-6)
    assert estimate(TASKS, 8, TasksConfig()).calls == 0


def episode(number, answer, **fields):
    task = TASKS[number % len(TASKS)]
    said = {"answer": answer, "stop": Stop.ANSWERED, "correct": False} | fields
    counts = {"calls": 1, "failed_calls": 0, "malformed_calls": 0, "segments": ()}
    return Trajectory(f"eval/{task.id}#{number}", task.id, task.question, task.answer, **said, **counts)


def test_judging_once_more(tmp_path):
    path = tmp_path / "episodes.jsonl"
    broken = episode(5, None, stop=Stop.INFRASTRUCTURE, correct=None)
    journal.write(path, [episode(0, "zero"), episode(1, "one", correct=True), episode(2, None), broken])
    lines = path.read_text().count("\n")
    judge = ScriptedJudge(lambda prompt: "CORRECT" if '"zero"' in prompt else "INCORRECT")
    tasks = {task.id: task for task in TASKS}
    assert asyncio.run(rejudge(path, tasks, judge)) == 2
    found = {t.id: t.correct for t in journal.read(path)}
    assert list(found.values()) == [True, False, False, None]
    assert path.read_text().count("\n") == lines + 3
    # A judge that fails leaves the journal as it was.
    before = path.read_bytes()
    failing = ScriptedJudge(lambda prompt: JudgeFailed("HTTP 503"))
    with pytest.raises(
        OutageError, match=r"^2 of 3 answers could not be judged, more than 1% \(the judge: HTTP 503\)"
    ):
        asyncio.run(rejudge(path, tasks, failing))
    assert path.read_bytes() == before and len(failing.prompts) == 6


def test_one_in_a_hundred_may_stay_unjudged():
    refuse_unjudged([Verdict(None), *[Verdict(True)] * 99])
    refuse_unjudged([])
    for missing in (Verdict(None), Verdict(False, terms={"unparsable": 1.0})):
        with pytest.raises(OutageError, match=r"^2 of 100 answers could not be judged, more than 1%"):
            refuse_unjudged([*[missing] * 2, *[Verdict(True)] * 98])


def test_agreement():
    # The textbook's table: 20 yes and yes, 5 yes and no, 10 no and yes, 15 no and no: κ = 0.4.
    first = {str(i): i < 25 for i in range(50)} | {"x": None, "y": True}
    second = {str(i): i < 20 or 25 <= i < 35 for i in range(50)} | {"x": True, "y": None}
    found = agreement(first, second)
    assert found == Agreement(20, 5, 10, 15) and found.kappa == pytest.approx(0.4, rel=1e-12)
    assert Agreement(7, 0, 0, 3).kappa == 1 and Agreement(0, 5, 5, 0).kappa == -1
    assert Agreement(25, 25, 25, 25).kappa == 0 and Agreement(9, 0, 0, 0).kappa is None
    with pytest.raises(ValueError, match="no answer was judged by both"):
        agreement({"a": True}, {"b": True})


def test_verdicts_of_people(tmp_path):
    file = tmp_path / "people.csv"
    file.write_text("episode,correct,note\neval/q0#0,yes,\neval/q1#0,0,x\neval/q2#0,,\n")
    assert read_people(str(file)) == {"eval/q0#0": True, "eval/q1#0": False}
    file.write_text("episode,correct\ne,maybe\n")
    with pytest.raises(DataError, match=r"people.csv:2: correct: is 'maybe'; write yes or no"):
        read_people(str(file))
    json_file = tmp_path / "people.json"
    json_file.write_text(json.dumps([{"episode": "e", "correct": True}, {"id": "f"}]))
    with pytest.raises(DataError, match=r"people.json:2: episode: is missing"):
        read_people(str(json_file))


def test_a_benchmark_as_an_environment(tmp_path):
    rows = [{"problem": f"What is {i}?", "answer": str(i)} for i in range(30)]
    path = write(tmp_path / "aime.csv", rows)
    environment = BenchmarkEnvironment("aime2025", path, TasksConfig(), lambda: ["tool"])
    tasks = environment.tasks("heldout", 99, 0)
    assert [task.answer for task in tasks] == [str(i) for i in range(30)] and environment.tools() == ["tool"]
    some, more, other = (environment.tasks("heldout", n, seed) for n, seed in ((5, 0), (9, 0), (5, 1)))
    assert some == more[:5] != other and grade(environment.grader, some[0], some[0].answer).correct
    assert (environment.settings.grader, environment.questions.remarks) == ("number", ())
    with pytest.raises(ConfigError, match="a benchmark has no questions to train on"):
        environment.tasks("train", 1, 0)
    with pytest.raises(ConfigError, match="frames is graded by a judge"):
        BenchmarkEnvironment("frames", path, TasksConfig(), list)
