"""The command, where no compiler is needed: GPUs by arithmetic, advice, and mistakes in one line."""

import dataclasses
import json

import pytest

from mirothinker_jax.config import ConfigError
from mirothinker_jax.flags import parse as parse_config
from mirothinker_jax.plan import main
from mirothinker_jax.planning import chips, report
from mirothinker_jax.planning.advice import advise
from mirothinker_jax.planning.chips import GPUS, parse
from mirothinker_jax.planning.plan import make_plan
from mirothinker_jax.planning.schedule import Schedule, Transfer
from mirothinker_jax.planning.sweep import sweep

QWEN = ("--config", "configs/qwen/sft.py:qwen3-8b")
SWEEP = ("--topology", "h100", "--sweep")


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_a_plan_by_arithmetic(capsys, tmp_path):
    out = tmp_path / "new" / "plan.json"
    assert main([*QWEN, "--topology", "h100:8", "--json", str(out)]) == 0
    said, figures = capsys.readouterr().out, json.loads(out.read_text())
    assert "the training step fits" in said and "by arithmetic" in said
    assert figures["fits"] and not figures["compiled"] and figures["step_s_estimate"] is None
    assert "--config.sft.training.microbatch_size=16" in figures["settings"]


@pytest.mark.parametrize(
    ("share", "quick", "fits", "sure"),
    [
        (0.93, True, True, False),
        (0.91, True, True, True),
        (0.99, False, True, True),
        (0.5, True, False, False),
    ],
)
def test_near_the_limit_the_least_effort_is_not_sure(share, quick, fits, sure):
    """Of a device's memory; a host may have no room where the device has."""
    config, topology = parse_config([*QWEN]), parse("h100:8")
    compiled = dataclasses.replace(make_plan(config, "sft", topology), compile_s=1.0)
    near = dataclasses.replace(compiled, quick=quick, trains=fits, peak_gib=share * topology.chip.memory_gib)
    assert near.figures()["sure"] is sure
    assert ("PERHAPS" in report.text(near)) is (fits and not sure)


@pytest.mark.parametrize("stage", ["dpo", "grpo"])
@pytest.mark.parametrize(("model", "gib"), [("qwen2.5-0.5b", 9), ("qwen3-1.7b", 29), ("qwen3-4b", 66)])
def test_stages_of_small_models_fit_one_gpu(stage, model, gib):
    """As the configs' docstrings say; and so does sampling, beside parameters and, after a step, the optimizer."""
    plan = make_plan(parse_config(["--config", f"qwen/{stage}:{model}"]), stage, parse("h100:1")).figures()
    assert plan["fits"] and plan["peak_gib_per_device"] < gib
    kinds, sampling = plan["gib_by_kind"], plan["sampling"]
    kept = kinds["parameters"] + (kinds["optimizer"] if stage == "grpo" else 0)
    assert sampling["fits"] and sampling["gib_by_kind"]["trainer"] == kept


MODEL = ("--config", "qwen/grpo:qwen3-4b", "--topology", "h100:1")
GROWN = "--config.rollout.slots=64"  # 64 contexts of 8K tokens: 72 GiB


def test_a_plan_fits_where_step_and_sampling_do(capsys, tmp_path):
    """What is advised fits. Servers take nothing of these devices; asynchronous sampling is beside the whole step."""
    out = tmp_path / "plan.json"

    def plan(*settings):
        status = main([*MODEL, *settings, "--json", str(out)])
        figures = json.loads(out.read_text())
        assert figures["training_fits"] and figures["fits"] == (status == 0)
        return figures

    figures = plan(GROWN)
    said = capsys.readouterr().out
    assert not figures["fits"] and "sampling DOES NOT FIT: 1" in said and "the training step fits" in said
    pages, servers = (c["what"] for c in figures["changes"])
    assert pages.startswith("--config.rollout.pages=")
    assert plan(GROWN, pages)["sampling"]["peak_gib_per_device"] > 0.96 * figures["hbm_gib_per_device"]
    assert plan(GROWN, *servers.split())["sampling"] is None
    waits, ahead = (plan("--config.grpo.loss=clip", f"--config.grpo.staleness={n}") for n in (0, 1))
    assert ahead["sampling"]["beside_training"] and not waits["sampling"]["beside_training"]
    assert waits["fits"] and not ahead["fits"]
    assert ahead["sampling"]["gib_by_kind"]["trainer"] == ahead["peak_gib_per_device"]


TIER = ["--config.rollout.host_gib=64", "--config.grpo.training.microbatch_size=8"]


def test_pages_that_wait_on_the_host_count():
    """Its share of a device: 64 GiB of a host with eight."""
    config = parse_config([*MODEL[:2], *TIER, "--config.rollout.slots=8"])
    plan = make_plan(config, "grpo", parse("h100:8"))
    assert plan.fits and plan.sampling.host_gib == plan.sampling.figures()["host_gib_per_device"] == 8
    assert "    8.00 GiB  of the host's memory" in report.text(plan)


@pytest.mark.parametrize(
    ("slots", "offload", "missing", "first"),
    [
        (8, False, "8.00 GiB of the host's memory for each", "--config.rollout.host_gib=36"),
        (640, False, "more than its 79.00; 8.00 GiB of", "--config.rollout.host_gib=36 --config.rollout."),
        (8, True, "GiB of the host's memory for each", "--config.rollout.host_gib=6"),
    ],
)
def test_what_is_said_where_a_host_has_no_room(slots, offload, missing, first, monkeypatch):
    """The tier's share alone, with the device's pages, and beside averages that wait there."""
    monkeypatch.setitem(GPUS, "h100", dataclasses.replace(GPUS["h100"], host_gib=5.0))
    given = [*MODEL[:2], *TIER, f"--config.rollout.slots={slots}"]
    given += [f"--config.grpo.training.optimizer.offload={offload}"]
    config = parse_config(given)
    plan = make_plan(config, "grpo", parse("h100:8"))
    assert plan.trains and not plan.fits and missing in report.text(plan)
    change, *_, servers = advise(config, plan)
    assert change.what.startswith(first) and change.fits and "engine=remote" in servers.what
    again = make_plan(parse_config([*given, *change.what.split()]), "grpo", parse("h100:8"))
    assert again.fits
    with pytest.raises(ConfigError, match="of the host's memory for each device of h100:"):
        list(sweep(parse_config([*MODEL[:2], "--config.rollout.host_gib=640"]), "grpo", GPUS["h100"], False))


def test_an_engine_that_does_not_fit_a_device_is_split(tmp_path):
    """72B in bfloat16 on one of eight GPUs, on two, on four; and what four of them say of pages."""
    out = tmp_path / "plan.json"
    sizes = ("--config.rollout.slots=8", "--config.rollout.pages=16384", "--config.rollout.tensor={}")
    given = ["--config", "mirothinker/dpo:72b", "--topology", "h200:64", "--config.mesh.context=32"]
    for tensor, fits in ((1, False), (2, False), (4, True)):
        main([*given, *(s.format(tensor) for s in sizes), "--json", str(out)])
        figures = json.loads(out.read_text())
        assert figures["sampling"]["fits"] == fits and figures["sampling"]["copies_per_host"] == 8 // tensor
        advised = [c["what"] for c in figures["changes"] if "rollout.tensor" in c["what"]]
        assert fits == (advised == []), advised


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("h100:1", "--config.rollout.tensor=2"), "rollout.tensor is 2, which does not divide the devices of this"),
        (("h100:1", "--config.rollout.pages=9"), "rollout.pages gives 9 pages of 64 tokens to a device"),
        (("h100", "--sweep", GROWN, "--config.rollout.pages=81920"), "sampling takes "),
    ],
)  # fmt: skip
def test_what_the_engine_would_refuse(settings, said, capsys):
    assert main(["--config", "qwen/grpo:qwen3-4b", "--topology", *settings]) == 2
    assert said in capsys.readouterr().err


def test_what_nothing_compiled_is_not_sure():
    plan = make_plan(parse_config([*QWEN]), "sft", parse("h100:8"))
    figures, said = plan.figures(), report.text(plan)
    assert figures["fits"] and not figures["sure"] and figures["assumptions"] is None
    assert "fits by a rule of thumb: " in said and "PERHAPS" not in said and "assumed" not in said


def test_a_time_comes_with_its_assumptions_and_host_copies_are_no_collectives():
    kinds = ("host copy", "all-gather", "collective-permute")
    waits = [
        Transfer(kind, kind, "main", 1.0, hidden, 0) for kind, hidden in zip(kinds, (0, 0, 1), strict=True)
    ]
    plan = dataclasses.replace(
        make_plan(parse_config([*QWEN]), "sft", parse("h100:8")),
        topology=parse("v5p:2x2x2"),
        compile_s=1.0,
        schedule=Schedule(8.0, 4.0, tuple((t, 3.0) for t in waits)),
    )
    figures, said = plan.figures(), report.text(plan)
    assert figures["exposed_collectives"] == 1 and figures["exposed_s_estimate"] == 6.0
    assert figures["assumptions"]["attention_backward_share_of_peak"] == 0.96
    assert "reach 0.91 forward and 0.96 backward" in said and "90 GB/s each way" in said


def test_a_bound_is_called_one():
    exact = make_plan(parse_config([*QWEN]), "sft", parse("h100:8"))
    assert exact.fits and not exact.figures()["peak_is_bound"] and "at most" not in report.text(exact)
    bound = dataclasses.replace(exact, bound=True)
    assert bound.figures()["peak_is_bound"] and f"at most {bound.peak_gib:.2f} of" in report.text(bound)


def test_what_does_not_fit_is_answered_with_changes_that_do(capsys, tmp_path):
    """Each of the changes that are said to fit does, by the same rule."""
    out = tmp_path / "plan.json"
    assert main([*QWEN, "--topology", "h100:4", "--json", str(out)]) == 3
    assert "DOES NOT FIT" in capsys.readouterr().out
    changes = json.loads(out.read_text())["changes"]
    fitting = [c for c in changes if c["fits"]]
    assert len(changes) == 3 and fitting
    for change in fitting:
        words = change["what"].split()
        topology = [] if "--topology" in words else ["--topology", "h100:4"]
        assert main([*QWEN, *topology, *words]) == 0, change


def test_what_the_host_has_no_room_for_is_answered_with_what_it_has(capsys, tmp_path, monkeypatch):
    """Eight devices with 15 GiB each of their host's memory, for 22.7 of attention's results and blocks' inputs."""
    monkeypatch.setitem(GPUS, "h100", dataclasses.replace(GPUS["h100"], host_gib=15.0))
    offload = (*QWEN, "--config.model.remat=offload-all", "--config.sft.training.microbatch_size=8")
    out = tmp_path / "plan.json"
    assert main([*offload, "--topology", "h100:8", "--json", str(out)]) == 3
    assert "GiB of the host's memory for each device" in capsys.readouterr().out
    changes = json.loads(out.read_text())["changes"]
    assert changes[0]["what"] == "--config.model.remat=attention" and changes[0]["fits"]
    for change in (c for c in changes if c["fits"]):
        words = change["what"].split()
        topology = [] if "--topology" in words else ["--topology", "h100:8"]
        assert main([*offload, *topology, *words]) == 0, change


def test_where_neither_memory_has_room_everything_is_computed_again(capsys, tmp_path, monkeypatch):
    """A change that would move what is too much for the device to a host that has no room either is not advised."""
    monkeypatch.setitem(GPUS, "h100", dataclasses.replace(GPUS["h100"], host_gib=4.0))
    rows = [f"--config.sft.training.{key}=24" for key in ("batch_size", "microbatch_size")]
    out = tmp_path / "plan.json"
    attention = (*QWEN, "--topology", "h100:8", *rows, "--config.model.remat=attention")
    assert main([*attention, "--json", str(out)]) == 3
    assert json.loads(out.read_text())["host_room_gib_per_device"] == pytest.approx(3.6)
    first = json.loads(out.read_text())["changes"][0]
    assert first["what"] == "--config.model.remat=full" and first["fits"]
    assert main([*attention, first["what"]]) == 0


def test_a_sweep_compiles_nothing_that_the_host_has_no_room_for(capsys, monkeypatch):
    """Of 256K tokens 145 GiB wait for the backward pass: 18 for each of eight devices."""
    monkeypatch.setitem(GPUS, "h100", dataclasses.replace(GPUS["h100"], host_gib=21.0))
    row = ("--config.model.remat=offload-all", "--config.sft.training.sequence_length=262144")
    assert main([*QWEN, "--topology", "h100", "--sweep", *row, "--config.sft.training.batch_size=32"]) == 0
    plans = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sft on")]
    assert plans == ["sft on h100:8: 8 devices, context 8"]


def test_changes_that_only_fit_together_are_advised_together(capsys):
    """72B at 512K on 16 devices takes 51 GiB where both wait, and more than there are where one does."""
    config = ("--config", "configs/mirothinker/sft.py:72b", "--topology", "h100:16")
    sizes = ("--config.mesh.context=16", "--config.sft.training.microbatch_size=1")
    sizes += ("--config.sft.training.sequence_length=524288",)
    assert main([*config, *sizes]) == 3
    first = capsys.readouterr().out.partition("by a rule of thumb:\n")[2].splitlines()[0]
    changes = ("--config.model.remat=offload-all", "--config.sft.training.optimizer.offload=true")
    assert f"fits:  {' '.join(changes)}  (" in first
    assert main([*config, *sizes, *changes]) == 0
    assert [main([*config, *sizes, change]) for change in changes] == [3, 3]


def test_a_sweep_ends_with_the_first_that_fits(capsys):
    """Of a row of 96K tokens two devices are likely to have room for half, and have none."""
    row = "--config.sft.training.sequence_length=98304"
    assert main([*QWEN, "--topology", "h100", "--sweep", row]) == 0
    said = capsys.readouterr().out.splitlines()
    plans = [line for line in said if line.startswith(("sft on", "DOES NOT FIT", "the training step fits"))]
    assert [line.partition(":")[0] for line in plans[:2]] == ["sft on h100", "DOES NOT FIT"]
    assert plans[0].startswith("sft on h100:2")
    assert plans[-2].startswith("sft on h100:4") and plans[-1].startswith("the training step fits")


def test_a_sweep_that_finds_no_room_ends_with_changes(capsys, monkeypatch):
    """To the last settings that it tried, of the largest slice."""
    monkeypatch.setitem(GPUS, "h100", dataclasses.replace(GPUS["h100"], memory_gib=15.0))
    monkeypatch.setattr(chips, "slices", lambda chip: ["4", "8"])
    sizes = ("--config.sft.training.sequence_length=16384", "--config.sft.training.batch_size=32")
    assert main([*QWEN, *SWEEP, *sizes]) == 3
    said = capsys.readouterr().out
    assert said.count("cheapest changes") == 1 and "sft on h100:8" in said
    changes = said.partition("by a rule of thumb:\n")[2].splitlines()
    last = [line.split() for line in said.splitlines() if line.startswith("  --config.mesh")][-1]
    fitting = [
        line.partition("fits:  ")[2].partition("  (")[0].split() for line in changes if "fits:" in line
    ]
    assert fitting
    assert main([*QWEN, *sizes, "--topology", "h100:8", *last, *fitting[0]]) == 0


@pytest.mark.parametrize(
    ("tokens", "found"),
    [
        (8_192, "h100:2: 2 devices, fsdp 2"),
        (40_960, "h100:2: 2 devices, context 2"),
        (131_072, "h100:4: 4 devices, fsdp 2 × context 2"),
        (262_144, "h100:4: 4 devices, context 4"),
    ],
)
def test_a_sweep_splits_a_row_no_more_than_it_must(capsys, tokens, found):
    sizes = (f"--config.sft.training.sequence_length={tokens}", "--config.sft.training.batch_size=32")
    assert main([*QWEN, "--topology", "h100", "--sweep", *sizes]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("sft on")][-1] == f"sft on {found}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*QWEN, "--topology", "h100:7"), "plan knows h100 as h100:1, h100:2, h100:4"),
        ((*QWEN, "--topology", "h100:8", "--sweep"), "--sweep takes a chip without a size"),
        ((*QWEN, "--topology", "h100:8", "--config.stages=()"), "config.stages is empty: there is no step"),
        ((*QWEN, "--topology", "h100:8", "--stage", "grpo"), "config.stages is ('sft',); give one of them"),
        (
            (*QWEN, "--topology", "h100:8", "--config.sft.training.microbatch_size=4"),
            "microbatch_size is 4, not a multiple of",
        ),
        ((*QWEN, "--topology", "h100:16", "--config.mesh.tensor=16"), "does not divide model.kv_heads (8)"),
        ((*QWEN, "--topology", "h100:8", "--quick"), "--quick: nothing is compiled for h100"),
        ((*QWEN, "--topology", "v4:2x2x1", "--quick"), "--quick: for a v4 the compiler aborts"),
        ((*QWEN, "--topology", "h100:8", "--json", "/proc/nope/x.json"), "--json /proc/nope/x.json"),
        (
            (*QWEN, "--topology", "h100", "--sweep", "--config.mesh.tensor=3"),
            "can be divided for this config",
        ),
        # What stands in the way, and not that a mesh is too large for a slice.
        (
            (*("--config", "configs/mirothinker/sft.py:30b", "--config.mesh.expert=8"), *SWEEP),
            "training.batch_size (20) must be a multiple of training.microbatch_size (1024)",
        ),
        (("--config", "configs/toy/pipeline.py", "--topology", "h100:8"), "config.model.vocab_size is 0"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, said):
    assert main([*arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: ")
    assert said in err


def test_a_missing_argument_is_one_line(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--topology", "v5p:4x4x4"])
    assert (
        capsys.readouterr().err
        == "error: the following arguments are required: --config; see python -m mirothinker_jax.plan --help\n"
    )
