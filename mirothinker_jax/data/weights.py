"""How losses are averaged: the one place that says so.

A step's loss is Σ weight · loss over its trained tokens, divided once by Σ denominator. Both are made here, on the
host, sequence by sequence, when rows are built. So nothing that comes later can change the mean: not the packing, the
order of rows, micro-batches or padding, nor how many devices and processes there are.

    aggregate             weight of a trained token    a sequence adds to the denominator
    token-mean            1                            its trained tokens
    token-sum             1                            0: the sum is not divided
    seq-mean-token-sum    1                            1
    seq-mean-token-mean   1 / its trained tokens       1

SFT takes the token-mean. DPO weighs every trained token 1, and each pair adds 1 to the denominator (packing.py). GRPO
takes what grpo.aggregate says.

A sequence without a trained token adds nothing. One whose loss is known to be zero (its group earned equal rewards)
may be left out of the rows, but still adds to the denominator: to skip it saves time and changes no number. An episode
that the infrastructure broke is no part of the batch, and adds nothing.
"""

from __future__ import annotations

import numpy as np


def loss_weights(
    trained: np.ndarray, aggregate: str, of_tokens: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(weights, denominator), float32 [n] each, of a sequence whose predictions `trained` (bool [n]) are trained.

    `aggregate` is one of the table above. What the sequence adds to the denominator is the sum of its array. Where
    this is a part of a sequence that takes several rows, `of_tokens` are the trained tokens of the whole: the parts
    together add what the sequence in one row would.
    """
    weights = trained.astype(np.float32)
    count = np.count_nonzero(trained)
    whole = count if of_tokens is None else of_tokens
    if aggregate == "token-mean":
        return weights, weights.copy()
    denominator = np.zeros_like(weights)
    if aggregate == "token-sum":
        return weights, denominator
    if count:
        denominator[np.argmax(trained)] = count / whole
    if aggregate == "seq-mean-token-mean":
        return weights / np.float32(max(whole, 1)), denominator
    assert aggregate == "seq-mean-token-sum", aggregate
    return weights, denominator
