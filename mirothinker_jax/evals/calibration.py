"""Whether a policy is right as often as it says: the calibration error of Humanity's Last Exam.

Root mean square, over bins of 100 answers by confidence, of how far a bin's mean confidence is from its share of right
answers. The last bin takes what is left over, and counts (one public loop leaves it out). A policy that states no
confidence has no such error: nobody's silence is taken for 100%.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

BIN = 100
_STATED = re.compile(
    r"(?:confidence|置信度|信心)[^\d\n%]{0,20}(\d{1,3}(?:\.\d+)?)[\s*_]*[%％]", re.IGNORECASE
)


def calibration_error(answers: Sequence[tuple[float, bool]], size: int = BIN) -> float:
    """Of (confidence in 0…1, correct) pairs, 0…1. With fewer than 2 `size` answers, there is one bin.

    Raises ValueError where there are none.
    """
    if not answers:
        raise ValueError("no answer states a confidence")
    ordered = sorted(answers, key=lambda pair: pair[0])
    bins = [ordered[i * size : (i + 1) * size] for i in range(max(1, len(ordered) // size))]
    bins[-1] = ordered[(len(bins) - 1) * size :]
    squares = (
        len(part)
        * (math.fsum(c for c, _ in part) / len(part) - sum(right for _, right in part) / len(part)) ** 2
        for part in bins
    )
    return math.sqrt(math.fsum(squares) / len(ordered))


def stated_confidence(text: str) -> float | None:
    """The last confidence that a text states as a percentage, 0…1; None where it states none.

    >>> stated_confidence("Answer: 8\\nConfidence: 87%"), stated_confidence("I am confident.")
    (0.87, None)
    """
    found = _STATED.findall(text)
    return float(found[-1]) / 100 if found and float(found[-1]) <= 100 else None
