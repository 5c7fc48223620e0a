"""`python -m mirothinker_jax.evaluate` against a chat endpoint and a corpus, both on loopback."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chat_server import Failing, said, serving

from mirothinker_jax.agent import prompt as prompts
from mirothinker_jax.evaluate import OUTAGE, main

CORPUS = "".join(
    json.dumps(
        {"url": f"http://a.test/{n}", "title": f"Hill {n}", "text": f"Hill {n}\nIts height is {n}00 m."}
    )
    + "\n"
    for n in range(6)
)
CALL = '<tool_call>\n{"name": "google_search", "arguments": {"q": "Hill"}}\n</tool_call>'


def height(body):
    """Searches once; then says the height, or another one for every third seed."""
    if len(body["messages"]) < 4:
        return said(CALL, reasoning_content="look it up")
    number = int(body["messages"][1]["content"].split()[-1].rstrip("?"))
    return said(f"\\boxed{{{number}00 m}}" if body["seed"] % 3 else "\\boxed{7 m}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key in ("SERPER_API_KEY", "TAVILY_API_KEY", "BRAVE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    (tmp_path / "corpus.jsonl").write_text(CORPUS)
    questions = [
        {"id": f"q{n}", "question": f"How high is Hill {n}?", "answer": f"{n}00 m"} for n in range(1, 6)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    return tmp_path


def arguments(url, *more, search=("--config.tools.corpus=corpus.jsonl",)):
    return ["--policy", url, "--tasks", "q.jsonl", "--out", "out", *search, *more]


@pytest.fixture
def evaluate(folder, capfd):
    """(script, …arguments) → (exit status, stdout, stderr, requests that the endpoint had)."""

    def run(script, *more, **options):
        with serving(script) as server:
            try:
                status = main(arguments(server.url, *more, **options))
            except SystemExit as error:
                status = error.code
        return status, *capfd.readouterr(), len(server.bodies)

    return run


def summary(folder="out"):
    return json.loads(Path(folder, "summary.json").read_text())


def answers(folder="out"):
    return [json.loads(line) for line in Path(folder, "answers.jsonl").read_text().splitlines()]


def test_figures_and_files(evaluate):
    status, out, err, requests = evaluate(height, "--runs", "4")
    assert (status, requests) == (0, 40), err
    found = summary()
    right = sum(a["correct"] for a in answers())
    assert len(answers()) == 20 and 0 < right < 20
    assert found["accuracy"]["mean"] == pytest.approx(right / 20) == pytest.approx(sum(found["by_run"]) / 4)
    assert found["accuracy"]["low"] < right / 20 < found["accuracy"]["high"]
    assert (found["accuracy"]["n"], found["questions"], found["calls"]) == (20, 5, 1.0)
    assert found["stops"] == {"answered": 20} and found["unit"] == "characters"
    assert f"accuracy  {right / 20:.3f}  [" in out and "5 questions × 4" in out
    assert "accuracy=" in err  # of the bar
    # Nothing is missing: nothing is asked, and the figures stay.
    assert evaluate(height, "--runs", "4")[3] == 0 and summary() == found
    # More runs go on.
    assert evaluate(height, "--runs", "5")[3] == 10 and summary()["by_run"][:4] == found["by_run"]


def test_two_policies_are_compared_by_what_they_left(evaluate, capfd):
    """The second says a wrong height of Hills 4 and 5, where the first is right."""

    def at_most_three(body):
        answer = height(body)
        asked = body["messages"][1]["content"].split("?")[0]
        return said("\\boxed{7 m}") if asked.endswith(("4", "5")) else answer

    always = {"seed": 1}
    assert evaluate(lambda body: height(body | always), "--out", "first")[0] == 0
    assert evaluate(lambda body: at_most_three(body | always), "--out", "second")[0] == 0
    assert main(["--compare", "first", "second", "--out", "compared"]) == 0
    shown = capfd.readouterr().out
    assert "better by -0.400" in shown and "lost      q4, q5\n" in shown and "p = 0.5 (McNemar)" in shown
    (found,) = json.loads(Path("compared", "comparison.json").read_text())["comparisons"]
    assert [q["answers"] for q in found["questions"]] == [[["400 m"], ["7 m"]], [["500 m"], ["7 m"]]]
    assert found["apart"] == [] and found["first"]["policy"] == {"model": "m"}


def test_killed_and_started_again_gives_the_same_figures(evaluate, folder):
    """SIGKILL at two moments; what was finished is not asked again."""
    status, _, err, needed = evaluate(height, "--runs", "2")
    assert (status, needed) == (0, 20), err
    Path("out").rename("whole")
    process, served, lock = None, [], threading.Lock()

    def deadly(body):
        with lock:
            served.append(json.dumps([body["seed"], body["messages"]]))
            if len(served) in (5, 14):
                os.kill(process.pid, signal.SIGKILL)
        return height(body)

    with serving(deadly) as server:
        command = [sys.executable, "-m", "mirothinker_jax.evaluate"]
        command += arguments(server.url, "--runs", "2", "--concurrency", "2")
        statuses = []
        while 0 not in statuses and len(statuses) < 5:
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            err = process.communicate()[1]
            statuses.append(process.returncode)
    assert statuses == [-signal.SIGKILL] * 2 + [0], err
    assert summary() == summary("whole") and answers() == answers("whole")
    # Only the turns on the way when the process was killed, two each time, were asked for again.
    assert len(set(served)) == needed and len(served) <= needed + 2 * 2


def test_an_evaluation_keeps_the_day_that_it_began_with(evaluate, folder, monkeypatch):
    (folder / "system.txt").write_text("It is $date.")
    seen = []

    def ask(body):
        seen.append(body["messages"][0]["content"].splitlines()[0])
        return height(body)

    prompt = ("--limit", "1", "--config.agent.system_prompt_file=system.txt")
    for runs, day in (("1", "2026-03-05"), ("2", "2026-03-06")):
        monkeypatch.setattr(prompts, "today", lambda day=day: day)
        assert evaluate(ask, "--runs", runs, *prompt)[0] == 0
    assert seen == ["It is 2026-03-05."] * 4
    status, _, err, _ = evaluate(ask, "--runs", "3", *prompt, "--config.agent.date=2026-03-06")
    assert status == 2 and "agent.date: 2026-03-05 → 2026-03-06" in err


class SearchService:
    """A search service that can go away."""

    def __enter__(self):
        self.down, self.refused, service = False, 0, self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                hits = {"organic": [{"title": "Hill", "link": "http://a.test/1", "snippet": "100 m"}]}
                service.refused += service.down
                body = json.dumps({} if service.down else hits).encode()
                self.send_response(503 if service.down else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/search"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_an_outage_of_the_search_leaves_nothing_wrong_behind(evaluate, monkeypatch):
    """A model that answers without what it could not find is not taken for a wrong one."""
    monkeypatch.setenv("SERPER_API_KEY", "k")
    with SearchService() as service:
        search = ("--config.tools.search=serper", f"--config.tools.search_url={service.url}")
        search += ("--config.tools.retries=0",)
        status, _, err, _ = evaluate(height, "--runs", "2", search=search)
        assert status == 0, err
        Path("out").rename("whole")
        asked = []

        def breaking(body):
            asked.append(body)
            service.down = len(asked) > 7
            result = body["messages"][-1]["content"]
            if len(body["messages"]) >= 4 and "100 m" not in result:
                return said("Nothing can be found. \\boxed{0 m}")
            return height(body)

        status, _, err, _ = evaluate(breaking, "--runs", "2", "--concurrency", "1", search=search)
        assert status == OUTAGE and service.refused > 0, err
        (line,) = [line for line in err.splitlines() if line.startswith("error")]
        assert "2 of 10 episodes broke" in line and "start again" in line
        service.down = False
        status, _, err, requests = evaluate(height, "--runs", "2", search=search)
        assert status == 0 and 0 < requests < 20, err
        assert summary() == summary("whole") and answers() == answers("whole")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--config.agent.max_calls=3"], "agent.max_calls: 50 → 3"),
        (["--config.evaluation.temperature=0"], "evaluation.temperature: 1.0 → 0.0"),
        (["--model", "other"], "policy.model: m → other"),
        (["--tasks", "other.jsonl"], "another question with the id 'q1'"),
        (["--config.agent.final_prompt_file=ask.txt"], "agent.final_prompt_file: → ask.txt"),
    ],
)
def test_other_settings_in_one_folder_are_refused_by_name(evaluate, folder, more, said):
    (folder / "other.jsonl").write_text('{"id": "q1", "question": "Who?", "answer": "me"}\n')
    (folder / "ask.txt").write_text("Answer now.")
    assert evaluate(height, "--limit", "2")[0] == 0
    before = sorted((path, path.read_bytes()) for path in Path("out").iterdir())
    status, _, err, _ = evaluate(height, "--limit", "3", *more)
    assert status == 2 and said in err and "give another --out" in err and len(err.splitlines()) == 1
    assert sorted((path, path.read_bytes()) for path in Path("out").iterdir()) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--policy", "nowhere"], "no such folder"),
        (["--policy", "."], "a folder without a config.json"),
        (["--tasks", "none.jsonl"], "none.jsonl: no such file; check tasks.heldout"),
        (["--runs", "0"], "--runs is 0; it must be ≥ 1"),
        (["--preset", "v9"], "invalid choice"),
        (["--config.agent.max_cals=3"], "did you mean config.agent.max_calls?"),
        (["--config.agent.context_tokens=5000"], "it takes at least"),
        (["--sft", "x"], "unrecognized arguments"),
    ],
)
def test_what_is_given_wrong_is_said_in_a_line(evaluate, more, said):
    status, out, err, requests = evaluate(height, *more)
    assert (status, out, requests) == (2, "", 0) and said in err and len(err.splitlines()) == 1
    assert not Path("out").exists()


def test_an_endpoint_that_refuses_the_key(evaluate):
    status, _, err, _ = evaluate(Failing(401, "wrong key"))
    assert status == 2 and "OPENAI_API_KEY" in err.splitlines()[-1]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = capsys.readouterr().out
    assert "--policy runs/my-run --tasks questions.jsonl --runs 4" in out and "--export sft.jsonl" in out
    assert max(map(len, out.splitlines())) <= 120
