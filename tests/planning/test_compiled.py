"""Whole steps compiled for TPUs that are not there: what fits, and that transfers hide (needs libtpu; slow)."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="pip install -e '.[tpu]'"),
]


def plan(tmp_path, *arguments):
    """The figures of the command, which must find that it fits."""
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "mirothinker_jax.plan", *arguments, "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(out.read_text())


def test_8b_at_256k_fits_and_hides_its_transfers(tmp_path):
    """Four rows on 64 v5p chips: every hop beside a kernel, no gather or scatter of a layer or of the head alone."""
    figures = plan(
        tmp_path,
        *("--config", "configs/mirothinker/sft.py:8b", "--topology", "v5p:4x4x4"),
        "--config.sft.training.batch_size=4",
    )
    assert figures["peak_gib_per_device"] <= 12
    assert figures["balance"] <= 1.02
    layers, hops = 36, 15
    in_hops = [t for t in figures["transfers"] if t["times"] >= (layers - 1) * hops]
    assert {t["kind"] for t in in_hops} >= {"collective-permute"}
    assert [t["name"] for t in in_hops if t["kind"] == "collective-permute" and not t["kernels"]] == []
    permutes = [t for t in figures["transfers"] if t["kind"] == "collective-permute"]
    assert (
        sum((t["seconds"] - t["hidden"]) * t["times"] for t in permutes) <= 0.001 * figures["step_s_estimate"]
    )
    of_parts = [t for t in figures["transfers"] if layers - 1 <= t["times"] < hops * (layers - 1)]
    large = [
        t
        for t in of_parts
        if t["kind"] in ("all-gather", "reduce-scatter", "all-reduce") and t["seconds"] > 1e-4
    ]
    assert len(large) >= 14 + 3, "seven matrices of a layer and parts of the head, forward and backward"
    assert [t["name"] for t in large if t["hidden"] == 0] == []
    assert figures["exposed_s_estimate"] <= 0.01 * figures["step_s_estimate"]


def test_a_mesh_need_not_follow_the_torus():
    """Two and 32 are no products of four, four and four."""
    code = (
        "import mirothinker_jax.plan as command\n"
        "from mirothinker_jax.planning.chips import parse\n"
        "topology = parse('v5p:4x4x4')\n"
        "command._compile_for(topology.chip)\n"
        "from mirothinker_jax.config import MeshConfig\n"
        "from mirothinker_jax.parallel.mesh import make_mesh\n"
        "from mirothinker_jax.planning.compiling import devices_of\n"
        "mesh = make_mesh(MeshConfig(fsdp=2, context=32), devices_of(topology))\n"
        "print(dict(mesh.shape)['fsdp'], dict(mesh.shape)['context'], len(set(mesh.devices.flat)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["2", "32", "64"], done.stderr[-2000:]


def test_a_v4_has_room_for_the_kernels_and_can_copy_their_results_to_its_host(tmp_path):
    """It refuses the other chips' blocks, and aborts where one row's log-sum-exps [1, H, T] are copied."""
    row = (
        "--config.model.remat=offload-all",
        "--config.sft.training.sequence_length=8192",
        "--config.sft.training.batch_size=4",
        "--config.sft.training.microbatch_size=4",
    )
    plan(tmp_path, *("--config", "configs/qwen/sft.py:qwen3-0.6b", "--topology", "v4:2x2x1"), *row)


def test_the_least_effort_says_about_as_much_of_memory_and_nothing_of_times(tmp_path):
    """Of a v5p that takes other flags otherwise."""
    row = (
        "--config.sft.training.batch_size=4",
        "--config.sft.training.microbatch_size=4",
        "--config.model.remat=offload-all",
    )
    step = ("--config", "configs/mirothinker/sft.py:8b", "--topology", "v5p:4x4x4", *row)
    figures = plan(tmp_path, *step, "--quick")
    assert figures["quick"] and figures["step_s_estimate"] is None and figures["transfers"] is None
    assert 5 <= figures["peak_gib_per_device"] <= 8, "6.4 with all effort"


@pytest.mark.parametrize(("tensor", "kv_heads"), [(2, 4), (4, 2)], ids=["heads apart", "two to a head"])
def test_a_hosts_sampler(tensor, kv_heads):
    """A small mixture of experts on a host of four chips, contexts of 32K: weights and pages as they are counted, and
    steps whose temporaries do not grow with the context."""
    code = f"""
import json
import mirothinker_jax.plan as command
from mirothinker_jax.planning.chips import GIB, parse
topology = parse("v5p:2x2x2")
command._compile_for(topology.chip)
from mirothinker_jax.config import AgentConfig, Config, ModelConfig, MoEConfig, RolloutConfig
from mirothinker_jax.planning.arithmetic import sampler
from mirothinker_jax.planning.sampling import plan_sampling
model = ModelConfig(
    vocab_size=8192, hidden=512, layers=2, heads=8, kv_heads={kv_heads}, head_dim=128, ffn=1024,
    compute_dtype="bfloat16", moe=MoEConfig(experts=16, experts_per_token=2, expert_ffn=256),
)
rollout = RolloutConfig(slots=8, tensor={tensor}, page_tokens=128, prefill_tokens=256, prefill_slots=4)
config = Config(model=model, rollout=rollout, agent=AgentConfig(context_tokens=32768))
found, rough = plan_sampling(config, "grpo", topology, float(GIB), 0.0), sampler(config, 4)
print(json.dumps([found.figures(), rough.weights / GIB, rough.pages / GIB]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    figures, weights, pages = json.loads(done.stdout)
    kinds = figures["gib_by_kind"]
    assert figures["fits"] and (figures["hosts"], figures["copies_per_host"], figures["turns"]) == (
        2,
        4 // tensor,
        16,
    )
    assert kinds["pages"] == pytest.approx(pages, rel=0.01) and figures["whole_contexts"] == 16
    assert kinds["weights"] == pytest.approx(weights, rel=0.05)
    assert 0 < kinds["temporaries"] < 0.1
    assert figures["peak_gib_per_device"] == pytest.approx(
        1 + sum(kinds[k] for k in ("weights", "pages", "temporaries"))
    )
    # A token of all turns takes no less than reading the pages of half contexts.
    read = figures["turns"] / figures["decode_tokens_per_s_estimate"]
    assert read >= kinds["pages"] / 2 * 2**30 / 2.8e12


def test_grpo_fits_with_room_for_its_sampler(tmp_path):
    """Micro-batches in a loop, whose count the data give; and a host's engine, beside parameters and optimizer."""
    figures = plan(
        tmp_path,
        *("--config", "configs/qwen/grpo.py:qwen3-0.6b", "--topology", "v5p:2x2x1"),
        "--config.grpo.training.microbatch_size=4",
    )
    kinds = figures["sampling"]["gib_by_kind"]
    assert kinds["trainer"] == figures["gib_by_kind"]["parameters"] + figures["gib_by_kind"]["optimizer"]
    assert (
        kinds["pages"] == pytest.approx(3.5, rel=0.01)
        and 6 <= figures["sampling"]["peak_gib_per_device"] <= 6.5
    )
    # 32 micro-batches: were their loop counted once, or as often as the head's, the share would be far from this.
    assert 0.3 < figures["mfu_estimate"] < 0.6


def test_a_million_tokens_fit(tmp_path):
    """Nothing grows with the square of the length, or with length times vocabulary."""
    figures = plan(
        tmp_path,
        *("--config", "configs/mirothinker/sft.py:8b", "--topology", "v5p:4x4x4"),
        *(
            "--config.mesh.context=64",
            "--config.sft.training.microbatch_size=1",
            "--config.sft.training.batch_size=1",
        ),
        *("--config.sft.training.sequence_length=1048576", "--config.data.shards=1"),
        *("--config.model.remat=offload-all", "--quick"),
    )
    assert figures["peak_gib_per_device"] <= 8
    assert 9 <= figures["host_gib_per_device"] <= 9.2, "attention's results and blocks' inputs of 36 layers"


def test_averages_in_the_hosts_memory_come_a_layer_at_a_time(tmp_path):
    """On the device there are parameters, their gradients, and less than the averages would take (2 of them) beside."""
    figures = plan(
        tmp_path,
        *("--config", "configs/qwen/sft.py:qwen3-0.6b", "--topology", "v5p:2x2x1"),
        *("--config.sft.training.batch_size=4", "--config.sft.training.microbatch_size=4"),
        *("--config.sft.training.sequence_length=512", "--config.sft.training.optimizer.offload=true"),
        "--quick",
    )
    kinds = figures["gib_by_kind"]
    assert kinds["optimizer"] < 0.001
    assert figures["host_gib_per_device"] == pytest.approx(2 * kinds["parameters"], rel=0.01)
    assert figures["peak_gib_per_device"] < 3.5 * kinds["parameters"]


def test_micro_batches_hold_no_copy_of_gradients_or_parameters(tmp_path):
    """Parameters, two averages, a sum of gradients, and what layers take: 4.85 times the parameters. With a copy of
    the parameters in bfloat16 5.02 times, and 5.8 with each micro-batch's gradients beside the sums too."""
    figures = plan(
        tmp_path,
        *("--config", "configs/qwen/sft.py:qwen3-0.6b", "--topology", "v5p:2x2x1"),
        *("--config.sft.training.batch_size=8", "--config.sft.training.microbatch_size=4"),
        "--config.sft.training.sequence_length=512",
    )
    assert figures["peak_gib_per_device"] < 4.95 * figures["gib_by_kind"]["parameters"]


SERVERS = ("--config.rollout.engine=remote", "--config.rollout.urls=http://localhost:8000")


@pytest.mark.parametrize(("size", "stage"), [("30b", "grpo"), ("72b", "dpo")])
def test_every_size_and_every_stage_fits(tmp_path, size, stage):
    """8B's SFT does, above. With the least effort, which says of memory what all effort does (above), in half the time.
    Both engines of a size are the same, and of DPO the trainer keeps less meanwhile, so only GRPO's is compiled.
    benchmarks/stage_plans.py has every pair."""
    servers = SERVERS if stage == "dpo" else ()
    config = f"configs/mirothinker/{stage}.py:{size}"
    figures = plan(tmp_path, "--config", config, "--topology", "v5p:4x4x4", "--quick", *servers)
    assert figures["fits"] and (figures["sampling"] is None) == (stage != "grpo")
