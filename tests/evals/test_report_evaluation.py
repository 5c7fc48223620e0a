"""report.html of a made-up evaluation: read as a file, and opened in a real browser where there is one."""

import asyncio
import re

import evaluation_folder
import pytest
from selectolax.lexbor import LexborHTMLParser

from benchmarks.chromium import find_chromium, open_page
from mirothinker_jax.evals.calls_chart import calls_chart
from mirothinker_jax.evals.page import chunk, read_chunk
from mirothinker_jax.evals.report_evaluation import write_evaluation_report
from mirothinker_jax.trajectory.timeline import CallTime, read_timelines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return evaluation_folder.write_evaluation(tmp_path_factory.mktemp("evaluations") / "toy <run>")


@pytest.fixture(scope="module")
def page(folder):
    return write_evaluation_report(folder, decode=lambda ids: f"<{ids[0]}>")


def parsed(path):
    return LexborHTMLParser(path.read_text(encoding="utf-8"))


def test_what_the_page_says_at_once(page):
    tree = parsed(page)
    cards = [" ".join(card.text().split()) for card in tree.css(".card")]
    assert cards == [
        "accuracy, 2 runs 25.0% 3.7% – 74.4% · 2 questions, each counted once 1 right · 3 wrong · 1 not judged",
        "comparable with published no 2 runs, and papers made 8the leak guard does not refuse <b> (tools.refuse)",
        "how the episodes ended answered5",
        "run by run run 050.0%1 of 2run 10.0%0 of 2",
    ]
    assert [p.text() for p in tree.css(".notes p")] == [
        "1 episode has begun and not ended.",
        "5 of 6 episodes have ended.",
    ]
    tool = [cell.text() for cell in tree.css("section table tbody")[0].css("tr > *")]
    assert tool == ["web / search", "10", "5 unreachable", "0", "0", "2.00 s", "2.00 s", "0.50 s"]
    assert "<b>search</b>" in tree.css("section")[3].text()


def test_its_records_say_what_each_turn_saw_and_when_calls_were(page):
    tree = parsed(page)
    index = read_chunk(tree.css_first("#index").text())
    assert index["runs"] == ["0", "1"] and [q["id"] for q in index["questions"]] == ["q2", "q1", "q3"]
    assert [e["correct"] for e in index["episodes"]] == [False, False, None, True, False]
    for number, wire in ((0, "mcp"), (2, "hermes")):
        record = read_chunk(tree.css_first(f"#episode-e{number}").text())
        assert record["turns"] == [[1, 0, [0], 0], [3, 1, [1, 2], 0], [5, 3, [3, 4], 0], [7, 2, [6, 3, 4], 0]]
        assert record["segments"][6]["hides"] == 2
        kinds = [part[0] for part in record["segments"][1]["parts"]]
        assert kinds == ["think", "call"], wire
        server = "web / " if wire == "mcp" else ""
        assert record["segments"][1]["parts"][1][1] == f"{server}search"
        assert record["calls_made"] == [
            [0, 0, "web / search", 0.0, 0.5, 2.0, None, False, False],
            [1, 0, "web / search", 3.5, 0.5, 2.0, "unreachable", False, False],
        ]
        assert record["turn_times"] == [[0, 0.0], [1, 3.5], [2, 7.0], [3, 8.0]]
    assert read_chunk(tree.css_first("#tokens-e0").text())["7"] == [["<11>", "<12>"], [-250, -3500]]


def test_a_chunk_cannot_end_its_element(page):
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", chunk({"text": evaluation_folder.HOSTILE}))
    raw = page.read_text(encoding="utf-8")
    assert "= 'taken'" not in raw and "out.test" not in raw and "\u2028" not in raw


def test_pages_stay_below_their_bytes_and_say_so(folder):
    path = write_evaluation_report(folder, name="small.html", most_bytes=3000)
    tree = parsed(path)
    assert [n.attributes["id"] for n in tree.css("script[id^=episode]")] == ["episode-e1", "episode-e2"]
    assert "The texts of 3 episode(s) are not in this page" in tree.css_first("footer").text()
    one = parsed(write_evaluation_report(folder, name="one.html", questions={"q3"}))
    assert len(one.css("script[id^=episode]")) == 1 and one.css(".notes[role=note]") == []


def test_an_empty_folder_and_a_damaged_file(tmp_path):
    assert parsed(write_evaluation_report(tmp_path)).css_first(".big").text() == "–"
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(ValueError, match=r"summary\.json: not JSON"):
        write_evaluation_report(tmp_path)


def test_calls_in_flight():
    calls = [CallTime("s", "t", 0.0, 10.0, 6.0), CallTime("s", "t", 5.0, 10.0, 5.0, "deadline")]
    later = CallTime("s", "t", 1000.0, 1030.0, 30.0)
    chart = calls_chart([later, *calls, CallTime("s", "t", None, 1.0), CallTime("s", "t", 1.0)])
    assert (chart.seconds, chart.most) == (10 + 120 + 30, 2.0), "the pause is cut to two minutes"
    running, failing, waiting = (len(re.findall("M", path)) for path in re.findall(r'd="([^"]*)"', chart.svg))
    assert (running, failing, waiting) == (9 + 45, 8, 6), "of 240 bars, 1.5 a second"
    assert calls_chart([]) is None


def test_a_turn_that_comes_again_takes_what_followed_with_it(folder):
    times = read_timelines(folder / "episodes.jsonl")
    assert times["eval/q3#1"].calls[(0, 0)].ended is None
    again = times["eval/q1#0"]
    again.take({"event": "turn", "number": 1, "at": 9.0})
    assert again.turns.keys() == {0, 1} and again.calls.keys() == {(0, 0)}


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here")
def test_in_a_browser(page, rendered_run):
    asyncio.run(look(page, rendered_run / "report.html"))


async def look(path, report):
    rows = "[...document.querySelectorAll('.questions tbody tr td:first-child')].map((td) => td.textContent)"
    async with open_page(find_chromium()) as tab:

        async def click(selector: str) -> None:
            await tab.evaluate(f"document.querySelector({selector!r}).click()")

        async def choose(label: str, value: str) -> None:
            control = f"document.querySelector('[aria-label={label}]')"
            await tab.evaluate(f"{control}.value = {value!r}")
            await tab.evaluate(
                f"{control}.dispatchEvent(new Event({'input' if label == 'search' else 'change'!r}))"
            )

        await tab.open(path.as_uri())
        await tab.wait(f"{rows}.length === 3")
        await click("[data-verdict=wrong]")
        assert await tab.evaluate(rows) == ["1", "2"]
        await click("[data-verdict=unjudged]")
        assert await tab.evaluate(rows) == ["3"]
        await click("[data-verdict=all]")
        await choose("run", "1")
        assert await tab.evaluate(rows) == ["1", "2"]
        await choose("run", "")
        await choose("search", "qwen")
        assert await tab.evaluate(rows) == ["3"]
        await choose("search", "")
        await tab.evaluate("document.querySelectorAll('.questions th button')[2].click()")  # right ones first
        assert await tab.evaluate(rows) == ["2", "1", "3"]
        await tab.evaluate("document.querySelectorAll('.questions th button')[2].click()")
        assert await tab.evaluate(rows) == ["3", "1", "2"]
        marks = "[...document.querySelectorAll('.marks')].map((marks) => marks.textContent)"
        assert await tab.evaluate(marks) == ["?", "✗✗", "✓✗"]

        await click("[data-open=e1].mark")
        await tab.wait("document.querySelectorAll('.segments > li').length === 7")
        text = await tab.evaluate("document.querySelector('.view').textContent")
        assert "</script><script>document.title = 'taken'</script><img src=" in text
        assert "⟨U+2028⟩⟨U+2029⟩⟨U+202E⟩<|im_end|>" in text and "⟨U+0000⟩ &lt;b&gt;" in text
        assert "results seen: 1 in full, 1 as placeholder" in text and "taken back" in text
        assert "web / search · unreachable, waited 0.50 s, ran 2.00 s" in text
        await tab.evaluate("document.querySelectorAll('.turn')[3].querySelector('button').click()")
        saw = "[...document.querySelectorAll('.segments > li')].map((li) => li.dataset.saw)"
        assert await tab.evaluate(saw) == ["full", "full", "short", "full", "full", "none", "itself"]
        await tab.evaluate("document.querySelectorAll('.turn')[3].querySelectorAll('button')[1].click()")
        tokens = await tab.wait("document.querySelector('.tokens')?.textContent")
        assert "mean -1.875, lowest -3.50" in tokens and tokens.endswith("<11><12>")
        assert await tab.evaluate("document.title + document.images.length") == "toy <run> · mirothinker-jax0"

        colour = "getComputedStyle(document.body).backgroundColor"
        await tab.show(390, 800, dark=True)
        dark = await tab.evaluate(colour)
        await click("#theme")
        assert await tab.evaluate(colour) != dark
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")

        await tab.open(report.as_uri())
        await tab.wait("document.querySelectorAll('.episode[open] .part.call').length === 4")
        assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.complaints == []
        assert {address.split(":")[0] for address in tab.requests} <= {"file", "data", "about"}
