"""A benchmark from file to figures, through a judge over HTTP that fails, stalls, limits and babbles at a tenth of its
calls each, killed in the middle."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import benchmark_run
import pytest
from aiohttp import web
from benchmark_files import write
from benchmark_run import QUESTIONS, RUNS, is_right, said

from mirothinker_jax.evals.figures import figures
from mirothinker_jax.evals.rejudge import rejudge
from mirothinker_jax.evals.repeated import pass_at


class Judge:
    """On a thread of its own, so that it answers a process and this one. After 8 verdicts it waits for `go`."""

    def __init__(self):
        self.calls, self.judged, self.ready, self.go = 0, [], threading.Event(), threading.Event()

    async def _handle(self, request):
        self.calls += 1
        prompt = (await request.json())["messages"][0]["content"]
        while len(self.judged) >= 8 and not self.go.is_set():
            await asyncio.sleep(0.01)
        trouble = {1: "fail", 3: "stall", 5: "limit", 8: "babble"}.get(self.calls % 10)
        if trouble == "fail":
            return web.Response(status=503)
        if trouble == "limit":
            return web.Response(status=429, headers={"Retry-After": "0.01"})
        if trouble == "stall":
            await asyncio.sleep(0.6)
        reference = re.search(r"Reference answer:\n(.*)\n", prompt)[1]
        response = json.loads(re.search(r"Response:\n(.*)\n", prompt)[1])
        self.judged.append(response)
        verdict = "CORRECT" if re.search(rf"\b{reference}\b", response) else "INCORRECT"
        text = "Well, it depends." if trouble == "babble" else f"Compared.\n{verdict}"
        return web.json_response({"choices": [{"message": {"content": text}}]})

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self.ready.wait(30)
        return self

    async def _serve(self):
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self.ready.set()
        await self._end.wait()
        await runner.cleanup()

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


def test_a_whole_benchmark_killed_in_the_middle(tmp_path):
    data = tmp_path / "gaia"
    data.mkdir()
    rows = []
    for i in range(QUESTIONS):
        file = f"table {i}.csv" if i % 5 == 0 else ""
        if file:
            (data / file).write_text("a,b\n1,2\n")
        rows.append({"task_id": f"t{i}", "Question": f"Which is town {i}?", "Level": 1 + i % 3})
        rows[-1] |= {"Final answer": f"Town {i}", "file_name": file}
    file, journal = write(data / "metadata.jsonl", rows), tmp_path / "episodes.jsonl"
    with Judge() as judge:
        command = [sys.executable, benchmark_run.__file__, file, judge.url, str(journal)]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
        deadline = time.monotonic() + 120
        while len(judge.judged) < 8 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        judge.go.set()
        ended = journal.read_text().count('"event": "end"')
        assert 0 < ended < QUESTIONS * RUNS
        environment, runs, tools = benchmark_run.run(file, judge.url, journal)
        found = figures("gaia", runs)
        # What ended before the kill was not run again, and all that there is to judge was judged once.
        assert len(tools.files) <= QUESTIONS * RUNS - ended + 4
        assert tools.files["eval/t5#2"] == (str(data / "table 5.csv"),) and tools.files["eval/t6#2"] == ()
        assert journal.read_text().count('"event": "end"') == QUESTIONS * RUNS
        truth = [[is_right(i, r) for i in range(QUESTIONS)] for r in range(RUNS)]
        assert [[t.correct for t in one] for one in runs] == truth
        assert (found["unjudged"], found["broken"], found["episodes"]) == (0, 0, QUESTIONS * RUNS)
        assert found["by_run"] == [sum(one) / QUESTIONS for one in truth] and found["accuracy"] == 0.5
        right = [sum(one[i] for one in truth) for i in range(QUESTIONS)]
        draws = sum(pass_at(2, RUNS, c) for c in right) / QUESTIONS
        assert found["pass_at"]["2"] == pytest.approx(draws, rel=1e-12)
        # GAIA's string scorer does not see that "the place called Town 4, of course" is Town 4.
        assert found["string_accuracy"] == 0.25
        # Judged again, all verdicts are remembered, and no question is asked.
        calls = judge.calls
        tasks = {task.id: task for task in environment.questions.tasks}
        assert asyncio.run(rejudge(Path(journal), tasks, environment.grader)) == 0 and judge.calls == calls
    # The judge is asked of what needs it: neither of what is the same in text, nor of nothing.
    wanted = {said(i, r) for i in range(QUESTIONS) for r in range(RUNS) if (i + r) % 4 in (0, 2)}
    assert set(judge.judged) == wanted
