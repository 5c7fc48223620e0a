"""What the evaluate command is asked for. No jax here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mirothinker_jax.agent.chat_engine import ChatSettings
from mirothinker_jax.config import Config, check


@dataclass(frozen=True)
class Evaluation:
    """What is asked for.

    Attributes:
      policy: a run, a Hugging Face folder, or an endpoint's address, for which `chat` is meant.
      runs: episodes of each question.
      limit: of the questions, the first so many; 0: all.
      concurrency: episodes at once.
      sft, pairs: files to export to.
      benchmark: whose questions config.tasks.heldout has; "": nobody's.
      rejudge: judge what is there once more.
      view: folder for a log of inspect_ai.
      allow_encoded: export questions in clear that were published encoded.
      second_judge, people: as in benchmarking.assess; of a benchmark.
    """

    policy: str
    config: Config
    chat: ChatSettings
    folder: Path
    runs: int
    limit: int = 0
    concurrency: int = 16
    sft: Path | None = None
    pairs: Path | None = None
    benchmark: str = ""
    rejudge: bool = False
    view: Path | None = None
    allow_encoded: bool = False
    second_judge: str = ""
    people: str = ""

    def __post_init__(self):
        for name, least in (("runs", 1), ("limit", 0), ("concurrency", 1)):
            check(getattr(self, name) >= least, f"--{name} is {getattr(self, name)}; it must be ≥ {least}")
        for name, value in (("second-judge", self.second_judge), ("people", self.people)):
            check(
                not value or bool(self.benchmark), f"--{name} is of a --benchmark; name one, or leave it out"
            )
        judged = self.config.tasks.grader == "judge"
        check(judged or not self.second_judge, "--second-judge is beside a judge; set tasks.grader=judge")
