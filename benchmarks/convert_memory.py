"""Peak memory and speed of turning a Hugging Face checkpoint into a run, and back.

    python benchmarks/convert_memory.py

A bfloat16 checkpoint of a published shape (default: Qwen3-1.7B's, 3.2 GiB in four files) is made up, a tensor at a
time; mirothinker_jax.convert turns it into a run and that into a second checkpoint, each in a process of its own; and
every tensor of the second must have the first one's bytes, as the safetensors library reads them.

A peak is the process's highest resident size (ru_maxrss), with all that it imported. It must stay below twice the
largest tensor plus 1 GiB, whatever the size of the model. Seconds are of the whole command, the start of Python and
jax's import included; MB/s are the checkpoint's bytes (10^6) by these seconds.

The numbers are normal with the scale of a model's weights, so that they compress as weights do. They repeat from tensor
to tensor, each time from another place on.

Left out: float32, conversion from one dtype to the other, adapters, and disks that are busy with something else. Needs
three times the checkpoint's size in --folder, which is emptied at the end.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Options
from results import device, finish, table

GIB = 2**30
REPEATS = 1 << 25  # numbers that are drawn


def make(folder: Path, preset: str, layers: int, shard_bytes: int, seed: int) -> dict[str, Any]:
    """Writes the checkpoint; returns its size. Runs in a process of its own, so that the first one stays small."""
    import numpy as np

    from mirothinker_jax.config import ModelConfig
    from mirothinker_jax.config_tree import build
    from mirothinker_jax.models.hf import tensors
    from mirothinker_jax.models.hf_config import to_hf
    from mirothinker_jax.models.hf_files import write
    from mirothinker_jax.models.presets import architecture

    model = build(ModelConfig, architecture(preset))
    model = dataclasses.replace(model, layers=layers or model.layers)
    listed = tensors(model, model.vocab_size)
    rng = np.random.default_rng(seed)
    drawn = (rng.standard_normal(REPEATS, np.float32) * 0.02).astype("bfloat16")

    def read(tensor):
        start, size = int(rng.integers(REPEATS)), int(np.prod(tensor.shape))
        return tensor.ours(np.resize(np.roll(drawn, start), size).reshape(tensor.shape))

    folder.mkdir()
    write(folder, listed, "bfloat16", read, shard_bytes, iter)
    values = to_hf(model, model.vocab_size, {}) | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(values))
    write_tokenizer(folder / "tokenizer.json")
    sizes = [2 * int(np.prod(tensor.shape)) for tensor in listed]
    files = len(list(folder.glob("*.safetensors")))
    return {"bytes": sum(sizes), "largest": max(sizes), "tensors": len(sizes), "files": files}


def write_tokenizer(file: Path) -> None:
    """The smallest that convert takes: the bytes and Qwen's control tokens."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    made.save(str(file))


def differing(folder: Path, other: Path) -> list[str]:
    """Names of tensors that are not the same, byte by byte, in both; all of them must be in both."""
    import ml_dtypes  # noqa: F401  bfloat16 for numpy
    import safetensors

    def opened(folder):
        return {
            name: file
            for path in folder.glob("*.safetensors")
            for file in [safetensors.safe_open(path, "np")]
            for name in file.keys()  # noqa: SIM118  no mapping
        }

    ours, theirs = opened(folder), opened(other)
    return [
        name
        for name in sorted(ours.keys() | theirs.keys())
        if name not in ours
        or name not in theirs
        or ours[name].get_tensor(name).tobytes() != theirs[name].get_tensor(name).tobytes()
    ]


def in_a_process(work: Any, *arguments: Any) -> Any:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def convert(*arguments: str) -> dict[str, float]:
    """Runs the command; returns its seconds and its peak in bytes."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mirothinker_jax.convert", *arguments])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"convert {' '.join(arguments)} ended with {process.returncode}; its error is above")
    # A process starts as a copy of this one, whose peak counts as its own.
    if used.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        raise SystemExit("the benchmark's own process is larger than the command's; nothing was measured")
    return {"s": time.perf_counter() - begun, "peak": used.ru_maxrss * 1024}


def main() -> None:
    options = arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    os.environ["JAX_PLATFORMS"] = "cpu"  # inherited, as the cores are
    with tempfile.TemporaryDirectory(dir=options.folder or None) as name:
        folder = Path(name)
        print(f"making a checkpoint of {options.preset}", flush=True)
        shard = round(options.shard_gib * GIB)
        made = in_a_process(make, folder / "hf", options.preset, options.layers, shard, options.seed)
        if shutil.disk_usage(folder).free < 2 * made["bytes"]:
            raise SystemExit(
                f"{folder}: less than {2 * made['bytes'] / GIB:.1f} GiB free; give another --folder"
            )
        paths = [str(folder / part) for part in ("hf", "run", "back")]
        imported = convert("--from", "hf", "--path", paths[0], "--out", paths[1])
        stored = sum(file.stat().st_size for file in (folder / "run").rglob("*") if file.is_file())
        exported = convert(
            *("--to", "hf", "--path", paths[1], "--out", paths[2]), "--shard-gib", str(options.shard_gib)
        )
        wrong = in_a_process(differing, folder / "hf", folder / "back")
        if wrong:
            raise SystemExit(f"{len(wrong)} tensors came back changed: {', '.join(wrong[:5])}")
    report(options, made, imported, exported, stored)


def report(options, made: dict, imported: dict, exported: dict, stored: int) -> None:
    limit = 2 * made["largest"] + GIB
    figures: dict[str, Any] = {
        "peak_gib": imported["peak"] / GIB,
        "export_peak_gib": exported["peak"] / GIB,
        "largest_tensor_gib": made["largest"] / GIB,
        "limit_gib": limit / GIB,
        "bytes": made["bytes"],
        "run_bytes": stored,
        "import_s": imported["s"],
        "export_s": exported["s"],
        "import_mb_per_s": made["bytes"] / 1e6 / imported["s"],
        "export_mb_per_s": made["bytes"] / 1e6 / exported["s"],
        "tensors": made["tensors"],
        "files": made["files"],
        "setting": {key: value for key, value in vars(options).items() if key != "folder"},
        "device": device(),
        "versions": {"python": sys.version.split()[0]}
        | {
            name: importlib.metadata.version(name)
            for name in ("jax", "numpy", "orbax-checkpoint", "tensorstore")
        },
    }
    rows = [
        (
            name,
            f"{used['peak'] / GIB:.2f}",
            f"{limit / GIB:.2f}",
            f"{used['s']:.1f}",
            f"{made['bytes'] / 1e6 / used['s']:.0f}",
        )
        for name, used in (("import", imported), ("export", exported))
    ]
    print(
        f"\n{options.preset}: {made['bytes'] / GIB:.2f} GiB, {made['tensors']} tensors in {made['files']} files, the "
        f"largest {made['largest'] / GIB:.2f} GiB; the run {stored / GIB:.2f} GiB; every tensor came back as it was"
    )
    print(table(("", "peak GiB", "limit", "seconds", "MB/s"), rows))
    finish("convert_memory", figures)
    if max(imported["peak"], exported["peak"]) > limit:
        raise SystemExit("the peak is above the limit")


def arguments() -> argparse.Namespace:
    options = Options(__doc__)
    options.add("preset", "qwen3-1.7b", "whose shape the checkpoint has: a preset of models/presets.py")
    options.add("layers", 0, "so many layers instead of the preset's; 0: as published")
    options.add("shard-gib", 1.0, "size of one file of the checkpoints")
    options.add("threads", 2, "cores that the commands may use")
    options.add("seed", 0, "of the numbers")
    options.add(
        "folder", "", "where the three copies are kept meanwhile; empty: the system's temporary folder"
    )
    return options.parse_args()


if __name__ == "__main__":
    main()
