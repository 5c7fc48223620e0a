"""The settings of questions and of who grades their answers.

As in config.py, which has the whole tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirothinker_jax.config_tree import check, check_address, one_of

_USER_CODE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
RULES = ("text", "number", "gaia", "set")
READINGS = ("word", "choice", "choice_zh", "verdict_zh", "fields", "parts", "grades")


@dataclass(frozen=True)
class TasksConfig:
    """What the agent is asked, and how its answers are graded."""

    # Where tasks and tools come from: world (the embedded web), files (train and heldout below) or MODULE:FACTORY, a
    # function of your own that takes the config and returns an Environment (tasks/types.py). Empty: files where one is
    # given, else world.
    environment: str = ""
    # Questions to train on: *.jsonl, *.jsonl.gz or *.parquet (globs and commas), a record each of question, answer,
    # id?, files? (attachments, beside the file); task_id, task_question, ground_truth, file_name are read, too.
    train: str = ""
    heldout: str = ""  # questions of the same form that are never trained on: evaluation asks them
    # Who says what is correct: text (the same without notation, case, accents, or the same number), number (the one
    # number in it), set (the same items in any order), gaia (that benchmark's string scorer), judge (the model at
    # judge_url) or MODULE:FUNCTION, of your own, which takes (task, attempt) and returns a bool, None or a Verdict.
    grader: str = "text"
    grader_timeout_s: float = 300.0  # seconds that a function of your own may take for one answer
    # An OpenAI-compatible endpoint (http://host/v1) whose model grades what does not equal the reference as text.
    judge_url: str = ""
    judge_model: str = ""  # the name that the endpoint knows the model by
    judge_key_env: str = "JUDGE_API_KEY"  # environment variable that holds its key, if it wants one
    # How it says its verdict: word (CORRECT or INCORRECT on a line of its own, first or last), choice (A or B),
    # choice_zh (the same, asked in Chinese), verdict_zh (结论：正确), fields (lines of extracted_final_answer,
    # reasoning, correct, confidence), parts (JSON: parts of the reference, answers too many), grades (A, B or C).
    judge_reading: str = "word"
    # With {question}, {answer} (the reference) and {response} (in JSON's quotes), asking for a verdict as judge_reading
    # says it; empty: the built-in one.
    judge_prompt_file: str = ""
    judge_cache_file: str = ""  # where verdicts are remembered from run to run; empty: in memory, for one run
    judge_temperature: float = 0.0  # of its sampling; -1: not sent, for models that refuse it
    judge_concurrency: int = 16  # requests to it at once
    judge_retries: int = 5  # requests made again after a failure that may pass, with random, growing waits
    judge_timeout_s: float = 60.0  # seconds that one request may take
    judge_deadline_s: float = 300.0  # seconds that a verdict may take, repeated requests included
    judge_max_calls: int = 0  # requests of one process, at most, repeated ones included; 0: any number
    judge_max_cost: float = 0.0  # what they may cost, by the prices below; 0: anything
    judge_input_price: float = 0.0  # of a million tokens that it reads
    judge_output_price: float = 0.0  # of a million tokens that it writes
    # How often an episode is run that the infrastructure broke (a service or a judge that does not answer).
    tries: int = 3
    # The share of a batch's episodes that may stay broken after that and are left out. Beyond it the run stops.
    broken_share: float = 0.1

    def __post_init__(self):
        _check_choice("environment", self.environment, ("", "world", "files"), "FACTORY")
        _check_choice("grader", self.grader, (*RULES, "judge"), "FUNCTION")
        check(
            self.source != "files" or bool(self.train or self.heldout),
            "tasks.environment is 'files' and names none; give tasks.train, tasks.heldout or both",
        )
        check(
            self.source != "world" or not (self.train or self.heldout),
            "tasks.environment is 'world', which asks its own questions; leave tasks.train and tasks.heldout empty",
        )
        judged = self.grader == "judge"
        for key in ("judge_url", "judge_model"):
            value = getattr(self, key)
            check(
                bool(value) == judged,
                f"tasks.{key} is {value!r} and tasks.grader {self.grader!r}; "
                + ("name it" if judged else "set tasks.grader to 'judge', or leave it out"),
            )
        check_address("tasks.judge_url", self.judge_url)
        one_of("tasks.judge_reading", self.judge_reading, READINGS)
        for key, absent in (("judge_prompt_file", ""), ("judge_cache_file", ""), ("judge_reading", "word")):
            check(
                judged or getattr(self, key) == absent,
                f"tasks.{key} is {getattr(self, key)!r} and tasks.grader {self.grader!r}; "
                "set the grader to 'judge', or leave it out",
            )
        for key in ("judge_max_calls", "judge_max_cost", "judge_input_price", "judge_output_price"):
            check(getattr(self, key) >= 0, f"tasks.{key} is {getattr(self, key)}; it must be ≥ 0")
        check(
            not self.judge_max_cost or self.judge_input_price + self.judge_output_price > 0,
            f"tasks.judge_max_cost is {self.judge_max_cost:g} and no price is given; set tasks.judge_input_price and "
            "tasks.judge_output_price",
        )
        check(
            self.judge_temperature >= 0 or self.judge_temperature == -1,
            f"tasks.judge_temperature is {self.judge_temperature}; give ≥ 0, or -1 to send none",
        )
        for key in ("judge_concurrency", "tries"):
            check(getattr(self, key) >= 1, f"tasks.{key} is {getattr(self, key)}; it must be ≥ 1")
        check(self.judge_retries >= 0, f"tasks.judge_retries is {self.judge_retries}; it must be ≥ 0")
        for key in ("grader_timeout_s", "judge_timeout_s", "judge_deadline_s"):
            check(getattr(self, key) > 0, f"tasks.{key} is {getattr(self, key)}; it must be > 0")
        check(0 <= self.broken_share < 1, f"tasks.broken_share is {self.broken_share}; give 0 ≤ x < 1")

    @property
    def source(self) -> str:
        """What `environment` says, or what its being empty means."""
        return self.environment or ("files" if self.train or self.heldout else "world")


def _check_choice(key: str, value: str, names: tuple[str, ...], function: str) -> None:
    """Raises ConfigError unless `value` is one of `names` or MODULE:NAME."""
    file = re.fullmatch(r"(.*?)(\w+)\.py:(\w+)", value)
    check(
        file is None,
        f"tasks.{key} is {value!r}; name the module, not its file: "
        + (f"{file[2]}:{file[3]}, with its folder in PYTHONPATH or as the working directory" if file else ""),
    )
    check(
        value in names or _USER_CODE.fullmatch(value) is not None,
        f"tasks.{key} is {value!r}; choose one of {', '.join(filter(None, names))}, or write MODULE:{function}",
    )
