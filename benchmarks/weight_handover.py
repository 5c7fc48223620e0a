"""New weights on their way from the trainer to whoever samples: seconds, and memory beside what stays.

    python benchmarks/weight_handover.py

A Qwen3 decoder of 134M parameters, float32 over eight emulated CPU devices (fsdp), computed in bfloat16.

  local_whole   to the engine's layout on the same devices, whole on each of them (rollout/local/weights.py); the
                host's memory is the devices', so a copy on either is in the peak
  local_tensor  the same, split over `tensor`
  publish       to a folder of safetensors (rollout/remote/weights.py), by the trainer's process
  reload        from that folder by mirothinker_jax.serve, a process with one device, through vLLM's calls: pause,
                reload, resume

A peak is a process's highest resident size meanwhile, less what was resident before. Of that, `stays` is there at the
end: the engine's parameters. `beside` is what is left, by the bytes of the weights that are moved (the
trainer's, or the folder's): 0 would be a hand-over that needs no memory of its own. A reload begins while the server
still has the old ones. Everything was done once before, so that nothing compiles while it is measured; the
median of some rounds counts. What arrived must be the trainer's parameters, rounded once.

Left out: accelerators and what lies between hosts. Disks: the folder is on the system's temporary one. Needs Linux.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import gc
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from convert_memory import write_tokenizer
from measuring import Options, forget_peak, peak_bytes
from results import device, finish, table

DEVICES, VOCAB = 8, 32768
MIB = 2**20


def trainer(seed: int) -> tuple[Any, Any]:
    """The model's structure as the trainer has it, and its parameters."""
    from mirothinker_jax.config import MeshConfig, ModelConfig
    from mirothinker_jax.models.spec import ModelSpec
    from mirothinker_jax.parallel.mesh import make_mesh

    shape: dict[str, Any] = dict(hidden=1024, layers=8, heads=16, kv_heads=8, head_dim=64, ffn=3072)
    config = ModelConfig(**shape, compute_dtype="bfloat16")
    spec = ModelSpec.build(config, VOCAB, make_mesh(MeshConfig(fsdp=DEVICES)))
    return spec, spec.init(seed)


def size(params: Any, on_devices: bool = False) -> int:
    """Bytes of the parameters; `on_devices`: of every copy."""
    import jax

    leaves = jax.tree.leaves(params)
    if not on_devices:
        return sum(leaf.nbytes for leaf in leaves)
    return sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)


def settle() -> None:
    """Gives back to the system what nothing uses, so that it is not taken for what is used."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def local(tensor: int, rounds: int, seed: int) -> list[dict[str, float]]:
    """Figures of every round."""
    import jax
    import numpy as np

    from mirothinker_jax.config import MeshConfig
    from mirothinker_jax.models.qwen import STACKED
    from mirothinker_jax.models.spec import ModelSpec
    from mirothinker_jax.parallel.mesh import make_mesh
    from mirothinker_jax.rollout.local.weights import place

    spec, params = trainer(seed)
    mesh = make_mesh(MeshConfig(data=DEVICES // tensor, tensor=tensor, fsdp=1))
    engine = ModelSpec.build(spec.config, VOCAB, mesh)
    figures = []
    for number in range(rounds + 1):
        settle()
        before, begun = forget_peak(), time.perf_counter()
        found = jax.block_until_ready(place(engine, params))
        seconds, peak = time.perf_counter() - begun, peak_bytes() - before
        if number:
            figures.append({"s": seconds, "peak": peak, "stays": size(found, True), "bytes": size(params)})
        else:
            apart = jax.tree.map(lambda *x: np.stack(x), *found[STACKED])

            def compare(ours, theirs) -> None:
                if not np.array_equal(np.asarray(ours), np.asarray(theirs.astype(ours.dtype))):
                    raise SystemExit("what arrived is not what the trainer has")

            jax.tree.map(compare, found | {STACKED: apart}, params)
            del apart
        del found
    return figures


def publish(folder: Path, rounds: int, seed: int) -> list[dict[str, float]]:
    """Figures of every round; the publications stay in the folder, the first as a policy to serve."""
    from mirothinker_jax.rollout.remote.weights import WeightsFolder

    spec, params = trainer(seed)
    weights, figures = WeightsFolder(folder / "published", spec, "bfloat16"), []
    for number in range(rounds + 1):
        settle()
        before, begun = forget_peak(), time.perf_counter()
        publication = weights.publish(params, number)
        seconds, peak = time.perf_counter() - begun, peak_bytes() - before
        if number:
            figures.append({"s": seconds, "peak": peak, "stays": 0, "bytes": size(params)})
        else:
            Path(publication.folder).rename(folder / "policy")
    write_tokenizer(folder / "policy" / "tokenizer.json")
    return figures


def reload(folder: Path, rounds: int) -> list[dict[str, float]]:
    """Figures of every round, of the server's process."""
    published = sorted((folder / "published").glob("version-*"))
    weights_bytes = sum(file.stat().st_size for file in published[0].glob("*.safetensors"))
    rollout = {"slots": 4, "prefill_slots": 4, "pages": 128, "decode_steps": 1}
    server = subprocess.Popen(
        [
            *(
                sys.executable,
                "-m",
                "mirothinker_jax.serve",
                "--policy",
                str(folder / "policy"),
                "--port",
                "0",
            ),
            *("--weights-dir", str(folder / "published"), "--config.tokenizer.template=chatml"),
            "--config.agent.context_tokens=8192",
            *(f"--config.rollout.{key}={value}" for key, value in rollout.items()),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    figures, said = [], []
    try:
        for line in server.stderr:
            said.append(line)
            if found := re.search(r" at (http://\S+)", line):
                break
        else:
            raise SystemExit("".join(said))
        for number in range(rounds + 1):
            path = published[number % len(published)]
            before, begun = forget_peak(server.pid), time.perf_counter()
            post(f"{found[1]}/pause?mode=keep")
            call = {"method": "reload_weights", "kwargs": {"weights_path": str(path)}}
            post(f"{found[1]}/collective_rpc", call)
            post(f"{found[1]}/resume")
            seconds, peak = time.perf_counter() - begun, peak_bytes(server.pid) - before
            label = json.loads((path / "published.json").read_text())["label"]
            ids = {"token_ids": [1, 2, 3], "sampling_params": {"max_tokens": 2}}
            (choice,) = post(f"{found[1]}/inference/v1/generate", ids)["choices"]
            if {span["version"] for span in choice["weight_versions"]} != {label}:
                raise SystemExit(f"tokens are of {choice['weight_versions']}, not of {label}")
            if number:  # the parameters take the place of the last ones
                figures.append({"s": seconds, "peak": peak, "stays": 0, "bytes": weights_bytes})
    finally:
        server.terminate()
        server.communicate()
    return figures


def post(url: str, body: Any = None) -> Any:
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.loads(answer.read())


def in_a_process(work: Any, *given: Any) -> Any:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *given).result()


def main() -> None:
    options = arguments()
    flag = f"--xla_force_host_platform_device_count={DEVICES}"
    one_device = os.environ.get("XLA_FLAGS", "")
    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{one_device} {flag}".strip()}  # inherited
    runs = {
        "local_whole": in_a_process(local, 1, options.rounds, options.seed),
        "local_tensor": in_a_process(local, DEVICES, options.rounds, options.seed),
    }
    with tempfile.TemporaryDirectory() as name:
        runs["publish"] = in_a_process(publish, Path(name), options.rounds, options.seed)
        os.environ["XLA_FLAGS"] = one_device
        runs["reload"] = reload(Path(name), options.rounds)
    figures: dict[str, Any] = {}
    rows = []
    for name, rounds in runs.items():
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        median["beside"] = (median["peak"] - median["stays"]) / median["bytes"]
        figures[name] = median
        mib = (f"{median[key] / MIB:.0f}" for key in ("bytes", "stays", "peak"))
        rows.append((name, f"{median['s']:.2f}", *mib, f"{median['beside']:.2f}"))
    print(table(("", "seconds", "weights MiB", "stays MiB", "peak MiB", "beside"), rows))
    finish("weight_handover", {**figures, "setting": vars(options), "device": device()})


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("rounds", 3, "that are measured, after one that is not")
    options.add("seed", 0, "of the parameters")
    return options.parse_args()


if __name__ == "__main__":
    main()
