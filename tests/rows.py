"""Packed rows for each objective, and the objectives: what tests of steps on a mesh share."""

import tiny

from mirothinker_jax.config import DPOConfig, GRPOConfig
from mirothinker_jax.data.packing import pack_pairs, pack_rows
from mirothinker_jax.objectives.dpo import make_dpo
from mirothinker_jax.objectives.grpo import make_grpo

LENGTH, ROWS = 32, 8
LENGTHS = (32, 20, 12, 9, 9, 9, 5, 25, 7, 30, 16, 16, 2, 31, 3, 11)

GSPO = make_grpo(GRPOConfig(loss="gspo", clip_low=0.3, sampler_mask="geometric", mask_low=0.2, mask_high=5.0))
GRPO = make_grpo(GRPOConfig(loss="clip", kl_coef=0.1))
DPO = make_dpo(DPOConfig(beta=0.5, sft_coef=0.2, pairs_per_row=2))


def packed(row_multiple=ROWS, aggregate="token-mean"):
    """For SFT and GRPO."""
    batch = pack_rows(tiny.samples(0, LENGTHS), LENGTH, row_multiple, aggregate=aggregate)
    assert batch.shape == (ROWS, LENGTH)
    return batch


def preferences():
    """For DPO."""
    batch = pack_pairs(tiny.pairs(1, [(5, 4, 7), (3, 6, 2), (12, 9, 9), (2, 1, 1)]), LENGTH, 2, ROWS)
    assert batch.shape == (ROWS, LENGTH)
    return batch
