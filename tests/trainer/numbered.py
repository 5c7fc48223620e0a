"""A batch source whose batches are drawn from the step's number."""

import numpy as np
import tiny

from mirothinker_jax.config import Config, OptimizerConfig, TrainingConfig
from mirothinker_jax.config_tree import to_plain
from mirothinker_jax.data.packing import pack_rows

ROWS, LENGTH, STEPS = 4, 24, 6
CONFIG = to_plain(Config(model=tiny.QWEN3))
IDENTITY = {"hidden": 32, "vocab_size": tiny.VOCAB, "tokenizer_sha256": "abc"}
TRAINING = TrainingConfig(
    steps=STEPS,
    batch_size=ROWS,
    microbatch_size=2,
    sequence_length=LENGTH,
    checkpoint_every=4,
    keep_checkpoints=2,
    log_every=1,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_fraction=0.3),
)


def batch_of(step):
    """Four packed rows that differ from step to step."""
    batch = pack_rows(tiny.samples(step, (20, 11, 24, 9, 13, 8, 7)), LENGTH, ROWS)
    assert batch.shape == (ROWS, LENGTH)
    return batch


class Killed(Exception):
    pass


class Numbered:
    """A BatchSource. `kill_at`: raises at that step; `poison_at`: a weight of that step's batch is NaN."""

    on_policy = False

    def __init__(self, kill_at=None, poison_at=None):
        self.kill_at, self.poison_at = kill_at, poison_at
        self.position, self.asked = 0, []

    def next(self, step, params):
        assert step == self.position, "the position was not restored"
        if step == self.kill_at:
            raise Killed
        self.position += 1
        self.asked.append(step)
        batch = batch_of(step)
        if step == self.poison_at:
            batch.weights[1, 3] = np.nan
        return batch, {"figure": float(step)}

    def get_state(self):
        return {"position": self.position}

    def set_state(self, state):
        self.position = state["position"]
