"""MiroThinker's stages at 256K tokens, and 8B's SFT at a million, on slices that are good for them: what `plan` says.

    pip install -e '.[tpu]'        (no TPU needed)
    python benchmarks/stage_plans.py

configs/mirothinker, float32 parameters and AdamW, bfloat16 products. A plan takes one to five minutes; each is
kept in benchmarks/results/stage_plans.json when it is done, so that it can be stopped at any time. Those that are
there, of the same settings and versions of jax and libtpu, are not made again (a change of our own code is not
noticed: take the rows that it concerns out of the file). At the end they are printed as a table, which
docs/notes/plans.md has.
"""

from __future__ import annotations

import json
import time
from typing import Any

from measuring import Options
from plans import mesh_of, run, size_of, versions
from results import FOLDER

from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.flags import parse as parse_config

KEPT = FOLDER / "stage_plans.json"
ALL, OPTIMIZER = {"model.remat": "offload-all"}, {"training.optimizer.offload": "true"}
SHARED = {"training.microbatch_size": 1}  # all devices share a row
MILLION = {"training.batch_size": 1, "training.sequence_length": 1_048_576, "data.shards": 1} | SHARED
# (config, slice, settings; those of training are the stage's)
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("8b/sft", "v5p:4x4x4", {"training.batch_size": 4}),
    ("8b/sft", "v5p:4x4x4", {"training.batch_size": 4} | ALL),
    ("8b/sft", "v5p:2x2x4", {"mesh.context": 16} | SHARED),
    ("8b/sft", "v6e:4x8", {"mesh.context": 16, "training.microbatch_size": 2} | ALL),
    ("8b/sft", "v5p:4x4x4", {"mesh.context": 64} | MILLION | ALL),
    ("8b/sft", "v5p:2x2x2", {"mesh.context": 8} | MILLION | ALL),
    ("8b/dpo", "v5p:4x4x4", {}),
    ("8b/grpo", "v5p:4x4x4", {}),
    ("30b/sft", "v5p:4x4x4", {}),
    ("30b/dpo", "v5p:4x4x4", {}),
    ("30b/grpo", "v5p:4x4x4", {}),
    ("72b/sft", "v5p:4x4x4", {}),
    ("72b/sft", "v5p:2x4x4", {"mesh.context": 32} | SHARED),
    ("72b/sft", "v5p:2x4x4", {"mesh.context": 32} | SHARED | ALL),
    ("72b/sft", "v5p:2x4x4", {"mesh.context": 32} | SHARED | ALL | OPTIMIZER),
    ("72b/dpo", "v5p:2x4x4", {"mesh.context": 32} | SHARED),
    ("72b/grpo", "v5p:2x4x4", {"mesh.context": 32} | SHARED),
)


def arguments_of(config: str, slice_: str, settings: dict[str, Any]) -> list[str]:
    """Of `plan`."""
    size, stage = config.split("/")
    keys = {key: f"{stage}.{key}" if key.startswith("training.") else key for key in settings}
    given = [f"--config.{keys[key]}={value}" for key, value in settings.items()]
    return ["--config", f"configs/mirothinker/{stage}.py:{size}", *given, "--topology", slice_]


def line(config: str, settings: dict[str, Any], figures: dict[str, Any]) -> str:
    """Of the table."""
    size, stage = config.split("/")
    training = getattr(parse_config(figures["arguments"][:-2]), stage).training
    named = [f"`{value}`" for key, value in settings.items() if key == "model.remat"]
    named += ["`optimizer.offload`" for key in settings if key == "training.optimizer.offload"]
    seconds = figures["step_s_estimate"]
    cells = (
        ", ".join([f"{stage}.py:{size}", *named]),
        f"{training.batch_size} × {training.sequence_length:,}",
        str(training.microbatch_size),
        figures["topology"],
        mesh_of(figures),
        f"{size_of(figures)} of {figures['hbm_gib_per_device']:.1f}",
        f"{figures['host_gib_per_device']:.1f}",
        f"{seconds:,.1f}" if figures["fits"] else "no room",
        f"{figures['mfu_estimate']:.1%}" if figures["fits"] else "-",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    Options(__doc__).parse_args()
    made_by = versions()
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    given = {" ".join(arguments_of(*row)): arguments_of(*row) for row in ROWS}
    left = [name for name in given if kept.get(name, {}).get("versions") != made_by]
    begun = time.monotonic()
    for done, name in enumerate(left, 1):
        try:
            kept[name] = run(given[name]) | {"versions": made_by, "arguments": given[name]}
        except RuntimeError as error:
            raise SystemExit(f"{name}: {error}") from None
        ordered = {name: kept[name] for name in given if name in kept}
        with replacing(KEPT) as scratch:
            scratch.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
        rest = (time.monotonic() - begun) / done * (len(left) - done) / 60
        print(f"{done}/{len(left)} {name}; {rest:.0f} min left", flush=True)
    print("| config | rows × tokens | at a time | slice | mesh | GiB | of its host | step, s | MFU |")
    print("| --- " * 9 + "|")
    for (config, _, settings), name in zip(ROWS, given, strict=True):
        print(line(config, settings, kept[name]))


if __name__ == "__main__":
    main()
