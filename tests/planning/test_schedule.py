"""The reading of a schedule, on a small program whose times are plain to see.

A chip of 1 GHz, 1 TFLOP/s and links of 1 GB/s: a fusion of 1,000,000 cycles takes 1 ms, and so does a permute of 1 MB.
"""

import dataclasses
from types import SimpleNamespace

import pytest

from mirothinker_jax.planning.chips import Chip
from mirothinker_jax.planning.compiling import asked_for, peak
from mirothinker_jax.planning.schedule import read

CHIP = Chip("toy", 1e12, 1.0, dims=3, link=1e9, hertz=1e9, forward=0.5, backward=0.25)
MEGABYTE, QUARTER = "bf16[500000]{0}", "bf16[125000]{0}"

KERNEL = 'custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"1000000000"}}'

PROGRAM = f"""HloModule jit_step, is_scheduled=true, entry_computation_layout={{()->f32[]}}

%body (p: (s32[], bf16[500000])) -> (s32[], bf16[500000]) {{
  %p = (s32[], {MEGABYTE}) parameter(0)
  %x = {MEGABYTE} get-tuple-element(%p), index=1
  %collective-permute-start.1 = ({MEGABYTE}, {MEGABYTE}, u32[], u32[]) collective-permute-start(%x), channel_id=1
  %flash_forward.1 = f32[4]{{0}} custom-call(%x), {KERNEL}
  %collective-permute-done.1 = {MEGABYTE} collective-permute-done(%collective-permute-start.1)
  ROOT %t = (s32[], {MEGABYTE}) tuple(%p, %collective-permute-done.1)
}}

%condition (p: (s32[], bf16[500000])) -> pred[] {{
  %p = (s32[], {MEGABYTE}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[]{{:T(128)}} constant(15), metadata={{op_name="x"}}
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}}

%chunk (p: s32[]) -> s32[] {{
  %p = s32[] parameter(0)
  ROOT %f = s32[] fusion(%p), kind=kLoop, backend_config={{"estimated_cycles":"1000000"}}
}}

%unbounded (p: s32[]) -> pred[] {{
  %p = s32[] parameter(0)
  ROOT %lt = pred[] compare(%p, %p), direction=LT
}}

%gather (g: bf16[125000]) -> bf16[500000] {{
  %g = bf16[125000]{{0}} parameter(0)
  ROOT %all-gather.9 = {MEGABYTE} all-gather(%g), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}

ENTRY %main (a: bf16[500000], b: bf16[125000]) -> f32[] {{
  %a = {MEGABYTE} parameter(0)
  %b = bf16[125000]{{0}} parameter(1)
  %first = s32[] constant(5)
  %start = s32[] copy(%first)
  %state = (s32[], {MEGABYTE}) tuple(%start, %a)
  %loop = (s32[], /*index=1*/{MEGABYTE}) while(%state), condition=%condition, body=%body
  %n = s32[] get-tuple-element(%loop), index=0
  %chunks = s32[] while(%n), condition=%unbounded, body=%chunk
  %all-gather.9.call-start = (({QUARTER}), {MEGABYTE}) call-start(%b), to_apply=%gather
  %work = f32[] fusion(%a), kind=kLoop, backend_config={{"estimated_cycles":"125000"}}
  %all-gather.9.call-done = {MEGABYTE} call-done(%all-gather.9.call-start)
  ROOT %all-reduce.1 = f32[250000]{{0}} all-reduce(%work), replica_groups=mesh['axis_0'=4,'axis_1'=2] {{'axis_1'}}
}}
"""


def test_times_of_loops_kernels_and_transfers():
    schedule = read(PROGRAM, CHIP, chunks=3, micro_batches=1)
    transfers = {t.name: (t, times) for t, times in schedule.transfers}
    permute, times = transfers["collective-permute-start.1"]
    # From 5 to 15: ten passes, each a kernel of 1 GFLOP at half the peak, 2 ms, over a permute of 1 ms.
    assert times == 10
    assert (permute.kind, permute.kernels) == ("collective-permute", 1)
    assert (permute.seconds, permute.exposed) == pytest.approx((1e-3, 0.0))
    # 3/4 of 1 MB by two links: 0.375 ms, over 0.125 ms of work.
    gather, _ = transfers["all-gather.9.call-start"]
    assert gather.kind == "all-gather"
    assert (gather.seconds, gather.exposed) == pytest.approx((0.375e-3, 0.25e-3))
    # There and back of half of 1 MB, and nothing beside it.
    reduced, _ = transfers["all-reduce.1"]
    assert (reduced.seconds, reduced.exposed) == pytest.approx((0.5e-3, 0.5e-3))
    assert schedule.kernels == pytest.approx(20e-3)
    assert schedule.seconds == pytest.approx(20e-3 + 3e-3 + 0.375e-3 + 0.5e-3)
    assert schedule.exposed == pytest.approx(0.75e-3)


def test_more_chunks_take_longer():
    few, many = (read(PROGRAM, CHIP, chunks=n, micro_batches=1).seconds for n in (3, 7))
    assert many - few == pytest.approx(4e-3)


@pytest.mark.parametrize(
    ("said", "gib"),
    [
        (
            "Ran out of memory in memory space hbm. Used 37.20G of 31.24G hbm. Exceeded hbm capacity by 5.96G.",
            37.2,
        ),
        ("the total memory required for HLO temporaries (133.07G) exceeds available HBM (95.74G).", 135.07),
    ],
)
def test_what_a_step_would_have_taken(said, gib):
    assert asked_for(said, held=2 * 2**30) == pytest.approx(gib * 2**30)


@pytest.mark.parametrize(
    ("of_larger", "host_argument", "temp", "host_temp", "device"),
    [
        (98, 0, 106, 0, (98, False)),  # the device's own: 14 of arguments, 84 that it holds at once
        (98, 0, 106, 83, (98, False)),  # and more than the host
        (98, 9, 106, 70, (89, False)),  # of the host's arguments none
        (98, 0, 106, 84, (98, True)),  # the host's: what the device holds may be less
        (105, 0, 50, 91, (64, True)),  # and is, since all its buffers are
        (105, 9, 51, 82, (65, True)),
        (500, 0, 400, 486, (200, True)),  # it was compiled, so it fits
        (500, 0, 400, 0, (200, True)),
    ],
)
def test_a_devices_peak_is_told_from_its_hosts(of_larger, host_argument, temp, host_temp, device):
    memory = SimpleNamespace(
        peak_memory_in_bytes=of_larger,
        host_argument_size_in_bytes=host_argument,
        argument_size_in_bytes=14,
        output_size_in_bytes=14,
        alias_size_in_bytes=14,
        temp_size_in_bytes=temp,
        host_temp_size_in_bytes=host_temp,
    )
    assert peak(memory, limit=200) == device


def test_other_failures_are_passed_on():
    with pytest.raises(RuntimeError, match="lightning"):
        asked_for("struck by lightning", 0)


def test_a_program_without_a_schedule_is_refused():
    with pytest.raises(ValueError, match="not scheduled"):
        read(PROGRAM.replace("is_scheduled=true", ""), CHIP, 1, 1)


def test_a_kernel_that_nobody_looked_at_is_refused():
    with pytest.raises(ValueError, match="paged_attention"):
        read(PROGRAM.replace("flash_forward", "paged_attention"), CHIP, chunks=2, micro_batches=1)


def test_a_kernels_seconds_may_be_given():
    """Ten calls of 3 ms instead of 2, by a word of the name."""
    program = PROGRAM.replace("flash_forward", "ragged_paged_attention")
    found = read(program, CHIP, 3, 1, {"paged_attention": 3e-3})
    assert found.kernels == pytest.approx(30e-3)
    assert found.seconds == pytest.approx(read(PROGRAM, CHIP, 3, 1).seconds + 10e-3)


def test_experts_products_have_a_share_of_their_own():
    """2 · 1,000 · 600 · 500 flops, at 0.6 of 1 TFLOP/s, are 1 ms; at 0.5, 1.2 ms. They are no attention."""
    said = 'custom_call_target="tpu_custom_call", backend_config={"cost_estimate":{"flops":"600000000"}}'
    program = "\n".join(
        (
            "HloModule jit_step, is_scheduled=true\n",
            "ENTRY %main (a: s32[8]) -> f32[1000,500] {",
            "  %a = s32[8]{0} parameter(0)",
            f"  %grouped_inner.1 = f32[1000,500]{{1,0}} custom-call(%a), {said}",
            f"  %grouped_outer.1 = f32[1000,500]{{1,0}} custom-call(%a), {said}",
            "}\n",
        )
    )
    chip = dataclasses.replace(CHIP, inner=0.6, outer=0.5)
    found = read(program, chip, chunks=1, micro_batches=1)
    assert found.seconds == pytest.approx(2.2e-3) and found.kernels == 0


def test_copies_to_the_host_wait_for_each_other():
    """16 MB take 1 ms. Two go there, 0.5 ms of work beside them, and one comes from there meanwhile."""
    there, here = "bf16[8000000]{0:T(256)S(5)}", "bf16[8000000]{0:T(256)}"
    program = "\n".join(
        (
            "HloModule jit_step, is_scheduled=true\n",
            "ENTRY %main (a: bf16[8000000]) -> bf16[8000000] {",
            f"  %a = {here} parameter(0)",
            f"  %h = {there} parameter(1)",
            f"  %copy-start.1 = ({there}, {here}, u32[]) copy-start(%a)",
            f"  %copy-start.2 = ({there}, {here}, u32[]) copy-start(%a)",
            f"  %copy-start.3 = ({here}, {there}, u32[]) copy-start(%h)",
            '  %work = f32[] fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"500000"}',
            f"  %copy-done.1 = {there} copy-done(%copy-start.1)",
            f"  %copy-done.2 = {there} copy-done(%copy-start.2)",
            f"  %copy-done.3 = {here} copy-done(%copy-start.3)",
            "}\n",
        )
    )
    found = read(program, CHIP, chunks=1, micro_batches=1)
    assert [t.exposed for t, _ in found.transfers] == pytest.approx([0.5e-3, 1e-3, 0])
    assert found.seconds == pytest.approx(2e-3)


def test_permutes_that_go_the_same_way_wait_for_each_other():
    """1 MB takes 1 ms. Two go up a ring and one down, 1.5 ms of work beside them."""
    made = f"({MEGABYTE}, {MEGABYTE}, u32[], u32[])"
    ways = {1: "{{0,1},{1,2},{2,0}}", 2: "{{0,1},{1,2},{2,0}}", 3: "{{0,2},{1,0},{2,1}}"}
    program = "\n".join(
        (
            "HloModule jit_step, is_scheduled=true\n",
            "ENTRY %main (a: bf16[500000]) -> bf16[500000] {",
            f"  %a = {MEGABYTE} parameter(0)",
            *(
                f"  %collective-permute-start.{n} = {made} collective-permute-start(%a), source_target_pairs={pairs}"
                for n, pairs in ways.items()
            ),
            '  %work = f32[] fusion(%a), kind=kLoop, backend_config={"estimated_cycles":"1500000"}',
            *(
                f"  %collective-permute-done.{n} = {MEGABYTE} collective-permute-done(%collective-permute-start.{n})"
                for n in ways
            ),
            "}\n",
        )
    )
    found = read(program, CHIP, chunks=1, micro_batches=1)
    assert [t.exposed for t, _ in found.transfers] == pytest.approx([0, 0.5e-3, 0])
    assert found.seconds == pytest.approx(2e-3)
