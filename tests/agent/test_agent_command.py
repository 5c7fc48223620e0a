"""`python -m mirothinker_jax.agent` against a chat endpoint and the embedded web, both on loopback."""

import io
import json
import re
import signal
import subprocess
import sys

import pytest
from chat_server import STALL, Failing, said, serving

from mirothinker_jax.agent.__main__ import NO_ANSWER, STOPPED, main
from mirothinker_jax.trajectory import journal

CORPUS = '{"url": "http://a.test/everest", "title": "Everest", "text": "Everest\\nIts height is 8,849 m."}\n'
ANSWER = "<think>known</think>It is \\boxed{8,849 m}"


@pytest.fixture
def ask(tmp_path, monkeypatch, capfd):
    """(script, …arguments) → (exit status, stdout, lines of stderr, the server)."""
    monkeypatch.chdir(tmp_path)
    for key in ("SERPER_API_KEY", "TAVILY_API_KEY", "BRAVE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    (tmp_path / "corpus.jsonl").write_text(CORPUS)

    def run(script, *arguments, search=("--config.tools.corpus=corpus.jsonl",), **options):
        script = script if isinstance(script, list) else [script]
        with serving(*script, **options) as server:
            try:
                status = main(["--policy", server.url, *search, *arguments])
            except SystemExit as error:
                status = error.code
        out, err = capfd.readouterr()
        return status, out, err.splitlines(), server

    return run


def calling(tool, **arguments):
    call = {"id": "1", "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
    return said(None, "tool_calls", tool_calls=[call], usage={"prompt_tokens": 900, "completion_tokens": 20})


def read_of(body):
    """What the last result says of a height, as the answer."""
    return f"\\boxed{{{re.search(r'[0-9],[0-9]+ m', body['messages'][-1]['content'])[0]}}}"


def test_a_question_and_its_answer(ask, tmp_path):
    reading = calling("scrape_and_extract_info", url="http://a.test/everest", info_to_extract="height")
    script = [calling("google_search", q="Everest"), reading, read_of]
    status, out, err, server = ask(script, "How high is Everest?")
    assert (status, out) == (0, "sources:\n  http://a.test/everest\n8,849 m\n")
    assert [re.sub(r"\d+\.\d s", "N s", line) for line in err[:4]] == [
        "  1 google_search Everest",
        "  1 google_search N s: 1. Everest http://a.test/everest Everest Its height is 8,849 m.",
        "  2 scrape_and_extract_info http://a.test/everest",
        "  2 scrape_and_extract_info N s: http://a.test/everest Its height is 8,849 m.",
    ]
    told = r"2 calls in 0 s, 1,800 tokens read, 40 written; the whole episode: (.+\.jsonl)"
    figures = re.fullmatch(told, err[4])
    assert figures and len(err) == 5
    (episode,) = journal.read(tmp_path / figures[1])
    assert (episode.question, episode.answer) == ("How high is Everest?", "8,849 m")
    roles = [m["role"] for m in episode.messages()]
    assert roles == ["system", "user", *["assistant", "tool"] * 2, "assistant"]
    assert episode.metadata["sources"] == ["http://a.test/everest"]
    assert episode.metadata["policy"] == f"m at {server.url.removesuffix('/v1')}"
    system, user = server.bodies[0]["messages"]
    assert '"name": "google_search"' in system["content"] and user["content"] == "How high is Everest?"
    assert (server.bodies[0]["max_tokens"], server.bodies[0]["top_p"]) == (4096, 0.95)


def test_without_calls_there_is_nothing_to_search(ask):
    status, out, _, server = ask(ANSWER, "How high is Everest?", "--preset", "none", search=())
    assert (status, out) == (0, "8,849 m\n")
    (body,) = server.bodies
    assert "google_search" not in str(body["messages"]) and body["max_tokens"] == 16384
    assert "repetition_penalty" not in body
    body = ask(ANSWER, "How high is Everest?", "--preset", "v1.5")[3].bodies[0]
    assert (body["temperature"], body["top_p"], body["repetition_penalty"]) == (1.0, 0.95, 1.05)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (said("so", "length"), "a turn was cut at agent.turn_tokens (4096)"),
        ("It \x1b[2Jdepends.", "nor gave a boxed answer; it said: It [2Jdepends."),
        ("\\boxed{unknown}", "the model gave up"),
        (Failing(429, {"error": {"code": "insufficient_quota", "message": "pay"}}), "HTTP 429: pay"),
    ],
)
def test_no_answer_says_why(ask, answer, message):
    status, out, err, _ = ask(answer, "Why?")
    assert (status, out) == (NO_ANSWER, "")
    assert err[-1].startswith("no answer: ") and message in err[-1]


def test_one_question_after_another(ask, monkeypatch, tmp_path):
    lines = "How high is Everest?\n\nWhat?\nAnd K2?\n/new\nAnd Lhotse?\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    refusing = Failing(400, "not\x1b[2J this")
    status, out, err, server = ask([ANSWER, refusing, "no box", ANSWER], "--interactive", "--out", "mine")
    assert (status, out) == (0, "8,849 m\n8,849 m\n")
    assert any(line.startswith("error: ") and line.endswith("HTTP 400: not[2J this") for line in err)
    first, _, second, third = (body["messages"][-1]["content"] for body in server.bodies)
    assert (first, third) == ("How high is Everest?", "And Lhotse?")
    assert second.endswith("- How high is Everest? Answer: 8,849 m\n\nAnd K2?")
    assert len(list((tmp_path / "mine").glob("*.jsonl"))) == 3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "there is no question; give one in quotes, or --interactive"),
        (("Why?", "--no-such"), {}, "unrecognized arguments: --no-such"),
        (("Why?", "--policy", "runs/mine"), {}, "there is no such folder"),
        (("Why?", "--config.agent.max_cals=3"), {}, "did you mean config.agent.max_calls?"),
        (("Why?",), {"search": ()}, "there is nowhere to search: set SERPER_API_KEY"),
        (("Why?",), {"models": Failing(401, "no")}, "set the environment variable OPENAI_API_KEY"),
        (("Why?",), {"models": [{"id": "a"}, {"id": "b"}]}, "serves a, b; name one by --model"),
        (("Why?", "--config.agent.turn_tokens=20000"), {}, "it takes at least"),
        (("Why?", "--chars-per-token", "0"), {}, "--chars-per-token is 0.0; it must be > 0"),
        (("Why?", "--out", "corpus.jsonl"), {}, "corpus.jsonl: File exists; name a folder of yours by --out"),
    ],
)
def test_what_is_wrong_is_one_line(ask, arguments, options, message):
    status, out, err, _ = ask(ANSWER, *arguments, **options)
    assert (status, out) == (2, "") and message in err[-1]
    assert err[-1].startswith("error: ") and len([line for line in err if "rror" in line]) == 1


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert "--policy http://localhost:8000/v1" in text and "SERPER_API_KEY" in text and "Exit status" in text


RUN = """
import sys
from mirothinker_jax.agent.__main__ import main
status = main(sys.argv[1:])
assert not {"jax", "flax", "torch"} & sys.modules.keys(), "imported for a URL"
sys.exit(status)
"""


def test_a_command_without_jax_that_can_be_stopped(tmp_path):
    """On the embedded web, whose process goes with it. Ctrl-C stops a question; at the prompt it ends the command."""
    arguments = ["--config.tools.search=world", "--config.world.max_entities=40", "--interactive"]
    with serving(calling("google_search", q="airport"), STALL) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "--policy", server.url, *arguments, "Why?"],
            cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        lines = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        lines.append(process.stderr.readline())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert lines[1] == "  1 google_search airport\n"
    assert " s: 1. " in lines[2] and "http://" in lines[2]
    assert lines[3] == "stopped; ask another one\n"
    assert (process.returncode, out, err) == (STOPPED, "", "stopped\n")
    (path,) = (tmp_path / "runs" / "asked").glob("*-why.jsonl")  # what was done before it was stopped
    known = journal.History(path).unfinished["ask-1"]
    assert (len(known.turns), list(known.calls)) == (1, ["ask-1:1.0"])
