"""Settings of one run of the training loop, whatever it trains with.

As in config.py, which has the rest of them and the whole tree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mirothinker_jax.config_tree import check, one_of


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, a schedule and global-norm clipping (optax)."""

    learning_rate: float = 1e-3  # the peak, after warm-up
    schedule: str = "cosine"  # cosine, linear or constant, from the peak on
    warmup_fraction: float = 0.1  # of the steps, on the way up; the next step is at the peak
    final_fraction: float = 0.1  # of the peak learning rate, at the last step
    weight_decay: float = 0.1  # decoupled, as in AdamW
    b1: float = 0.9  # decay of the gradient's average
    b2: float = 0.95  # decay of the squared gradient's average
    eps: float = 1e-8  # added to the root in AdamW's denominator
    clip_norm: float = 1.0  # largest global norm of a gradient
    offload: bool = False  # AdamW's averages wait in the host's memory from one update to the next

    def __post_init__(self):
        check(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be > 0")
        one_of("schedule", self.schedule, ("cosine", "linear", "constant"))
        check(0 <= self.warmup_fraction < 1, f"warmup_fraction is {self.warmup_fraction}; give 0 ≤ x < 1")
        check(0 <= self.final_fraction <= 1, f"final_fraction is {self.final_fraction}; give 0 ≤ x ≤ 1")
        for key in ("b1", "b2"):
            check(0 <= getattr(self, key) < 1, f"{key} is {getattr(self, key)}; give 0 ≤ x < 1")
        for key in ("weight_decay", "eps"):
            check(getattr(self, key) >= 0, f"{key} is {getattr(self, key)}; it must be ≥ 0")
        check(self.clip_norm > 0, f"clip_norm is {self.clip_norm}; it must be > 0 (a large value: no clip)")


@dataclass(frozen=True)
class TrainingConfig:
    """One run of the training loop. A step sees `batch_size` rows, `microbatch_size` at a time (gradients add up)."""

    steps: int = 100  # optimizer updates; 0 where epochs says how many
    # Passes over the conversations, the pairs or the question pool, instead of steps, which then is 0.
    epochs: float = 0.0
    batch_size: int = 8  # sequences (packed rows) per step, over all devices
    microbatch_size: int = 8  # of them at a time, over all devices
    sequence_length: int = 2048  # length of a packed row
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_every: int = 50  # steps between checkpoints
    keep_checkpoints: int = 2  # how many of the newest stay on disk
    log_every: int = 10  # steps between lines of metrics

    def __post_init__(self):
        check(self.epochs >= 0, f"training.epochs is {self.epochs}; it must be ≥ 0")
        check(
            self.steps >= 1 if self.epochs == 0 else self.steps == 0,
            f"training.steps is {self.steps} and training.epochs {self.epochs}; give one of them, and 0 for the other",
        )
        for key in (
            "batch_size",
            "microbatch_size",
            "sequence_length",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            check(getattr(self, key) >= 1, f"training.{key} is {getattr(self, key)}; it must be ≥ 1")
        check(self.log_every >= 1, f"training.log_every is {self.log_every}; it must be ≥ 1")
        check(
            self.batch_size % self.microbatch_size == 0,
            f"training.batch_size ({self.batch_size}) must be a multiple of training.microbatch_size "
            f"({self.microbatch_size})",
        )
