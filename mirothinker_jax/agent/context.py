"""What the model sees of the results so far: all of them, the last K, or a pile that is cut to K when it is high.

Thoughts and calls always stay; a hidden result leaves a line in its place. Results are counted as the released scaffold
counts them: a message is one, however many calls it answers, and so is the message that asks for the final answer. So
with the last K kept, K − 1 results are seen beside that request.

Keep-K changes the middle of the context at every turn, and whatever was computed behind the change is computed again.
With a high-water mark that happens once in (mark − K) results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PLACEHOLDER = "[earlier result, no longer shown]"


@dataclass(frozen=True)
class ContextPolicy:
    """Which results are hidden.

    Attributes:
      keep: how many of the last ones stay; -1: all.
      high_results: a pile of more than these is cut to `keep`; 0: no such mark. Without any mark, every pile is.
      high_tokens: and so is one of more than these tokens.
    """

    keep: int = -1
    high_results: int = 0
    high_tokens: int = 0


KEEP_ALL = ContextPolicy()


def hidden_results(policy: ContextPolicy, sizes: Sequence[int], before: int) -> int:
    """How many of the results, the oldest, the next turn does not see.

    Args:
      sizes: tokens of each result's message, oldest first, that of the request for the final answer included.
      before: how many the last turn did not see.

    >>> [hidden_results(ContextPolicy(2), [9] * n, 0) for n in range(5)]
    [0, 0, 0, 1, 2]
    """
    if policy.keep < 0:
        return 0
    cut = max(0, len(sizes) - policy.keep)
    if not (policy.high_results or policy.high_tokens):
        return cut
    before = min(before, len(sizes))
    shown = sizes[before:]
    piled = 0 < policy.high_results < len(shown) or 0 < policy.high_tokens < sum(shown)
    return max(before, cut) if piled else before
