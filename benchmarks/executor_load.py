"""How much the tool executor costs, and how much of the ideal schedule it reaches, with hundreds of episodes.

    python benchmarks/executor_load.py

Each episode makes its calls one after the other. The tools only wait: log-normal times with a median of 1 s and a
99th percentile of 20 s, the same in every row. All else is the real executor: arguments mended and checked, slots,
deadlines, retries and circuit breaker on, results cut to 256 tokens (one a character), and every call recorded.

occupancy: the ideal schedule's time over the executor's, the worse of two: until the last episode ends, and the mean
over episodes. The ideal one gives a free slot to the first in the queue and takes no time for it. The worst row counts.
cpu_ms_per_call: processor time of the whole process, over the calls. The worst row counts.

Unusual: waits are skipped. The clock is the wall's, moved on to the next timer where the process would sleep. So
what the processor has to do (and whatever else keeps it busy) takes its time, and a minute of waiting takes none.
`--clock real` sleeps instead.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
import selectors
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measuring import Options
from results import device, finish, table

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import ToolCall, ToolSpec

MEDIAN_S, P99_S = 1.0, 20.0
SIGMA = math.log(P99_S / MEDIAN_S) / 2.3263  # the normal distribution's 99th percentile
DEADLINE_S = 3600.0  # the times are the benchmark's, none is cut
PAGE = "A line of a page, about as long as lines of pages are, with a number or two: 1,234.5.\n" * 12
PARAMETERS = {
    "type": "object",
    "properties": {"q": {"type": "string", "minLength": 1}, "n": {"type": "integer", "minimum": 1}},
    "required": ["q"],
    "additionalProperties": False,
}


class Waiting:
    """A tool that answers after the seconds that the call's number stands for."""

    def __init__(self, name: str, seconds: list[float]):
        self.spec = ToolSpec("benchmark", name, "waits", PARAMETERS)
        self._seconds = seconds

    async def run(self, arguments: Mapping[str, Any], request_id: str) -> str:
        await asyncio.sleep(self._seconds[arguments["n"] - 1])
        return PAGE


class _Skipping(selectors.DefaultSelector):
    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout:
            self.skipped_s += timeout
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    """Its clock is the wall's and what was skipped."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return time.monotonic() + self._skipping.skipped_s


def ideal_ends(seconds: list[list[float]], slots: int) -> list[float]:
    """When each episode ends if a free slot goes to the first in the queue at once."""
    free = [0.0] * slots
    ready = [(0.0, episode, 0) for episode in range(len(seconds))]
    ends = [0.0] * len(seconds)
    while ready:
        when, episode, number = heapq.heappop(ready)
        end = max(when, heapq.heappop(free)) + seconds[episode][number]
        heapq.heappush(free, end)
        if number + 1 < len(seconds[episode]):
            heapq.heappush(ready, (end, episode, number + 1))
        else:
            ends[episode] = end
    return ends


async def play(seconds: list[list[float]], slots: int, record: Path) -> tuple[list[float], ToolExecutor]:
    """When each episode ends, and the executor that made its calls."""
    calls = len(seconds[0])
    flat = [s for episode in seconds for s in episode]
    tools = [Waiting(name, flat) for name in ("search", "scrape")]
    settings = ToolsConfig(
        concurrency=slots,
        deadline_s=DEADLINE_S,
        retries=2,
        breaker_failures=20,
        record=str(record),
    )
    clock = asyncio.get_running_loop().time
    async with ToolExecutor(tools, settings, Characters().truncate) as executor:
        begun = clock()

        async def one(episode: int) -> float:
            for number in range(calls):
                arguments = {"q": f"what is {episode} and {number}", "n": str(episode * calls + number + 1)}
                call = ToolCall("benchmark", ("search", "scrape")[number % 2], arguments)
                result = await executor.execute(call, f"episode-{episode}:{number}.0")
                assert result.failure is None and result.truncated, result
            return clock() - begun

        return await asyncio.gather(*[one(episode) for episode in range(len(seconds))]), executor


def main() -> None:
    parser = Options(__doc__)
    parser.add("episodes", 512, "at the same time")
    parser.add("calls", 20, "of each episode")
    parser.add("few-slots", 128, "calls at once in the second row; the first has one for each episode")
    parser.add("clock", "skipping", "skipping: waits take no time; real: they do (minutes)")
    options = parser.parse_args()
    if options.clock not in ("skipping", "real"):
        parser.error(f"--clock is {options.clock!r}; choose skipping or real")
    draw = random.Random(0)
    seconds = [
        [MEDIAN_S * math.exp(draw.gauss(0, SIGMA)) for _ in range(options.calls)]
        for _ in range(options.episodes)
    ]
    factory = SkippingLoop if options.clock == "skipping" else asyncio.SelectorEventLoop
    rows = []
    for slots in (options.episodes, options.few_slots):
        ideal = ideal_ends(seconds, slots)
        with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=factory) as runner:
            cpu = time.process_time()
            ends, executor = runner.run(play(seconds, slots, Path(folder) / "calls"))
            cpu = time.process_time() - cpu
        made = executor.counters.calls
        rows.append(
            {
                "slots": slots,
                "calls": made,
                "ideal_s": round(max(ideal), 2),
                "executor_s": round(max(ends), 2),
                "occupancy": round(min(max(ideal) / max(ends), sum(ideal) / sum(ends)), 4),
                "cpu_ms_per_call": round(1e3 * cpu / made, 3),
                "p50_s": round(executor.counters.latency["search"].percentile(0.5), 2),
                "p99_s": round(executor.counters.latency["search"].percentile(0.99), 2),
            }
        )
    print(table(tuple(rows[0]), [tuple(str(value) for value in row.values()) for row in rows]))
    finish(
        "executor_load",
        {
            "occupancy": min(row["occupancy"] for row in rows),
            "cpu_ms_per_call": max(row["cpu_ms_per_call"] for row in rows),
            "episodes": options.episodes,
            "median_s": MEDIAN_S,
            "p99_s": P99_S,
            "clock": options.clock,
            "rows": rows,
            "python": sys.version.split()[0],
            "device": device(),
        },
    )


if __name__ == "__main__":
    main()
