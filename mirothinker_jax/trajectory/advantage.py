"""Group advantages: how much better an episode did than the others of its question.

One advantage per trajectory, from groups of trajectories (never of training samples). Episodes that failed
for reasons outside the policy must be left out before; a group of one has no signal and gets 0.
"""

from __future__ import annotations

import numpy as np

EPS = 1e-6


def group_advantages(rewards: np.ndarray, kind: str) -> np.ndarray:
    """Advantages float64 [G] of one group's rewards [G].

    mean: R − mean (MiroThinker, arXiv 2511.11793; Dr.GRPO, arXiv 2503.20783).
    std: also divided by the group's standard deviation, ddof 1, + 1e-6 (GRPO, arXiv 2402.03300).
    rloo: R − mean of the others (arXiv 2402.14740).
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.size < 2 or np.ptp(rewards) < 1e-9:  # equal rewards: no residue for the std to amplify
        return np.zeros_like(rewards)
    centred = rewards - rewards.mean()
    if kind == "mean":
        return centred
    if kind == "std":
        return centred / (rewards.std(ddof=1) + EPS)
    assert kind == "rloo", kind
    return centred * rewards.size / (rewards.size - 1)
