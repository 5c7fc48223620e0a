"""The benchmarks that are known by name: where a file has what, how it is encoded, who grades, what papers did.

A record each, and no code. Every benchmark may also come in the standard JSON Lines form (tasks/files.py), except the
encoded ones: their decoded copies are what the encoding is there to prevent.

Not safe: columns and counts are those of the releases that papers used; a new release may have others, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OWN = "questions"  # a file of one's own
_GPT = "gpt-4.1-2025-04-14"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      question, answer, id, file, image: names that the column has, the first that is there; () for none.
      metadata: key of Task.metadata → the column.
      cipher: of ciphers.KEYS, for questions, answers and the columns in `encoded`; "" for what is in clear.
      rule: of tasks.graders.RULES, where no judge is needed.
      reading: of tasks.judge_prompt.READINGS, for benchmarks that are judged. Neither: there is no reference.
      string_rule: a rule whose figure is printed beside the judge's.
      judge: the model that published figures were judged by, where it is known.
      sizes: how many questions the published file has, or its usual parts.
      runs: of each question, in papers.
      text_only: questions with a picture are left out.
      refuse: what names the benchmark in an address: such pages are hidden from the agent.
    """

    title: str
    question: tuple[str, ...] = ("question",)
    answer: tuple[str, ...] = ("answer",)
    id: tuple[str, ...] = ("id",)
    file: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    cipher: str = ""
    encoded: tuple[str, ...] = ()
    rule: str = ""
    reading: str = ""
    string_rule: str = ""
    judge: str = ""
    sizes: tuple[int, ...] = ()
    runs: int = 1
    text_only: bool = False
    refuse: tuple[str, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether answers can be right or wrong, and are not only predictions."""
        return bool(self.rule or self.reading)


_HLE = Benchmark(
    "Humanity's Last Exam",
    image=("image",),
    metadata={"answer_type": "answer_type", "category": "category"},
    reading="fields",
    judge="o3-mini-2025-01-31",
    sizes=(2500,),
    runs=3,
    refuse=("lastexam", "last-exam", "centerforaisafety/hle"),
)
_GAIA = Benchmark(
    "GAIA, validation",
    question=("Question",),
    answer=("Final answer", "answer"),
    id=("task_id",),
    file=("file_name",),
    metadata={"level": "Level"},
    reading="word",
    string_rule="gaia",
    judge=_GPT,
    sizes=(165,),
    runs=8,
    refuse=("gaia-benchmark", "gaia_benchmark", "gaia-validation", "gaia_validation"),
)

BENCHMARKS: Mapping[str, Benchmark] = {
    "gaia": _GAIA,
    "gaia-text-103": Benchmark(
        **{**vars(_GAIA), "title": "GAIA, validation, the 103 questions without files", "sizes": (103,)}
    ),
    "hle": _HLE,
    "hle-text": Benchmark(
        **{**vars(_HLE), "title": "Humanity's Last Exam, text", "sizes": (2158, 500), "text_only": True}
    ),
    "browsecomp": Benchmark(
        "BrowseComp",
        question=("problem",),
        metadata={"topic": "problem_topic"},
        cipher="sha256",
        reading="choice",
        judge="gpt-4.1",
        sizes=(1266,),
        runs=3,
        refuse=("browsecomp", "browse-comp", "browse_comp", "simple-evals"),
    ),
    "browsecomp-zh": Benchmark(
        "BrowseComp-ZH",
        question=("Question",),
        answer=("Answer",),
        cipher="sha256",
        encoded=("Topic",),
        metadata={"topic": "Topic"},
        reading="choice_zh",
        sizes=(289,),
        runs=3,
        refuse=("browsecomp", "browse-comp", "browse_comp"),
    ),
    "xbench-deepsearch": Benchmark(
        "xbench-DeepSearch",
        question=("prompt",),
        cipher="canary",
        reading="verdict_zh",
        sizes=(100,),
        runs=8,
        refuse=("xbench",),
    ),
    "frames": Benchmark(
        "FRAMES",
        question=("Prompt",),
        answer=("Answer",),
        metadata={"reasoning": "reasoning_types"},
        reading="word",
        judge=_GPT,
        sizes=(824,),
        runs=3,
        refuse=("frames-benchmark", "frames_benchmark"),
    ),
    "webwalkerqa": Benchmark(
        "WebWalkerQA",
        metadata={"root": "root_url", "info": "info"},
        reading="word",
        judge=_GPT,
        sizes=(680,),
        runs=3,
        refuse=("webwalkerqa", "webwalker"),
    ),
    "seal-0": Benchmark(
        "SEAL-0",
        answer=("answer", "answers"),
        metadata={"topic": "topic", "freshness": "freshness"},
        reading="word",
        judge=_GPT,
        sizes=(111,),
        runs=8,
        refuse=("sealqa", "seal-0", "seal_0"),
    ),
    "deepsearchqa": Benchmark(
        "DeepSearchQA",
        question=("problem",),
        metadata={"answer_type": "answer_type", "topic": "problem_category"},
        reading="parts",
        sizes=(900,),
        runs=3,
        refuse=("deepsearchqa", "deep-search-qa", "dsqa"),
    ),
    "aime2025": Benchmark(
        "AIME 2025",
        question=("problem",),
        rule="number",
        sizes=(30,),
        runs=32,
        refuse=("aime2025", "aime_2025", "aime-2025", "aime25"),
    ),
    "simpleqa": Benchmark(
        "SimpleQA",
        question=("problem",),
        reading="grades",
        refuse=("simpleqa", "simple-qa", "simple_qa", "simple-evals"),
    ),
    "futurex": Benchmark(
        "FutureX",
        question=("prompt",),
        answer=(),
        metadata={"end_time": "end_time", "level": "level"},
        runs=8,
        refuse=("futurex-ai", "futurex"),
    ),
    OWN: Benchmark("a file of questions", reading="word"),
}
