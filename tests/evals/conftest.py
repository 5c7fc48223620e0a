"""A run folder as the pipeline leaves it, with figures drawn from a seed and a script in a tool's reply."""

import itertools
import json
import math

import numpy as np
import pytest

from mirothinker_jax.config import Config, default
from mirothinker_jax.config_tree import build, to_plain
from mirothinker_jax.evals.report import write_report
from mirothinker_jax.evals.statistics import wilson
from mirothinker_jax.evals.summary import write_summary
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory

SCRIPT = "<script>alert('page')</script>"
BUDGETS = (0, 1, 2, 4, 8, 16, 32)
CURVES = {
    "sft": (3, 60, 110, 121, 118, 124, 120),
    "dpo": (4, 58, 118, 135, 139, 141, 138),
    "grpo": (4, 63, 131, 196, 236, 249, 251),
}


def trajectory(stage, number, correct, hops):
    """An episode as it is evaluated: follow `hops` links, then answer."""
    airports = ["KTM", "LUA", "BIR", "TMI", "PPL"]
    path = ", ".join(["north", "east", "higher", "nearest"][:hops])
    question = f"Find the city: go {path or 'nowhere'} from KTM."
    prompt = (("system", "You are a research agent."), ("user", question))
    segments = [Segment(Source.PROMPT, (1, 2, 3), prompt)]
    for here, there in itertools.islice(itertools.pairwise(airports), hops):
        said = (
            f"<think>I am at {here}; its page names the next one.</think><use_mcp_tool><server_name>"
            "jina_scrape_llm_summary</server_name><tool_name>scrape_and_extract_info</tool_name><arguments>"
            + json.dumps({"url": f"http://airports.test/{here}", "info_to_extract": "north"})
            + "</arguments></use_mcp_tool>"
        )
        seen = f"{here}\nnorth: [{there}](http://airports.test/{there}) {SCRIPT} "
        segments.append(Segment(Source.POLICY, (7, 8), (("assistant", said),), (-0.5, -0.25)))
        segments.append(Segment(Source.OBSERVATION, (9,), (("tool", seen),)))
    answer = "Tumlingtar" if correct else "Pokhara & <b>Bharatpur</b>"
    last = f"<think>The page says so.</think>\\boxed{{{answer}}}"
    segments.append(Segment(Source.POLICY, (5,), (("assistant", last),), (-0.5,)))
    return Trajectory(
        id=f"{stage}-{number}",
        question_id=f"q{number}",
        question=question,
        expected="Tumlingtar",
        answer=answer,
        stop=Stop.ANSWERED,
        calls=hops,
        failed_calls=int(hops > 2),
        malformed_calls=0,
        segments=tuple(segments),
        reward=float(correct),
        correct=correct,
        metadata={"hops": hops},
        metrics={"max_calls": 32},
    )


def metrics(stage, steps, rng):
    """Lines of metrics.jsonl that look like training: noisy, falling, one step skipped."""
    for step in range(steps):
        done = step / steps
        line = {"stage": stage, "step": step, "time_s": 1.0 * step}
        loss = {"sft": 4 * math.exp(-4 * done) + 0.3, "dpo": 0.69 - 0.3 * done, "grpo": -0.02}[stage]
        line["loss"] = None if step == 7 else round(loss + rng.normal(0, 0.03), 5)
        line["grad_norm"] = round(1.2 - 0.5 * done + abs(rng.normal(0, 0.1)), 4)
        line |= {"learning_rate": 1e-3 * (1 - done), "tokens_per_s": 21000 + rng.normal(0, 300), "skipped": 0}
        if stage == "dpo":
            line |= {"margin": 1.4 * done, "preference_accuracy": 0.5 + 0.4 * done}
        if stage == "grpo":
            line |= {
                "reward": round(0.35 + 0.5 * done + rng.normal(0, 0.04), 4),
                "calls": round(2.1 + 2.4 * done + rng.normal(0, 0.1), 3),
                "episode_tokens": round(290 + 110 * done + rng.normal(0, 4), 1),
                "logprob_gap": abs(rng.normal(0, 2e-6)),
            }
        yield json.dumps({k: float(v) if isinstance(v, np.floating) else v for k, v in line.items()})


@pytest.fixture
def run_folder(tmp_path):
    """The path of a folder of the test's own: it may remove or damage files in it."""
    return make_run(tmp_path / "toy <run>")


@pytest.fixture(scope="session")
def rendered_run(tmp_path_factory):
    """The path of a folder with its report.html, for tests that only look."""
    run = make_run(tmp_path_factory.mktemp("runs") / "toy <run>")
    write_report(run)
    return run


def make_run(run):
    run.mkdir()
    rng = np.random.default_rng(0)
    lines = [line for s, n in (("sft", 300), ("dpo", 60), ("grpo", 90)) for line in metrics(s, n, rng)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    n = 300
    scaling = {s: dict(zip(BUDGETS, (wilson(k, n) for k in c), strict=True)) for s, c in CURVES.items()}
    depth = {"sft": (58, 49, 10, 3), "dpo": (59, 55, 19, 5), "grpo": (60, 68, 65, 58)}
    write_summary(
        run,
        accuracy={s: curve[32] for s, curve in scaling.items()},
        scaling=scaling,
        by_hops={s: {h: wilson(k, 75) for h, k in enumerate(c, 1)} for s, c in depth.items()},
        wall_s=791.4,
        peak_rss_gib=2.317,
        seed=0,
        phases={
            "tokenizer": 3.2,
            "sft": 141.0,
            "pairs": 48.5,
            "dpo": 44.1,
            "grpo": 431.0,
            "evaluation": 118.0,
        },
        stop_reasons={s: {"answered": 280, "forced": 14, "length": 6} for s in CURVES},
        calls_per_episode={"sft": 2.41, "dpo": 2.6, "grpo": 4.12},
        device="cpu, 2 cores",
        versions={"jax": "0.10.2", "python": "3.11.7"},
    )
    config = default()
    config.seed, config.stages, config.model.hidden = 0, ("sft", "dpo", "grpo"), 96
    config.grpo.training.sequence_length = 3072
    config.tokenizer.symbols = ('{"url": "', " ")
    (run / "config.json").write_text(json.dumps(to_plain(build(Config, config))))
    for stage, rate in (("sft", 3), ("dpo", 2), ("grpo", 6)):
        (run / stage).mkdir()
        episodes = [trajectory(stage, i, i % rate != 0, i % 5) for i in range(40)]
        journal.write(run / stage / "eval_trajectories.jsonl", episodes)
    return run
