"""The order of a row's tokens in a batch: as the devices of `context` hold them, one after the other.

Of 2n equal chunks, device i has the i-th and the i-th from behind, so that under a causal mask all have the same work.
Rows are brought into this order once, when they are placed; everything a token needs (its position, its target, what
it sees) comes with it, so only attention knows of the order.
"""

from __future__ import annotations

import numpy as np


def zigzag(sequence_length: int, devices: int) -> np.ndarray:
    """int64 [T], the place in the row of each token of a batch. One device: the row's own order.

    >>> zigzag(8, 2)
    array([0, 1, 6, 7, 2, 3, 4, 5])
    """
    chunks = np.arange(sequence_length).reshape(2 * devices, -1)
    return np.concatenate([chunks[:devices], chunks[: devices - 1 : -1]], axis=1).reshape(-1)
