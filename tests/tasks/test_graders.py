"""Graders by rule and of the user's own: what each says, and that nothing the user's code does ends a run."""

import asyncio
import time

import numpy as np
import pytest
from attempts import TASK, Said

from mirothinker_jax.config import ConfigError, TasksConfig
from mirothinker_jax.tasks.graders import by_function, open_grader
from mirothinker_jax.tasks.types import Task, Verdict
from mirothinker_jax.tasks.user_code import load_function


def verdict(grader, answer, task=TASK):
    return asyncio.run(grader(task, Said(answer)))


@pytest.mark.parametrize(
    ("grader", "reference", "right", "wrong"),
    [
        ("text", "330 m", r"\text{330 m}", "330"),
        ("number", "330", "330 m", "331 m"),
        ("set", "a; b", "b, a", "a"),
        ("gaia", "a,b", "a; b", "b; a"),
    ],
)
def test_each_rule_by_its_name(grader, reference, right, wrong):
    grade, task = open_grader(TasksConfig(grader=grader)), Task("t", "?", reference)
    assert verdict(grade, right, task) == Verdict(True)
    assert verdict(grade, wrong, task) == Verdict(False)
    assert verdict(grade, None, task) == Verdict(False, "no answer")


class Grades:
    """A callable that is async, as a user's class may be."""

    async def __call__(self, task, attempt):
        return attempt.answer == task.answer


async def is_equal(task, attempt):
    return attempt.answer == task.answer


def raises(error):
    def grade(task, attempt):
        raise error

    return grade


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda task, attempt: attempt.answer == task.answer, Verdict(True)),
        (is_equal, Verdict(True)),
        (Grades(), Verdict(True)),
        (lambda task, attempt: is_equal(task, attempt), Verdict(True)),
        (lambda task, attempt: attempt.messages()[0]["content"] == r"\boxed{330 m}", Verdict(True)),
        (lambda task, attempt: 0.0, Verdict(False)),
        (lambda task, attempt: np.bool_(True), Verdict(True)),
        (lambda task, attempt: np.float32(1), Verdict(True)),
        (lambda task, attempt: None, Verdict(None, "not judged")),
        (lambda task, attempt: Verdict(False, "no", {"style": 1}), Verdict(False, "no", {"style": 1.0})),
        (lambda task, attempt: Verdict(None, "down"), Verdict(None, "down")),
    ],
)
def test_what_a_function_may_return(function, expected):
    assert verdict(by_function(function, "m:f", 5), TASK.answer) == expected


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda task, attempt: 0.5, "m:f: TypeError: returned 0.5; return True, False, None or Verdict"),
        (lambda task, attempt: "yes", "m:f: TypeError: returned 'yes'"),
        (lambda task, attempt: float("nan"), "m:f: TypeError: returned nan"),
        (lambda task, attempt: Verdict("yes"), "m:f: TypeError: returned 'yes'"),  # pyright: ignore
        (
            lambda task, attempt: Verdict(True, "", {"a": float("inf")}),
            "m:f: ValueError: the term 'a' is inf",
        ),
        (lambda task, attempt: Verdict(True, "", {"a": "x"}), "m:f: ValueError: could not convert"),  # pyright: ignore
        (lambda task: True, "m:f: TypeError: "),
        (raises(KeyError("a\nb")), "m:f: KeyError: 'a\\nb' ("),
        (raises(StopIteration()), "m:f: RuntimeError: StopIteration"),
        (raises(SystemExit(3)), "m:f: RuntimeError: SystemExit: 3"),
        (raises(TimeoutError("mine")), "m:f: TimeoutError: mine"),
        (raises(asyncio.CancelledError()), "m:f: RuntimeError: CancelledError"),
    ],
)
def test_what_goes_wrong_in_a_function_is_no_verdict(function, reason):
    found = verdict(by_function(function, "m:f", 5), "x")
    assert found.correct is None and found.reason.startswith(reason) and "\n" not in found.reason


def test_a_function_that_hangs_is_left_behind_and_holds_up_nothing():
    async def never(task, attempt):
        await asyncio.Event().wait()

    async def main():
        slow = by_function(lambda task, attempt: time.sleep(20), "m:slow", 0.05)
        good = by_function(lambda task, attempt: True, "m:good", 5)
        return await asyncio.gather(
            *(g(TASK, Said("x")) for g in (slow, by_function(never, "m:never", 0.05), good))
        )

    began = time.monotonic()
    assert asyncio.run(main()) == [
        Verdict(None, "m:slow took longer than 0.05 s"),
        Verdict(None, "m:never took longer than 0.05 s"),
        Verdict(True),
    ]
    assert time.monotonic() - began < 10


def test_a_module_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "own_grades.py").write_text("def grade(task, attempt):\n    return attempt.answer == 'x'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/somewhere"])
    grade = open_grader(TasksConfig(grader="own_grades:grade"))
    assert [verdict(grade, answer).correct for answer in ("x", "y", None)] == [True, False, False]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "gone_1:grade", "there is no module 'gone_1' in FOLDER or PYTHONPATH"),
        ("", "own_1.gone:grade", "there is no module 'own_1.gone'"),
        (
            "import gone_2",
            "own_1:grade",
            "which imports 'gone_2', and that is not installed: FOLDER/own_1.py:1",
        ),
        ("def grade(:", "own_1:grade", "which cannot be imported: SyntaxError: invalid syntax"),
        (
            "x = 1\ny = 1 / 0",
            "own_1:grade",
            "cannot be imported: ZeroDivisionError: division by zero (FOLDER/own_1.py:2)",
        ),
        ("raise SystemExit(2)", "own_1:grade", "which cannot be imported: SystemExit: 2"),
        ("def Grade(): ...", "own_1:grade", "FOLDER/own_1.py has no function 'grade'; it has Grade"),
        ("grade = 3", "own_1:grade", "FOLDER/own_1.py has no function 'grade'; it has none"),
    ],
)
def test_a_module_that_cannot_be_used(tmp_path, monkeypatch, source, name, message):
    (tmp_path / "own_1.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "own_1", raising=False)
    with pytest.raises(ConfigError) as raised:
        load_function("tasks.grader", name)
    assert str(raised.value).startswith(f"tasks.grader is {name!r}, ")
    assert message.replace("FOLDER", str(tmp_path)) in str(raised.value) and "\n" not in str(raised.value)
