"""Who grades: a rule, a judge, or a function of the user's own.

A grader gives a verdict, whatever happens: what breaks is `correct=None` with the reason, and the episode counts as
not judged. An episode without an answer is wrong for every rule and for the judge; a function decides for itself.

A function that is not async runs in a thread of its own for each answer, so several may run at once, and one that
never returns is left behind (a thread cannot be stopped).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from mirothinker_jax.config import TasksConfig
from mirothinker_jax.tasks.number_rule import is_correct_number, only_number
from mirothinker_jax.tasks.rules import canonical, is_correct, is_correct_gaia
from mirothinker_jax.tasks.set_rule import is_correct_set, items
from mirothinker_jax.tasks.types import Attempt, Grader, Task, Verdict
from mirothinker_jax.tasks.user_code import load_function, reason

NO_ANSWER = "no answer"
RULES: Mapping[str, Callable[[str, str | None], bool]] = {
    "text": is_correct,
    "number": is_correct_number,
    "gaia": is_correct_gaia,
    "set": is_correct_set,
}


def open_grader(settings: TasksConfig) -> Grader:
    """The grader that `tasks.grader` names. It may be called on any event loop, and has nothing to close.

    Raises:
      ConfigError: a function or a prompt file that cannot be used.
    """
    if settings.grader in RULES:
        return by_rule(RULES[settings.grader])
    if settings.grader == "judge":
        from mirothinker_jax.tasks.judge import Judge

        return Judge(settings, os.environ.get(settings.judge_key_env, ""))
    function = load_function("tasks.grader", settings.grader)
    return by_function(function, settings.grader, settings.grader_timeout_s)


def reference_problem(settings: TasksConfig, answer: str) -> str:
    """Why no answer could equal this reference; "" where one can."""
    if settings.grader not in (*RULES, "judge"):
        return ""
    if not answer.strip():
        return "is missing, and only a grader of your own can do without"
    if settings.grader == "number" and only_number(answer) is None:
        return f"is {answer!r}, in which there is not one number, as tasks.grader 'number' needs"
    if settings.grader == "set" and not items(answer):
        return f"is {answer!r}, in which there are no items, as tasks.grader 'set' needs"
    if settings.grader == "text" and not canonical(answer):
        return f"is {answer!r}, of which nothing is left without punctuation, as tasks.grader 'text' compares"
    return ""


def by_rule(rule: Callable[[str, str | None], bool]) -> Grader:
    """A grader of `rule(reference, answer)`."""

    async def grade(task: Task, attempt: Attempt) -> Verdict:
        if attempt.answer is None:
            return Verdict(False, NO_ANSWER)
        return Verdict(rule(task.answer, attempt.answer))

    return grade


def by_function(function: Callable[[Task, Attempt], Any], name: str, timeout_s: float) -> Grader:
    """A grader of the user's function, sync or async, which returns a bool, None, 0, 1 or a Verdict.

    Args:
      name: for reasons.
      timeout_s: seconds it may take.
    """

    async def grade(task: Task, attempt: Attempt) -> Verdict:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                returned = await _call(function, task, attempt)
            return _verdict(returned)
        except TimeoutError as error:
            if limit.expired():
                return Verdict(None, f"{name} took longer than {timeout_s:g} s")
            return Verdict(None, f"{name}: {reason(error)}")
        except Exception as error:
            return Verdict(None, f"{name}: {reason(error)}")

    return grade


async def _call(function: Callable[[Task, Attempt], Any], task: Task, attempt: Attempt) -> Any:
    method = getattr(function, "__call__", None)  # noqa: B004  an object may be async, too
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(method):
        return await function(task, attempt)
    returned = await _in_thread(lambda: function(task, attempt))
    return await returned if inspect.isawaitable(returned) else returned


async def _in_thread(work: Callable[[], Any]) -> Any:
    """What `work` returns or raises. Unlike asyncio.to_thread, it does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def finish(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            outcome = (future.set_result, work())
        except BaseException as error:
            # A future takes no StopIteration, and SystemExit would end the loop.
            usual = isinstance(error, Exception) and not isinstance(error, StopIteration)
            outcome = (future.set_exception, error if usual else RuntimeError(reason(error)))
        with contextlib.suppress(RuntimeError):  # the loop was closed while it worked
            loop.call_soon_threadsafe(finish, *outcome)

    threading.Thread(target=run, name="grader", daemon=True).start()
    return await future


def _verdict(returned: Any) -> Verdict:
    """Raises TypeError or ValueError for what says nothing."""
    if isinstance(returned, Verdict):
        terms = {str(name): float(value) for name, value in returned.terms.items()}
        wrong = next((name for name, value in terms.items() if not math.isfinite(value)), None)
        if wrong is not None:
            raise ValueError(f"the term {wrong!r} is {terms[wrong]}; return a finite number")
        return Verdict(
            None if returned.correct is None else _is_true(returned.correct), returned.reason, terms
        )
    return Verdict(None, "not judged") if returned is None else Verdict(_is_true(returned))


def _is_true(value: Any) -> bool:
    value = value.item() if hasattr(value, "item") else value  # numpy's
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return bool(value)
    raise TypeError(
        f"returned {value!r}; return True, False, None or Verdict(correct, terms={{name: number}})"
    )
