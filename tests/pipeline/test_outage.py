"""The search service goes away in the middle of a collection, and comes back."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest

from mirothinker_jax import train
from mirothinker_jax.config import AgentConfig, Config, SFTConfig, ToolsConfig, WorldConfig
from mirothinker_jax.pipeline import run as pipeline
from mirothinker_jax.pipeline.corpus import write_expert_episodes
from mirothinker_jax.pipeline.endings import OUTAGE
from mirothinker_jax.rollout.collect import OutageError
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.trajectory import journal
from mirothinker_jax.world.environment import WorldEnvironment
from mirothinker_jax.world.server import WorldServer

ROOT = Path(__file__).resolve().parents[2]


class Fuse:
    """A progress bar that calls `burn` at the `at`th episode."""

    def __init__(self, at, burn=None):
        self.left, self.burn = at, burn

    def update(self, count):
        self.left -= count
        if self.left == 0:
            self.burn()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_outage_in_the_middle_leaves_nothing_wrong_behind(tmp_path):
    """The embedded web is killed by SIGKILL after six of thirty episodes. Those under way, and those that gave up for
    want of an answer, count for nothing. Started again, all end as they end undisturbed; no turn is played twice."""
    # No call fails by design: what fails is the outage, whatever it strikes.
    settings = WorldConfig(max_entities=60, max_hops=2, slow_call=0.0, failing_call=0.0, port=free_port())
    config = Config(
        world=settings,
        tools=ToolsConfig(names=("google_search", "scrape_and_extract_info"), concurrency=4),
        agent=AgentConfig(max_calls=8),
        sft=SFTConfig(expert_mistake_rate=0.2, expert_calls=8),
    )
    tasks = WorldEnvironment(settings, 0, None, list).tasks("train", 30, 0)

    def play(path, fuse):
        with WorldServer(settings, 0) as server:
            fuse.burn = lambda: os.kill(server.pid, signal.SIGKILL)
            write_expert_episodes(path, config, tasks, build_tools(config.tools, server.proxy_url, ""), fuse)

    whole, path = tmp_path / "whole" / "expert.jsonl", tmp_path / "out" / "expert.jsonl"
    play(whole, Fuse(at=1000))
    with pytest.raises(OutageError, match=r"^\d of 30 episodes broke, .*start again: what is done is kept$"):
        play(path, Fuse(at=6))
    play(path, Fuse(at=1000))
    assert path.read_bytes() == whole.read_bytes()
    ours, theirs = (
        sorted(journal.read(p.with_name("expert_episodes.jsonl")), key=lambda t: t.id) for p in (path, whole)
    )
    assert ours == theirs and len(ours) == 30
    lines = path.with_name("expert_episodes.jsonl").read_text("utf-8").splitlines()
    turns = [
        (e["episode"], e["context"]) for e in (json.loads(line[9:]) for line in lines) if e["event"] == "turn"
    ]
    assert len(turns) == len(set(turns))


def test_the_command_when_services_are_down(tmp_path, monkeypatch, capfd):
    def down(*_):
        raise OutageError("5 of 40 episodes broke, because\nof the search service")

    monkeypatch.setattr(pipeline, "run", down)
    config = str(ROOT / "configs" / "toy" / "smoke.py")
    assert train.main(["--config", config, f"--config.run_dir={tmp_path}"]) == OUTAGE == 75
    assert capfd.readouterr() == ("", "error: 5 of 40 episodes broke, because of the search service\n")
