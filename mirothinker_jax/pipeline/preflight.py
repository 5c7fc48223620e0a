"""What is wrong with a run, said before its first stage: a mistake in the last stage must not cost the hours before.

Only what the settings, the machine and the embedded web tell; what depends on the tokenizer comes when there is one.
"""

from __future__ import annotations

import jax

from mirothinker_jax.config import Config, check
from mirothinker_jax.parallel.mesh import check_model, check_rows, make_mesh
from mirothinker_jax.parallel.placement import data_shard
from mirothinker_jax.pipeline.workshop import Workshop


def purposes(config: Config) -> list[str]:
    """What the run draws questions for; none where it only fine-tunes on a file."""
    c = config
    expert = not c.data.path and ("sft" in c.stages or not c.tokenizer.path)
    wanted = {"expert": expert, "evaluation": c.evaluation.questions > 0}
    wanted |= {stage: stage in c.stages for stage in ("dpo", "grpo")}
    return [purpose for purpose, needed in wanted.items() if needed]


def check_run(shop: Workshop) -> None:
    """Raises ConfigError. Starts the tools where the run needs any."""
    c = shop.config
    mesh = make_mesh(c.mesh)
    check_model(mesh, c.model, c.model.vocab_size)
    c.check_row_tokens(mesh.shape["context"])
    for stage in c.stages:
        check_rows(mesh, f"{stage}.training.micro_rows", getattr(c, stage).training.micro_rows)
    _, blocks = data_shard(mesh)
    if "sft" in c.stages:
        check(
            c.data.shards % blocks == 0,
            f"data.shards is {c.data.shards}, not a multiple of the {blocks} processes",
        )
    if "grpo" in c.stages:
        processes = jax.process_count()
        check(
            c.grpo.questions % processes == 0,
            f"grpo.questions is {c.grpo.questions}, not a multiple of the {processes} processes",
        )
    asked = purposes(c)
    for purpose in asked:
        shop.questions(purpose)
    if asked:
        _ = shop.tools
