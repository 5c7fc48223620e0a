"""What a user gets wrong ends in one line that says where, and leaves nothing half-written."""

import json
import logging
import os

import pytest
from command import SFT, finish, start

from mirothinker_jax.pipeline.lock import RunLock
from mirothinker_jax.train import main


def record(*messages):
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


GOOD = record(("user", "Where is KTM?"), ("assistant", "\\boxed{Kathmandu}"))
TOOL_CALL = {"function": {"name": "teleport", "arguments": {"to": "KTM"}}}

# name → (lines of the file, what the error says after "error: FILE")
WRONG = {
    "unreadable line": ([GOOD, GOOD, '{"messages": ['], ":3: line: unreadable JSON"),
    "missing field": ([GOOD, '{"messages": [{"role": "user"}]}'], ":2: messages[0].content: missing"),
    "no messages": (['{"message": []}'], ":1: messages: missing (the record has message)"),
    "unknown role": ([GOOD, record(("robot", "hi"))], ":2: messages[0].role: unknown role 'robot'"),
    "nothing to train on": ([record(("user", "hi"))], ":1: messages: no assistant message to train on"),
    "key of another format": (
        [GOOD, json.dumps({**json.loads(GOOD), "prompt": "x"})],
        ":2: prompt: unknown key, so its content would be lost; drop it with data.ignore=record.prompt",
    ),
    "empty file": ([], ": file: is empty"),
}


@pytest.fixture
def command(tmp_path, capfd):
    """(…settings) → the error line of `main` in this process, which must be all that it says."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*settings):
        run_dir = tmp_path / "run"
        capfd.readouterr()
        assert main(["--config", str(SFT), f"--config.run_dir={run_dir}", *map(str, settings)]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        bars = ("sft: 0/", "survey: ")
        lines = [line for line in err.splitlines() if not line.startswith(bars)]
        (line,) = lines
        assert line.startswith("error: ")
        return line.removeprefix("error: "), run_dir

    yield run
    root.handlers[:], root.level = handlers, level


def write(tmp_path, lines):
    path = tmp_path / "my.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file(tmp_path, command, name):
    lines, expected = WRONG[name]
    path = write(tmp_path, lines)
    line, run_dir = command(f"--config.data.path={path}")
    assert line.startswith(f"{path}{expected}"), line
    assert not run_dir.exists()


def test_a_key_that_is_ignored_is_no_longer_what_is_wrong(tmp_path, command):
    path = write(tmp_path, [json.dumps({**json.loads(GOOD), "prompt": "x"}), "{"])
    line, _ = command(f"--config.data.path={path}", "--config.data.ignore=prompt")
    assert line.startswith(f"{path}:2: line: unreadable JSON")


def test_a_run_folder_that_is_in_use_or_none(tmp_path, command):
    data = f"--config.data.path={write(tmp_path, [GOOD])}"
    with RunLock(tmp_path / "run"):
        line, run_dir = command(data)
        assert line.startswith(f"config.run_dir: {run_dir} is in use by process {os.getpid()} on ")
    assert not run_dir.exists()
    run_dir.touch()
    line, _ = command(data)
    assert line == f"config.run_dir: {run_dir} is a file; give a folder"


def test_no_such_file(tmp_path, command):
    line, run_dir = command(f"--config.data.path={tmp_path / 'mine.jsonl'}")
    assert line.startswith(f"{tmp_path / 'mine.jsonl'}: no such file; check data.path")
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (
            record(("user", "hi"), ("assistant", "0123456789" * 100)),
            "tokens do not fit a row of 512; raise sft.training.sequence_length",
        ),
        (
            json.dumps({"messages": [{"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]}]}),
            "messages[0].tool_calls[0].function.name: no server is known for tool 'teleport' (known: google_search,",
        ),
    ],
    ids=["longer than a row", "call of an unknown tool"],
)
def test_a_conversation_that_cannot_become_tokens(tmp_path, command, bad, expected):
    """Found before the first step; nothing is left that other settings could contradict."""
    path = write(tmp_path, [GOOD, bad, GOOD])
    settings = ("--config.tokenizer.vocab_size=400", "--config.data.call_format=mcp")
    line, run_dir = command(f"--config.data.path={path}", *settings)
    assert line.startswith(f"{path}:2: messages") and expected in line, line
    assert not run_dir.exists()


def test_too_few_conversations(tmp_path, command):
    path = write(tmp_path, [GOOD])
    settings = ("--config.data.shards=2", "--config.tokenizer.vocab_size=400")
    line, run_dir = command(f"--config.data.path={path}", *settings)
    assert line.startswith("data.shards is 2 for 1 conversations; lower it")
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "no such tokenizer file"), (b"not a model", "not a sentencepiece model")],
)
def test_a_wrong_tokenizer(tmp_path, command, content, expected):
    path = tmp_path / "my.model"
    if content is not None:
        path.write_bytes(content)
    line, _ = command(f"--config.data.path={write(tmp_path, [GOOD])}", f"--config.tokenizer.path={path}")
    assert line.startswith(f"{path}: {expected}")


def test_the_checkpoint_of_another_model(tmp_path, smoke, command):
    """Another size; and the right size with a tokenizer of its own."""
    data = f"--config.data.path={write(tmp_path, [GOOD])}"
    line, run_dir = command(
        data, f"--config.model.init_from={smoke.folder}", "--config.tokenizer.vocab_size=400"
    )
    assert f"{smoke.folder}/grpo/checkpoints holds a checkpoint of another model (" in line
    assert "hidden 32 → 128" in line and "tokenizer_sha256" in line and "init_from" in line
    assert not run_dir.exists()


def test_no_checkpoint_to_start_from(tmp_path, command):
    data = f"--config.data.path={write(tmp_path, [GOOD])}"
    line, _ = command(data, f"--config.model.init_from={tmp_path}", "--config.tokenizer.vocab_size=400")
    assert line.startswith(f"config.model.init_from: no checkpoint under {tmp_path}; give a run folder")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("--config.modle.hidden=8",), "unknown key config.modle.hidden; did you mean config.model.hidden?"),
        (("--config.data.path=nowhere.jsonl",), "nowhere.jsonl: no such file; check data.path"),
    ],
    ids=["config typo", "missing file"],
)
def test_as_a_process(tmp_path, settings, expected):
    code, out, err = finish(start(SFT, f"--config.run_dir={tmp_path / 'run'}", *settings))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"error: {expected}")
    assert not (tmp_path / "run").exists()
