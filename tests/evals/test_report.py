"""report.html of a made-up run folder, parsed and looked at; and of folders where something is missing."""

import base64
import hashlib
import json
import re

import pytest
from selectolax.lexbor import LexborHTMLParser

from mirothinker_jax.evals.page import read_chunk
from mirothinker_jax.evals.plots import Line, groups_svg, running_mean, subsample
from mirothinker_jax.evals.report import write_report
from mirothinker_jax.evals.series import read_series

SECTIONS = ["accuracy", "scaling", "depth", "training", "episodes", "cost", "settings"]


def parsed(path):
    return LexborHTMLParser(path.read_text(encoding="utf-8"))


def page(run):
    path = write_report(run)
    assert path == run / "report.html"
    return parsed(path)


@pytest.fixture
def tree(rendered_run):
    return parsed(rendered_run / "report.html")


@pytest.fixture
def raw(rendered_run):
    return (rendered_run / "report.html").read_text(encoding="utf-8")


def sections(tree):
    return [node.attributes["id"] for node in tree.css("section")]


def table(node):
    return [[cell.text(strip=True) for cell in row.css("th, td")] for row in node.css("tr")]


def test_every_section_is_there_and_linked(tree):
    assert sections(tree) == SECTIONS
    assert [a.attributes["href"] for a in tree.css("nav a")] == [f"#{name}" for name in SECTIONS]
    assert tree.css_first("h1").text() == "toy <run>"


def test_headline_says_accuracy_and_gain(tree):
    cards = [" ".join(card.text().split()) for card in tree.css(".card")]
    assert cards == [
        "after SFT 40.0% 34.6% – 45.6% · 300 questions",
        "after DPO 46.0% 40.4% – 51.7% · 300 questions +6.0 points against SFT (−1.9 to +13.8: within noise)",
        "after GRPO 83.7% 79.1% – 87.4% · 300 questions +43.7 points against SFT (+36.4 to +50.2)",
    ]


def test_plots_have_words_and_figures_beside_them(tree):
    figures = tree.css("figure")
    assert len(figures) == 2 + 2 + 4 + 6
    for figure in figures:
        assert figure.css_first("figcaption strong").text()
        assert re.search(r"from .* to ", figure.css_first('[role="img"]').attributes["aria-label"])
        assert figure.css_first("svg[viewBox]") is not None
        assert len(table(figure.css_first("details table"))) > 2
    scaling = tree.css_first("#scaling figure")
    assert table(scaling)[-1][:3] == ["32", "40.0%", "34.6% – 45.6%, 300"]
    assert [row[0] for row in table(scaling)[1:]] == ["0", "1", "2", "4", "8", "16", "32"]
    assert "after GRPO from 1.3% to 83.7%" in scaling.css_first('[role="img"]').attributes["aria-label"]


def test_curves_leave_out_what_is_not_finite_and_say_so(tree):
    loss = tree.css_first("#training figure")
    rows = table(loss)[1:]
    assert (rows[0][0], rows[-1][0], len(rows)) == ("0", "299", 12)
    assert "1 value(s) were not finite" in loss.text()


def test_what_a_web_page_wrote_is_text(tree, raw):
    """Episodes are records that only our own script reads: it is the only one that the page's policy lets run."""
    (script,) = [node for node in tree.css("script") if "type" not in node.attributes]
    digest = base64.b64encode(hashlib.sha256(script.text().encode()).digest()).decode()
    policy = tree.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "alert(" not in raw
    told = [read_chunk(node.text()) for node in tree.css('script[id^="episode-"]')]
    script = "<script>alert('page')</script>"
    assert any(script in text for text in texts(told[0], "tool"))
    assert "Pokhara & <b>Bharatpur</b>" in tree.css_first(".episode.is-wrong .facts").text()


def texts(record, kind):
    return [part[2] for segment in record["segments"] for part in segment["parts"] if part[0] == kind]


def test_nothing_is_fetched(tree, raw):
    for node in tree.css("*"):
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = (node.attributes or {}).get(name)
            assert value is None or value.startswith(("#", "data:,")), (node.tag, name, value)
    assert "@import" not in raw and not re.search(r"url\((?!#)", raw)
    policy = tree.css_first('meta[http-equiv="Content-Security-Policy"]').attributes["content"]
    assert policy.startswith("default-src 'none'")


def test_ids_are_unique_and_references_meet(tree, raw):
    ids = [node.attributes["id"] for node in tree.css("[id]")]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", raw)) | set(re.findall(r'xlink:href="#([^"]+)"', raw)) <= set(
        ids
    )


def test_colours_come_from_the_page(tree, raw):
    drawn = "".join(svg.html for svg in tree.css("figure svg"))
    assert re.findall(r"#[0-9a-f]{6}", drawn) == []
    used = set(re.findall(r"var\((--\w+)\)", raw))
    declared = tree.css_first("style").text()
    assert all(re.search(rf"{name}: ", declared) for name in used)
    assert "color-scheme: light dark" in declared


def test_episodes_read_like_a_dialogue(tree):
    episodes = tree.css("#episodes .episode")
    assert len(episodes) == 9
    assert len(tree.css(".episode.is-wrong")) == 3
    first = read_chunk(tree.css_first(f"#episode-{episodes[0].attributes['data-episode']}").text())
    parts = [part for segment in first["segments"] for part in segment["parts"]]
    calls = ["think", "call", "tool"] * 4
    assert [kind for kind, *_ in parts] == ["system", "user", *calls, "think", "answer"]
    tool = "jina_scrape_llm_summary / scrape_and_extract_info"
    asked = "url = http://airports.test/KTM\ninfo_to_extract = north"
    assert parts[3] == ["call", tool, asked, 0]
    tokens = read_chunk(tree.css_first(f"#tokens-{episodes[0].attributes['data-episode']}").text())
    assert tokens["1"] == [[7, 8], [-500, -250]]


def test_settings_that_differ_and_the_machine(tree):
    assert table(tree.css_first("#settings table")) == [
        ["key", "default", "this run"],
        ["config.stages", "'sft'", "'sft', 'dpo', 'grpo'"],
        ["config.model.hidden", "128", "96"],
        ["config.tokenizer.symbols", "()", "'{\"url\": \"', ' '"],
        ["config.grpo.training.sequence_length", "2048", "3072"],
    ]
    phases, machine = (table(node) for node in tree.css("#cost table"))
    assert phases[2][:2] == ["sft", "2 min 21 s"]
    assert ["wall clock", "13 min 11 s"] in machine and ["versions.jax", "0.10.2"] in machine


def test_an_sft_only_run(run_folder):
    (run_folder / "summary.json").unlink()
    (run_folder / "config.json").unlink()
    for stage in ("sft", "dpo", "grpo"):
        (run_folder / stage / "eval_trajectories.jsonl").unlink()
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    (run_folder / "metrics.jsonl").write_text("\n".join(x for x in lines if '"sft"' in x)[:-30])
    tree = page(run_folder)
    assert sections(tree) == ["training"]
    assert [h3.text() for h3 in tree.css("h3")] == ["SFT"]
    assert "1 line(s) of metrics.jsonl could not be read" in tree.css_first(".notes").text()


def test_an_empty_folder(tmp_path):
    tree = page(tmp_path)
    assert sections(tree) == []
    assert "Nothing has been logged" in tree.css_first("main").text()


def test_a_single_evaluated_stage_has_no_gain(run_folder):
    summary = json.loads((run_folder / "summary.json").read_text())
    for key in ("accuracy", "scaling_intervals", "by_hops"):
        summary[key] = {"sft": summary[key]["sft"]}
    del summary["by_hops"]["sft"], summary["stop_reasons"], summary["calls_per_episode"]
    (run_folder / "summary.json").write_text(json.dumps(summary))
    tree = page(run_folder)
    assert len(tree.css(".card")) == 1 and tree.css(".gain") == []
    assert "depth" not in sections(tree) and "scaling" in sections(tree)


@pytest.mark.parametrize("name", ["summary.json", "config.json"])
def test_a_damaged_file_is_named_and_the_old_report_stays(run_folder, name):
    page(run_folder)
    before = (run_folder / "report.html").read_bytes()
    (run_folder / name).write_text("{")
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: not JSON"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_bytes() == before


def test_the_same_folder_gives_the_same_page(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_uneven_groups_of_two_stages_share_an_axis():
    svg = groups_svg(
        [Line("sft", "a", [0, 2], [0.1, 0.2]), Line("x", "b", [1, 32], [0.3, 0.4])], "n", "calls"
    )
    labels = re.findall(r">([^<>\n]+)</text>", svg)
    assert labels[:5] == ["0", "1", "2", "32", "calls"]
    assert "var(--sft)" in svg and "var(--other)" in svg


def test_thinning_and_smoothing():
    assert subsample([1, 2, 3, 4, 5], [1, 1, 5, 5, 9], 3) == ([1.5, 3.5, 5], [1, 5, 9])
    assert subsample([1, 2], [3, 4], 2) == ([1, 2], [3, 4])
    assert running_mean([0, 3, 6, 9], 1) == [1.5, 3, 6, 7.5]
    assert running_mean([4.0, 2.0], 0) == [4, 2]


def test_series_keep_their_stage_and_excerpt(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"stage": "sft", "step": i, "time_s": 0, "loss": None if i == 1 else i} for i in range(10)]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "s')
    series, unreadable = read_series(path)
    assert unreadable == 1 and list(series) == ["sft"] and list(series["sft"]) == ["loss"]
    loss = series["sft"]["loss"]
    assert (loss.missing, loss.steps[:2]) == (1, (0, 2))
    assert loss.excerpt(3) == [(0, 0.0), (5, 5.0), (9, 9.0)]
    assert len(loss.excerpt(50)) == 9
