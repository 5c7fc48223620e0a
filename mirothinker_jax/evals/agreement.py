"""How far two graders agree: two judges, or a judge and people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirothinker_jax.data.strict_json import DataError
from mirothinker_jax.evals.tables import read_rows

_SAID = {"1": True, "true": True, "yes": True, "right": True, "correct": True}
_SAID |= {"0": False, "false": False, "no": False, "wrong": False, "incorrect": False}


@dataclass(frozen=True)
class Agreement:
    """The four counts of two graders' verdicts on the same answers."""

    both_right: int
    only_first: int
    only_second: int
    both_wrong: int

    @property
    def n(self) -> int:
        """Answers that both judged."""
        return self.both_right + self.only_first + self.only_second + self.both_wrong

    @property
    def share(self) -> float:
        """Of the answers on which they agree, 0…1."""
        return (self.both_right + self.both_wrong) / self.n

    @property
    def kappa(self) -> float | None:
        """Cohen's κ (Educ. Psychol. Meas. 20, 1960, p. 37), −1…1: agreement beyond what their shares of right ones give
        by chance. None where each says the same of all answers, and chance explains everything."""
        first = (self.both_right + self.only_first) / self.n
        second = (self.both_right + self.only_second) / self.n
        chance = first * second + (1 - first) * (1 - second)
        return None if chance == 1 else (self.share - chance) / (1 - chance)

    def line(self) -> str:
        """For people.

        >>> Agreement(20, 5, 10, 15).line()
        'they agree on 35 of 50 answers (κ = 0.400); 5 are right for the first alone, 10 for the second alone'
        """
        kappa = "–" if self.kappa is None else f"{self.kappa:.3f}"
        return (
            f"they agree on {self.both_right + self.both_wrong} of {self.n} answers (κ = {kappa}); "
            f"{self.only_first} are right for the first alone, {self.only_second} for the second alone"
        )


def agreement(first: Mapping[str, bool | None], second: Mapping[str, bool | None]) -> Agreement:
    """Of the answers, by id, that both judged. Raises ValueError where there are none."""
    pairs = [
        (one, second[key]) for key, one in first.items() if one is not None and second.get(key) is not None
    ]
    if not pairs:
        raise ValueError("no answer was judged by both; the ids must be those of the episodes")
    return Agreement(
        *(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False)))
    )


def read_people(path: str) -> dict[str, bool]:
    """Verdicts of people by episode, from a table of the columns `episode` and `correct`. Rows without a verdict are
    left out.

    Raises DataError: FILE:LINE: column: what is wrong; way out.
    """
    found: dict[str, bool] = {}
    for number, row in read_rows(path):
        for column in ("episode", "correct"):
            if column not in row:
                raise DataError(
                    f"{path}:{number}: {column}: is missing; give the columns episode and correct"
                )
        said = str(row["correct"]).strip().casefold()
        if not said or row["correct"] is None:
            continue
        if said not in _SAID:
            raise DataError(f"{path}:{number}: correct: is {row['correct']!r}; write yes or no, or nothing")
        found[str(row["episode"]).strip()] = _SAID[said]
    return found
