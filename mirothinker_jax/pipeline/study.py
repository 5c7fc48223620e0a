"""The study: what a trained policy does when calls, feedback, pages, language or memory are taken away or changed.

Every section is a handful of arms: the same questions, sampling seeds and noise, with one intervention between them.
Arms are series of episodes in journals, so the same command goes on with a study that was stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mirothinker_jax.agent.context import KEEP_ALL, ContextPolicy
from mirothinker_jax.agent.setting import Setting
from mirothinker_jax.config import Config
from mirothinker_jax.data.atomic import write_json
from mirothinker_jax.evals import arms
from mirothinker_jax.evals.drift import BANDS, Walk, calls_of_turn, calls_on_way, hazard, read_walk
from mirothinker_jax.evals.heldout import budget_specs
from mirothinker_jax.evals.interventions import FAULTS, Faulty, Led, Shuffled, Silent
from mirothinker_jax.evals.study_findings import findings
from mirothinker_jax.pipeline.lock import RunLock
from mirothinker_jax.pipeline.study_bench import Bench
from mirothinker_jax.pipeline.study_questions import Questions, announced, partners, tasks
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.trajectory.types import Source, Trajectory
from mirothinker_jax.world.chinese import in_chinese

logger = logging.getLogger(__name__)

_SPARE_CALLS = 6  # of a walk, beyond what its way needs
# By name: the series and its context policy. keep-all is the series that drift is read off.
MEMORIES = {
    "keep-all": ("feedback-from-0", KEEP_ALL),
    "keep-5": ("keep-5", ContextPolicy(5)),
    "hysteresis 5/15": ("hysteresis-5-15", ContextPolicy(5, 15)),
}


def study(config: Config, run: Path) -> dict[str, Any]:
    """Plays what is missing, writes RUN/study/summary.json and study.html, and returns the summary.

    Raises ConfigError where the run has no policy for it, OutageError where the tools break too many episodes.
    """
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(RunLock(run / "study"))
        bench = Bench(config, run, stack)
        sections = _Study(bench, Questions(config))
        summary: dict[str, Any] = {
            "policy": bench.policy,
            "seed": config.seed,
            "max_hops": config.world.max_hops,
        }
        summary["scaling"] = sections.scaling(run)
        summary["matched_compute"] = sections.matched_compute()
        summary["arms"] = sections.arms()
        summary["languages"] = sections.languages()
        summary["recovery"] = sections.recovery()
        summary["drift"] = sections.drift()
        summary["memory"] = sections.memory()
    summary["findings"] = findings(summary)
    summary["journals"] = bench.folder.name
    summary["wall_s"] = round(time.monotonic() - begun, 1)
    write_json(run / "study" / "summary.json", summary)
    from mirothinker_jax.evals.study_page import write_page  # only now: what draws takes a second to import

    write_page(run / "study" / "study.html", run.resolve().name, summary)
    return summary


class _Study:
    def __init__(self, bench: Bench, questions: Questions):
        self._bench, self._questions, self._config = bench, questions, bench.config
        self._asked = tasks(questions.usual)
        self._budgets = sorted(set(self._config.study.budgets))
        self._deepest = self._budgets[-1]

    def _play(self, arm: str, asked: Sequence[Task], allowed: int, **how: Any) -> list[Trajectory]:
        """An arm: each task once, with so many calls allowed."""
        specs = budget_specs(arm, asked, (allowed,), self._config.seed)
        return self._bench.play(arm, specs, **how)

    def _deep(self) -> list[Trajectory]:
        return self._play("silent", self._asked, self._deepest)

    def scaling(self, run: Path) -> dict[str, Any]:
        """Accuracy against allowed calls: told beforehand, or cut off without a word; and each stage's, as the run
        itself measured it."""
        budgets, told, silent = self._budgets, {}, {}
        # All at once, as the last episodes of a series leave most of the cache's slots idle.
        specs = budget_specs("silent", self._asked, budgets, self._config.seed)
        self._bench.play("silent", specs)
        again = [
            s
            for n in budgets
            for s in budget_specs("announced", announced(self._asked, n), (n,), self._config.seed)
        ]
        self._bench.play("announced", again)
        for n in budgets:
            silent[n] = self._play("silent", self._asked, n)
            told[n] = self._play("announced", announced(self._asked, n), n)
        stages = self._bench.stage_episodes(run)
        widest = {s: max(int(t.metrics["max_calls"]) for t in found) for s, found in stages.items()}
        free = {s: [t for t in found if t.metrics["max_calls"] == widest[s]] for s, found in stages.items()}
        return {
            "silent": {str(n): arms.arm_figures(t) for n, t in silent.items()},
            "announced": {str(n): arms.arm_figures(t) for n, t in told.items()},
            "announced_minus_silent": arms.compare_all({str(n): (silent[n], told[n]) for n in budgets}),
            "stages": {s: arms.accuracy_by_calls(found) for s, found in stages.items()},
            "stages_by_hops": {s: arms.by_hops(found) for s, found in free.items()},
            "deeper_half": arms.deeper_half(free, self._calls_on_way),
        }

    def _calls_on_way(self, trajectory: Trajectory) -> int:
        way = self._questions.way_of(trajectory.metadata)
        return calls_on_way(trajectory, *way, self._config.data.call_format)

    def matched_compute(self) -> dict[str, Any]:
        """One deep episode against the majority of many shallow ones, by the tokens of all."""
        c = self._config.study
        shallow = {}
        for calls in c.shallow_calls:
            attempts: dict[str, list[Trajectory]] = {t.id: [] for t in self._asked}
            specs = []
            for number in range(c.samples):
                again = [dataclasses.replace(t, id=f"{t.id}#{number}") for t in self._asked]
                specs += budget_specs("shallow", again, (calls,), self._config.seed)
            for t in self._bench.play("shallow", specs):
                attempts[t.question_id.rpartition("#")[0]].append(t)
            judged = {q: [t for t in found if t.correct is not None] for q, found in attempts.items()}
            shallow[str(calls)] = arms.majority_figures({q: t for q, t in judged.items() if t}, c.samples)
        depth = {str(n): arms.arm_figures(self._play("silent", self._asked, n)) for n in self._budgets}
        return {"depth": depth, "shallow": shallow}

    def arms(self) -> dict[str, Any]:
        """With feedback and without it, or with another question's."""
        deep = self._deep()
        pages = tasks(self._questions.usual, self._questions.with_pages)
        heard = {t.question_id: _heard(t) for t in deep}
        told = {
            f"shuffled-{self._deepest}/{one}": heard.get(other, ())
            for one, other in partners(self._asked).items()
        }
        found = {
            "isolated": self._play("isolated", self._asked, 0),
            "pages": self._play("pages", pages, 0, setting=self._walking),
            "react": self._play("react", self._asked, self._config.study.react_calls),
            "shuffled": self._play(
                "shuffled", self._asked, self._deepest, calls=lambda executor: Shuffled(executor, told)
            ),
        }
        against = arms.compare_all({name: (t, deep) for name, t in found.items()})
        figures = {
            name: arms.arm_figures(t) | {"deep_minus_this": against[name]} for name, t in found.items()
        }
        return figures | {"deep": arms.arm_figures(deep)}

    def languages(self) -> dict[str, Any]:
        """The same questions in Chinese words, or with Chinese words only around the names on the pages."""
        deep, usual = self._deep(), self._questions.usual
        found = {
            "frame": self._play(
                "frame", tasks(usual, lambda q: in_chinese(q, frame_only=True)), self._deepest
            ),
            "chinese": self._play("chinese", tasks(usual, in_chinese), self._deepest),
        }
        against = arms.compare_all({name: (t, deep) for name, t in found.items()})
        figures = {
            name: arms.arm_figures(t) | {"english_minus_this": against[name]} for name, t in found.items()
        }
        return {"english": arms.arm_figures(deep)} | figures

    def recovery(self) -> dict[str, Any]:
        """A page that goes wrong, against the same episodes where it does not."""
        figures: dict[str, Any] = {}
        plain = {t.question_id: t for t in self._play("plain", self._asked, self._deepest, quiet=True)}
        for step in self._config.study.fault_steps:
            turn = step + 2  # the first one searches
            struck = [t for t in self._asked if self._strikes(plain[t.id], turn)]
            pairs = {}
            for kind in FAULTS if struck else ():

                def calls(executor: Any, kind: str = kind, turn: int = turn) -> Faulty:
                    return Faulty(executor, kind, turn, self._questions.other)

                hit = self._play(f"{kind}-{step}", struck, self._deepest, quiet=True, calls=calls)
                pairs[kind] = ([plain[t.id] for t in struck], hit)
            against = arms.compare_all(pairs)
            for kind, (before, hit) in pairs.items():
                figures.setdefault(kind, {})[str(step)] = {
                    "without": arms.arm_figures(before),
                    "with": arms.arm_figures(hit),
                    "with_minus_without": against[kind],
                }
        return figures

    def _strikes(self, plain: Trajectory, turn: int) -> bool:
        """Whether a page was read at that turn of which the neighbourhood has another that differs."""
        for call in calls_of_turn(plain, turn, self._config.data.call_format):
            if "url" in call.arguments:
                wanted = str(call.arguments.get("info_to_extract", ""))
                return self._questions.other(str(call.arguments["url"]), wanted) is not None
        return False

    def drift(self) -> dict[str, Any]:
        """Errors per step, with feedback and without, of episodes that begin where each band does."""
        depths = sorted(set(self._config.study.depths))
        walks: dict[str, dict[int, list[Walk]]] = {
            arm: {hops: [] for hops in depths} for arm in ("feedback", "isolated")
        }
        for start in (first - 1 for first, _ in BANDS):
            for arm, found in walks.items():
                episodes = self._walk(f"{arm}-from-{start}", depths, start, silent=arm == "isolated")
                for hops, of_depth in episodes.items():
                    found[hops] += self._read(hops, of_depth, start)
        names = [f"{first}–{last}" if last < 10**6 else f"{first}+" for first, last in BANDS]

        def table(found: Sequence[Walk]) -> dict[str, Any]:
            bands = zip(names, (hazard(found, band) for band in BANDS), strict=True)
            return {name: dataclasses.asdict(h) if h else None for name, h in bands}

        return {
            "by_band": {
                arm: table([w for walk in found.values() for w in walk]) for arm, found in walks.items()
            },
            "by_depth": {
                arm: {str(h): table(walk) for h, walk in found.items()} for arm, found in walks.items()
            },
            "steps_done": {
                arm: {str(h): _mean([w.done for w in walk if w.start == 0]) for h, walk in found.items()}
                for arm, found in walks.items()
            },
        }

    def memory(self) -> dict[str, Any]:
        """Old results hidden or not, on long walks."""
        figures: dict[str, Any] = {name: {} for name in MEMORIES}
        depths = sorted(set(self._config.study.long_depths))
        for name, (arm, policy) in MEMORIES.items():
            for hops, episodes in self._walk(arm, depths, 0, context=policy).items():
                figures[name][str(hops)] = arms.arm_figures(episodes) | {
                    "steps_done": _mean([walk.done for walk in self._read(hops, episodes, 0)]),
                    "steps_needed": hops + 2,
                    "longest_context": _mean([max(_context_tokens(t), default=0) for t in episodes]),
                }
        return figures

    def _walk(
        self,
        arm: str,
        depths: Sequence[int],
        start: int,
        silent: bool = False,
        context: ContextPolicy = KEEP_ALL,
    ) -> dict[int, list[Trajectory]]:
        """Walks of these depths, as far as they have more than the `start` steps that are given, on the quiet web."""
        c, tokenizer = self._config, self._bench.tokenizer
        given: dict[str, list[str]] = {}
        specs = {}
        for hops in (hops for hops in depths if start < hops + 2):
            asked = self._questions.walks(hops)
            specs[hops] = budget_specs(f"{arm}-of-{hops}", tasks(asked), (hops + 2 + _SPARE_CALLS,), c.seed)
            for spec, question in zip(specs[hops], asked, strict=True):
                given[spec.id] = self._questions.first_turns(question, start, c.data.call_format)
        header = (tokenizer.im_start_id, *tokenizer.encode("assistant\n"))
        episodes = iter(
            self._bench.play(
                arm,
                [spec for of_depth in specs.values() for spec in of_depth],
                setting=dataclasses.replace(self._walking, context=context),
                quiet=True,
                calls=Silent if silent else lambda executor: executor,
                turns=lambda engine: Led(engine, given, tokenizer.encode, header, tokenizer.im_end_id),
            )
        )
        return {hops: list(itertools.islice(episodes, len(of_depth))) for hops, of_depth in specs.items()}

    def _read(self, hops: int, episodes: Sequence[Trajectory], start: int) -> list[Walk]:
        call_format = self._config.data.call_format
        asked = self._questions.walks(hops)
        return [
            read_walk(t, *self._questions.way(q), start, call_format)
            for q, t in zip(asked, episodes, strict=True)
        ]

    @functools.cached_property
    def _walking(self) -> Setting:
        """The run's setting with room for the longest of all walks, told as the expert tells it, and for a question
        with its pages. One for all, as each size of context costs a compilation."""
        c, plain, chat = self._config, self._bench.setting, self._bench.chat
        encode = self._bench.tokenizer.encode
        hops = max(*c.study.depths, *c.study.long_depths)
        walks = [
            self._questions.first_turns(q, hops + 1, c.data.call_format) for q in self._questions.walks(hops)
        ]
        lengths = max(([len(encode(turn)) for turn in turns] for turns in walks), key=sum)
        turn_tokens = max(plain.turn_tokens, max(lengths) + 8)
        result = plain.output_tokens + len(chat.observation([""]))
        walked = sum(lengths) + len(lengths) * result + _SPARE_CALLS * (result + turn_tokens)
        asked = (
            [q.text for q in self._questions.walks(hops)],
            map(self._questions.with_pages, self._questions.usual),
        )
        question, pages = (
            max(len(chat.prompt(plain.system, text, plain.functions)) for text in t) for t in asked
        )
        last = 2 * turn_tokens + result + len(chat.observation([], request=plain.final_request))
        room = max(question + walked, pages) + last
        return dataclasses.replace(
            plain, turn_tokens=turn_tokens, context_tokens=max(plain.context_tokens, -(-room // 128) * 128)
        )


def _heard(trajectory: Trajectory) -> list[str]:
    """The results of an episode's turns, in order."""
    seen = (s for s in trajectory.segments if s.source is Source.OBSERVATION)
    texts = ("\n".join(text for role, text in segment.messages if role == "tool") for segment in seen)
    return list(texts)


def _context_tokens(trajectory: Trajectory) -> list[int]:
    """Tokens of each turn with what it was sampled in."""
    sizes = [len(segment.tokens) for segment in trajectory.segments]
    return [sum(sizes[i] for i in turn.context) + sizes[turn.segment] for turn in trajectory.turns]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 3) if values else 0.0
