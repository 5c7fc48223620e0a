"""The command: what it refuses in a line, and one real start, asked and ended by Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from mirothinker_jax import serve


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--policy", "{tmp}"], "a folder without a config.json; give a run"),
        (["--policy", "{tmp}/nowhere"], r"there is no such folder \(now in .*\); give a run"),
        (["--policy", "http://localhost:1"], "which is served already; give a folder"),
        (["--policy", "{policy}", "--api-key-env", "NO_SUCH_KEY"], "--api-key-env: NO_SUCH_KEY is not set"),
        (["--policy", "{policy}", "--config.rollout.slot=3"], "config.rollout.slot"),
        (
            ["--policy", "{policy}", "--host", "256.1.1.1"],
            "cannot listen at 256.1.1.1, port 0: .*; give another --host",
        ),
    ],
)
def test_what_cannot_be_served_is_told_in_a_line(tmp_path, policies, capsys, arguments, said):
    settings = [
        "--config.tokenizer.template=chatml",
        "--config.agent.context_tokens=128",
        "--config.agent.turn_tokens=64",
    ]
    settings += [
        "--config.rollout.slots=8",
        "--config.rollout.prefill_tokens=8",
        "--config.rollout.prefill_slots=8",
    ]
    where = [a.format(tmp=tmp_path, policy=policies[0]) for a in arguments]
    assert serve.main([*where, "--port", "0", *settings]) == 2
    error = capsys.readouterr().err
    assert re.search(rf"^error: .*{said}", error, re.MULTILINE) and len(error.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_lets_a_turn_end(policies):
    """A chat is answered; a long stream that has begun when the signal comes is whole."""
    command = [sys.executable, "-m", "mirothinker_jax.serve", "--policy", str(policies[0]), "--port", "0"]
    command += ["--config.tokenizer.template=chatml", "--config.agent.context_tokens=256"]
    command += ["--config.agent.turn_tokens=64"]
    command += [
        "--config.rollout.slots=2",
        "--config.rollout.prefill_slots=1",
        "--config.rollout.decode_steps=2",
    ]
    environment = os.environ | {"XLA_FLAGS": ""}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if " at http" in line)
            url = re.search(r"at (http://127\.0\.0\.1:\d+) ", line)[1]
            headers = {"Content-Type": "application/json"}

            def ask(path, body):
                body = json.dumps(body).encode()
                return urllib.request.urlopen(urllib.request.Request(url + path, body, headers), timeout=60)

            with ask(
                "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
            ) as answer:
                assert json.load(answer)["model"] == "tiny-0"
            with ask(
                "/v1/completions", {"prompt": "x", "max_tokens": 200, "seed": 1, "stream": True}
            ) as stream:
                first = stream.readline()
                process.send_signal(signal.SIGINT)
                events = [first, *stream]
            assert events[-2] == b"data: [DONE]\n"
            assert json.loads(events[-4][6:])["choices"][0]["finish_reason"] in ("length", "stop")
            assert process.wait(60) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
