"""Which environment a config names, and what files of questions and a module of the user's own give."""

import asyncio
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from attempts import Said

from mirothinker_jax.config import Config, ConfigError, TasksConfig, build
from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.tasks.environments import QuestionFiles, open_environment
from mirothinker_jax.tasks.types import Task

CONFIG = {"data": {"path": "x.jsonl"}}


def opened(**tasks):
    """The environment, and what was opened for it from outside."""
    calls = []

    def world(config):
        calls.append("world")
        return config

    def tools(config):
        calls.append("tools")
        return [config]

    config = build(Config, {**CONFIG, "tasks": tasks})
    return config, open_environment(config, world, tools), calls


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text(
        "".join(json.dumps({"id": i, "question": f"{i}?", "answer": i}) + "\n" for i in range(20))
    )
    return str(path)


def test_the_world_is_asked_for_where_nothing_else_is_named():
    config, environment, calls = opened()
    assert (environment, calls) == (config, ["world"])


def test_files_give_their_tasks_and_the_tools_of_the_config(questions):
    config, environment, calls = opened(train=questions, grader="number")
    assert isinstance(environment, QuestionFiles) and calls == []
    assert environment.tools() == [config] and calls == ["tools"]
    assert {task.id for task in environment.tasks("train", 100, 0)} == {str(i) for i in range(20)}
    with pytest.raises(ConfigError, match=r"^tasks.heldout is empty, and questions of it are asked for"):
        environment.tasks("heldout", 1, 0)
    environment.close()


def test_an_order_is_the_seeds_and_no_other_tasks(questions, tmp_path):
    tasks = opened(heldout=questions)[1].tasks
    first = [task.id for task in tasks("heldout", 20, 0)]
    assert [task.id for task in tasks("heldout", 7, 0)] == first[:7]
    assert len(set(first)) == 20 and first != sorted(first, key=int)
    starts = Counter(tasks("heldout", 1, seed)[0].id for seed in range(400))
    assert len(starts) == 20 and max(starts.values()) < 45
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(Path(questions).read_text().splitlines(True)[:4:-1]))
    rest = [task.id for task in opened(heldout=str(fewer))[1].tasks("heldout", 20, 0)]
    assert rest == [one for one in first if int(one) >= 5]


def test_a_question_in_both_files_is_refused(questions):
    with pytest.raises(DataError, match=r"q.jsonl:1: question: also stands in "):
        opened(train=questions, heldout=questions)


SOURCE = """
from mirothinker_jax.config import ConfigError
from mirothinker_jax.tasks.types import Task

class Own:
    def __init__(self, config=None):
        self.config, self.closed = config, False
    def grader(self, task, attempt):
        raise ValueError("mine")
    def tasks(self, split, count, seed):
        return [Task(f"{split}-{seed}-{i}", "?") for i in range(count)]
    def tools(self):
        return ["tool"]
    def close(self):
        self.closed = True

class NoTools(Own):
    tools = None

class Short(Own):
    def tasks(self, count):
        return []

class Records(Own):
    def tasks(self, split, count, seed):
        return [{"question": "?"}]

class Many(Own):
    def tasks(self, split, count, seed):
        return [Task("a", "?"), Task("b", "?")]

class Twice(Own):
    def tasks(self, split, count, seed):
        return [Task("a", "?"), Task("a", "?")]

class Nothing(Own):
    def tasks(self, split, count, seed):
        return []

def raises(config):
    raise KeyError("x")

def refuses(config):
    raise ConfigError("tasks.train: is mine; other")

def number(config):
    return 3

def nothing():
    return Own()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_environment.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield lambda name: opened(environment=f"own_environment:{name}")
    sys.modules.pop("own_environment", None)


def test_an_environment_of_the_users_own(module):
    _, environment, calls = module("Own")
    assert [task.id for task in environment.tasks("train", 2, 5)] == ["train-5-0", "train-5-1"]
    assert environment.tools() == ["tool"] and calls == []
    found = asyncio.run(environment.grader(Task("a", "?"), Said("x")))
    assert found.correct is None and found.reason.startswith("own_environment:Own.grader: ValueError: mine (")
    environment.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoTools", "own_environment:NoTools returned NoTools, which has no tools that can be called"),
        ("Short", "own_environment:Short returned Short, whose tasks does not take 3 arguments: too many"),
        ("raises", "own_environment:raises failed: KeyError: 'x' ("),
        ("number", "own_environment:number returned int, which has no grader that can be called"),
        ("nothing", "own_environment:nothing failed: TypeError: nothing() takes 0 positional arguments"),
    ],
)
def test_what_a_factory_may_not_return(module, name, message):
    with pytest.raises(ConfigError) as raised:
        module(name)
    assert str(raised.value).startswith(f"tasks.environment: {message}") and "\n" not in str(raised.value)


def test_a_factory_may_refuse_in_its_own_words(module):
    with pytest.raises(ConfigError, match=r"^tasks.train: is mine; other$"):
        module("refuses")


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("Records", 2, "returned dict; return Task(id, question, answer, …)"),
        ("Many", 1, "returned 2 tasks; return 1 … 1"),
        ("Nothing", 2, "returned 0 tasks; return 1 … 2"),
        ("Twice", 2, "returned two tasks of the id 'a'"),
    ],
)
def test_what_its_tasks_may_not_be(module, name, count, message):
    environment = module(name)[1]
    with pytest.raises(ConfigError) as raised:
        environment.tasks("train", count, 0)
    assert str(raised.value).startswith(
        f"tasks.environment: own_environment:{name}: tasks('train', {count}, 0) {message}"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"environment": "web"}, "environment is 'web'; choose one of world, files, or write MODULE:FACTORY"),
        ({"environment": "files"}, "environment is 'files' and names none"),
        (
            {"environment": "world", "train": "q.jsonl"},
            "environment is 'world', which asks its own questions",
        ),
        (
            {"grader": "exact"},
            "grader is 'exact'; choose one of text, number, gaia, set, judge, or write MODULE:FUNC",
        ),
        (
            {"grader": "my/own.py:f"},
            "grader is 'my/own.py:f'; name the module, not its file: own:f, with its folder",
        ),
        ({"grader": "a:b:c"}, "grader is 'a:b:c'; choose one of"),
        ({"grader": "judge", "judge_model": "m"}, "judge_url is '' and tasks.grader 'judge'; name it"),
        ({"grader": "judge", "judge_url": "http://h"}, "judge_model is '' and tasks.grader 'judge'; name it"),
        (
            {"judge_url": "http://h"},
            "judge_url is 'http://h' and tasks.grader 'text'; set tasks.grader to 'judge'",
        ),
        (
            {"judge_prompt_file": "p"},
            "judge_prompt_file is 'p' and tasks.grader 'text'; set the grader to 'judge'",
        ),
        (
            {"grader": "judge", "judge_url": "h:80", "judge_model": "m"},
            "judge_url is 'h:80', which is no address",
        ),
        ({"judge_temperature": -0.5}, "judge_temperature is -0.5; give ≥ 0, or -1"),
        ({"judge_concurrency": 0}, "judge_concurrency is 0; it must be ≥ 1"),
        ({"judge_retries": -1}, "judge_retries is -1; it must be ≥ 0"),
        ({"judge_timeout_s": 0.0}, "judge_timeout_s is 0.0; it must be > 0"),
        ({"judge_deadline_s": 0.0}, "judge_deadline_s is 0.0; it must be > 0"),
        ({"grader_timeout_s": 0.0}, "grader_timeout_s is 0.0; it must be > 0"),
        ({"tries": 0}, "tries is 0; it must be ≥ 1"),
        ({"broken_share": 1.0}, "broken_share is 1.0; give 0 ≤ x < 1"),
        ({"train": "gs://b/q.jsonl"}, "train is 'gs://b/q.jsonl', and URLs are not read"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(ConfigError) as raised:
        build(Config, {**CONFIG, "tasks": settings})
    assert str(raised.value).startswith(f"config.tasks.{message}")


def test_settings_say_which_environment_they_name():
    assert [
        TasksConfig(**settings).source for settings in ({}, {"heldout": "q"}, {"environment": "a.b:c"})
    ] == [
        "world",
        "files",
        "a.b:c",
    ]
    with pytest.raises(
        ConfigError, match="the stage sft has no data: the scripted expert answers the embedded"
    ):
        build(Config, {"tasks": {"train": "q.jsonl"}})


def test_a_path_of_questions_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    tasks = build(Config, {**CONFIG, "tasks": {"train": "~/a.jsonl", "heldout": "~/b.jsonl"}}).tasks
    assert (tasks.train, tasks.heldout) == ("/home/me/a.jsonl", "/home/me/b.jsonl")
