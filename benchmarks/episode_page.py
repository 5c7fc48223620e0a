"""A page with an episode of 600 calls: how large it is, and how long a browser takes until its last turn can be read.

    python benchmarks/episode_page.py [--shots FOLDER]

The episode is made up, in real sizes: turns of 150 tokens, results of 1,000, all but the last five hidden, one call in
twenty failed. Its words are drawn as words are in English texts (Zipf's law), so that they deflate as a text does.
open_s_600_calls is from navigation until the whole episode is drawn and its last turn, jumped to, is in the window.
find_s is what a search for words of the last turn takes then: the page's own, and the browser's.
The browser is Debian's Chromium (apt install chromium); times are the median of several starts of the page.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from chromium import find_chromium, open_page
from measuring import Options
from results import device, finish, table

from mirothinker_jax.evals.report_evaluation import write_evaluation_report
from mirothinker_jax.tasks.types import Verdict
from mirothinker_jax.tools.spec import ToolCall, render_call
from mirothinker_jax.trajectory.journal import Journal
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, Turn, TurnContext

KEEP = 5
TURN_TOKENS, RESULT_TOKENS = 150, 1000
LAST = "the end of the way"
_LAST_TURN_IN_WINDOW = f"""(() => {{
  const last = document.querySelector(".segments")?.lastElementChild;
  if (!last?.textContent.includes({LAST!r})) return false;
  last.scrollIntoView();
  const {{ top, height }} = last.getBoundingClientRect();
  return height > 0 && top >= 0 && top < innerHeight;
}})()"""
_FIND = f"""(() => {{
  const begun = performance.now(), search = document.querySelector(".view input[type=search]");
  search.value = {LAST!r};
  search.dispatchEvent(new KeyboardEvent("keydown", {{ key: "Enter" }}));
  if (!document.querySelector(".segments").lastElementChild.classList.contains("found")) throw Error("not found");
  return performance.now() - begun;
}})()"""
_FIND_BY_BROWSER = f"""(() => {{
  const begun = performance.now();
  if (!window.find({LAST!r})) throw Error("not found");
  return performance.now() - begun;
}})()"""
_SYLLABLES = [
    "ka",
    "ro",
    "min",
    "the",
    "an",
    "ber",
    "sol",
    "ti",
    "ver",
    "lo",
    "ing",
    "ed",
    "pra",
    "nu",
    "est",
    "or",
]


def vocabulary(rng: np.random.Generator) -> list[str]:
    """20,000 made-up words, the most frequent ones short; one of them is a token."""
    return ["".join(rng.choice(_SYLLABLES, size=1 + (i > 40) + (i > 900))) for i in range(20_000)]


def episode(calls: int, seed: int) -> tuple[Trajectory, list[dict[str, Any]]]:
    """The episode, and its calls' fields for a journal."""
    rng = np.random.default_rng(seed)
    words = vocabulary(rng)
    often = 1 / (np.arange(len(words)) + 2.7)
    often /= often.sum()

    def draw(tokens: int) -> str:
        return " ".join(words[i] for i in rng.choice(len(words), tokens, p=often))

    prompt = (("system", draw(900)), ("user", "Which word ends the way that begins at karo?"))
    segments, turns, path, results = [Segment(Source.PROMPT, (1,) * 1000, prompt)], [], [0], []
    for number in range(calls + 1):
        hidden = [i for i in path if segments[i].source is Source.OBSERVATION][:-KEEP]
        for index in hidden[-1:]:
            line = (("tool", "[earlier result, no longer shown]"),)
            segments.append(Segment(Source.PLACEHOLDER, (7,) * 12, line, hides=index))
        short = {s.hides: i for i, s in enumerate(segments) if s.hides is not None}
        context = tuple(short.get(i, i) for i in path)
        call = ToolCall("search_and_scrape_webpage", "google_search", {"q": draw(8), "num": number})
        said = f"<think>\n{draw(TURN_TOKENS - 60)}\n</think>\n\n{render_call(call)}"
        if number == calls:
            said = f"<think>\n{LAST}\n</think>\n\n\\boxed{{karo}}"
        tokens = tuple(rng.integers(0, 150_000, TURN_TOKENS).tolist())
        logprobs = tuple((-rng.exponential(0.3, TURN_TOKENS)).astype(np.float32).tolist())
        segments.append(Segment(Source.POLICY, tokens, (("assistant", said),), logprobs))
        turns.append(TurnContext(len(segments) - 1, context))
        path.append(len(segments) - 1)
        if number < calls:
            failure = "unreachable" if rng.random() < 0.05 else None
            text = "the host did not answer" if failure else draw(RESULT_TOKENS)
            size = 12 if failure else RESULT_TOKENS
            segments.append(Segment(Source.OBSERVATION, (9,) * size, (("tool", text),)))
            path.append(len(segments) - 1)
            results.append({"failure": failure, "seconds": float(rng.exponential(1.2)), "text": ""})
    told: dict[str, Any] = dict(question=prompt[1][1], expected="karo", answer="karo", stop=Stop.ANSWERED)
    told |= dict(failed_calls=sum(r["failure"] is not None for r in results), malformed_calls=0, calls=calls)
    told |= dict(
        segments=tuple(segments), turns=tuple(turns), correct=True, metrics={"max_calls": float(calls)}
    )
    return Trajectory("eval/deep#0", "deep", **told), results


def write_journal(path: Path, calls: int, seed: int) -> int:
    """A journal with the episode as it would have been written. Returns the tokens of its ledger."""
    trajectory, results = episode(calls, seed)
    now = itertools.count()
    clock = {"s": 1.7e9}
    with Journal(path, clock=lambda: clock["s"]) as journal:
        for number, turn in enumerate(trajectory.turns):
            segment = trajectory.segments[turn.segment]
            clock["s"] += 2.0
            journal.turn(
                trajectory.id, number, "0" * 16, Turn(segment.tokens, segment.logprobs, True), segment.text
            )
            if number < len(results):
                request = f"{trajectory.id}:{number + 1}.0"
                journal.ask(trajectory.id, request, "search_and_scrape_webpage", "google_search")
                clock["s"] += results[number]["seconds"] + 0.2 * (next(now) % 3)
                told = {"server": "search_and_scrape_webpage", "tool": "google_search", "changes": False}
                journal.call(
                    trajectory.id, request, results[number] | told | {"cached": False, "truncated": False}
                )
        journal.end(trajectory)
        journal.verdict(trajectory.id, Verdict(True, "the same word"))
    return trajectory.tokens


async def measure(path: Path, calls: int, starts: int, shots: Path | None) -> dict[str, Any]:
    """Seconds of each start of the page, what it complained of, and pictures where they are asked for."""
    chromium = find_chromium()
    assert chromium
    times, own, browser = [], [], []
    async with open_page(chromium) as page:
        await page.show(1280, 900)
        for _ in range(starts):
            await page.open("about:blank")
            await page.wait("location.href === 'about:blank'")
            begun = time.monotonic()
            await page.open(f"{path.as_uri()}#e0")
            await page.wait(_LAST_TURN_IN_WINDOW)
            times.append(time.monotonic() - begun)
            own.append(await page.evaluate(_FIND))
            browser.append(await page.evaluate(_FIND_BY_BROWSER))
            turns = await page.evaluate("document.querySelectorAll('.segments > li.policy').length")
            assert turns == calls + 1, turns
        if shots:
            await take_pictures(page, shots)
        return {
            "times": times,
            "own": own,
            "browser": browser,
            "complaints": page.complaints,
            "requests": [r for r in page.requests if "file:" not in r and "data:" not in r],
        }


async def take_pictures(page: Any, shots: Path) -> None:
    """Of the table, the top of the episode and its middle: light, dark, narrow."""
    shots.mkdir(parents=True, exist_ok=True)
    views = {"top": "scrollTo(0, 0)", "episode": "document.querySelector('.view').scrollIntoView()"}
    views["middle"] = "document.querySelectorAll('.turn')[300].scrollIntoView()"
    views["saw"] = "document.querySelectorAll('.turn')[300].querySelector('button').click()"
    for name, width, dark in (("light", 1280, False), ("dark", 1280, True), ("narrow", 390, False)):
        await page.show(width, 900, dark)
        for view, script in views.items():
            await page.evaluate(script)
            await page.evaluate("new Promise((done) => setTimeout(done, 400))")
            await page.screenshot(shots / f"{name}-{view}.png")
        await page.evaluate("document.querySelector('input[type=range]').value = 0")


def main() -> None:
    parser = Options(__doc__)
    parser.add("calls", 600, "of the episode")
    parser.add("starts", 5, "of the page")
    parser.add("seed", 0, "of its words")
    parser.add("shots", "", "folder for pictures; none without it")
    options = parser.parse_args()
    if find_chromium() is None:
        sys.exit("no Chromium here; apt install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "deep"
        tokens = write_journal(folder / "episodes.jsonl", options.calls, options.seed)
        begun = time.monotonic()
        path = write_evaluation_report(folder)
        build_s = time.monotonic() - begun
        size = path.stat().st_size
        shots = Path(options.shots) if options.shots else None
        found = asyncio.run(measure(path, options.calls, options.starts, shots))
    open_s = statistics.median(found["times"])
    print(
        table(
            ("calls", "tokens", "open s", "MB", "build s"),
            [(str(options.calls), str(tokens), f"{open_s:.2f}", f"{size / 1e6:.2f}", f"{build_s:.2f}")],
        )
    )
    figures = {
        "open_s_600_calls": round(open_s, 3),
        "bytes": size,
        "open_s": [round(s, 3) for s in found["times"]],
    }
    figures |= {"find_s": {k: round(statistics.median(found[k]) / 1e3, 3) for k in ("own", "browser")}}
    figures |= {"build_s": round(build_s, 3), "calls": options.calls, "ledger_tokens": tokens}
    finish("episode_page", figures | {"browser": "chromium, headless", "device": device()})
    if found["complaints"] or found["requests"]:
        sys.exit(f"the page complained {found['complaints']} or asked for {found['requests']}")


if __name__ == "__main__":
    main()
