"""A kernel's cycles by the cycle simulator in the TPU's compiler: compiled ahead of time for one chip, in a process of
its own, and read from the profile that the compiler dumps."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# bfloat16 flops per cycle of a device (a chip; of a tpu7x half of one), and what to compile for.
CHIPS = {
    "v4": (262_144, "v4:2x2x1", "v4-8"),
    "v5e": (131_072, "v5e:2x2", "v5litepod-4"),
    "v5p": (262_144, "v5p:2x2x1", "v5p-8"),
    "v6e": (524_288, "v6e:2x2", "v6e-8"),
    "tpu7x": (524_288, "tpu7x:2x2x1", "tpu7x-8"),
}
# Of a v4 the simulator says that it has no model of its transfers. A v5p has its matrix units: what compiles for a v4
# gets a v5p's cycles.
LIKE = {"v4": "v5p"}
SIZE = 128
EXPERT = 2048, 768  # of Qwen3-30B-A3B: size of the residual stream, and inner size
PAGED = {"read": (4, 1), "feed": (2, 128)}  # rows, and tokens of each that meet its pages
# Of fast memory, for kernels that do not say: room for the peers' largest blocks, and none for the operands of so small
# a program, which in a training step are not there either. With 100 MiB a v5e has no room for our backward kernel too.
VMEM_KIB = 80 * 1024
SECONDS = 300  # that a compilation may take


@dataclasses.dataclass(frozen=True)
class Case:
    """One pass of one system's attention, or one of the products of experts: what to compile, and for which chip."""

    chip: str
    way: str  # forward, backward; inner, turned, outer; read, feed
    mask: str  # full, causal, or spans: full too, but by a table
    length: int
    heads: int  # of queries; or experts
    system: str = "ours"
    sizes: tuple[tuple[str, int], ...] = ()  # of blocks, by name; ours: without `segment` the keys are one

    @property
    def useful_flops(self) -> float:
        """What is computed again does not count."""
        if self.system == "experts":  # turned are two products that are added up
            return (4 if self.way == "turned" else 2) * self.length * EXPERT[0] * EXPERT[1]
        if self.system == "pages":
            return 4 * math.prod(PAGED[self.way]) * self.heads * self.length * SIZE
        keys = self.length  # of a call
        if self.way == "backward":
            keys = min(keys, dict(self.sizes).get("segment", keys))
        whole = (4 if self.way == "forward" else 10) * self.length * keys * SIZE * self.heads
        return whole / 2 if self.mask == "causal" else whole

    @property
    def bytes_read(self) -> float:
        """Of pages, keys and values."""
        return PAGED[self.way][0] * self.length * 2 * SIZE * 2

    def utilisation(self, cycles: float) -> float:
        """Of the device's peak."""
        return self.useful_flops / cycles / CHIPS[self.chip][0]


class DidNotCompile(Exception):
    """With the case, and the last line of what the compiler said."""


def cycles_of(case: Case) -> int:
    """Of all the case's kernels: of a peer's backward pass, all but the first, which is its forward one.

    Raises DidNotCompile, also where the simulator takes too long or aborts.
    """
    names = kernels_of(case)
    if case.way == "backward" and case.system in ("splash", "tokamax"):
        names = [name for name in names if "fwd" not in name]
    if not names or (case.system in ("ours", "experts", "pages") and len(names) > 1):
        raise DidNotCompile(f"{case}: {len(names)} kernels in the compiled program")
    like = dataclasses.replace(case, chip=LIKE.get(case.chip, case.chip))
    return sum(_cycles(like, name) for name in names)


def kernels_of(case: Case) -> list[str]:
    """Their names in the compiled program. Raises DidNotCompile, as where they ask for more memory than there is."""
    return json.loads(_child(case, "").splitlines()[-1])


def _cycles(case: Case, name: str) -> int:
    failed = DidNotCompile(f"{case}: the compiler dumped no profile of {name}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            _child(
                case, f"--xla_jf_dump_static_llo_profile_to={folder} --xla_jf_dump_only_matching_hlo={name}"
            )
        except DidNotCompile as error:
            if case.chip != "tpu7x":  # for which the compiler always aborts, once the profile is written
                raise
            failed = error
        profiles = [path.read_text() for path in Path(folder).glob("*_static_llo_profile.textproto")]
    found = [int(n) for text in profiles for n in re.findall(r"estimated_cycles: (\d+)", text)]
    if not found:
        raise failed
    return found[0]


def _child(case: Case, flags: str) -> str:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": CHIPS[case.chip][2],
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # or two processes collide on its lock file
        "LIBTPU_INIT_ARGS": f"{flags} --xla_tpu_scoped_vmem_limit_kib={VMEM_KIB}",
    }
    command = [sys.executable, __file__, json.dumps(dataclasses.asdict(case))]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise DidNotCompile(f"{case}: not done after {SECONDS} s") from None
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip() and "JAX" not in line][-1:]
        raise DidNotCompile(f"{case}: {''.join(last)}")
    return done.stdout


def compile_case(case: Case) -> None:
    """In the child: compiles, and prints the names of the kernels."""
    import jax
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from systems import SYSTEMS

    chip = topologies.get_topology_desc(CHIPS[case.chip][1], "tpu").devices[:1]
    mesh = Mesh(chip, ("chip",))
    whole = NamedSharding(mesh, PartitionSpec())
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        function, shapes = SYSTEMS[case.system](
            case.way, case.mask, case.length, case.heads, dict(case.sizes)
        )
        shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in shapes]
        lowered = jax.jit(function).lower(*shapes)
    text = lowered.compile().as_text() or ""
    names = re.findall(r"%(\S+) = [^\n]* custom-call\([^\n]*tpu_custom_call", text)
    sys.stdout.write(json.dumps(sorted(set(names))) + "\n")


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    compile_case(Case(**{**fields, "sizes": tuple((name, size) for name, size in fields["sizes"])}))
