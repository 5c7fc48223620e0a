"""The study's page: a plot and a sentence for each section, whatever is missing from its figures."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from mirothinker_jax.evals.study_findings import findings
from mirothinker_jax.evals.study_page import write_page

SHARE = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
ARM = SHARE | {"tokens": 120.0, "calls": 3.0}
DIFFERENCE = {"mean": 0.1, "low": -0.1, "high": 0.3, "p": 0.4, "p_holm": 0.8}


def summary(stages=("sft", "grpo"), faults=("dead", "wrong"), last_band=SHARE):
    bands = {"1–5": SHARE, "6–20": SHARE, "21+": last_band}
    long = ARM | {"steps_done": 3.5, "steps_needed": 18, "longest_context": 700.0}
    values = {
        "policy": "grpo-64",
        "seed": 0,
        "max_hops": 6,
        "journals": "grpo-64-<b>",
        "wall_s": 61.0,
        "scaling": {
            **{key: {"1": ARM, "8": ARM} for key in ("silent", "announced")},
            "announced_minus_silent": {"1": DIFFERENCE, "8": DIFFERENCE},
            "stages": {stage: {"0": SHARE, "8": SHARE} for stage in stages},
            "stages_by_hops": {stage: {"0": ARM, "6": ARM, "7": {"n": 0}} for stage in stages},
            "deeper_half": {
                "links": [4, 7],
                "stages": dict.fromkeys(stages, ARM | {"calls_on_way": 3.0}),
                "more_calls": DIFFERENCE,
                "more_calls_on_way": DIFFERENCE,
            }
            if stages
            else {},
        },
        "matched_compute": {"depth": {"1": ARM, "8": ARM}, "shallow": {"3": {"1": ARM, "2": ARM}}},
        "arms": {
            arm: ARM | {"deep_minus_this": DIFFERENCE} for arm in ("isolated", "pages", "react", "shuffled")
        }
        | {"deep": ARM},
        "languages": {"english": ARM}
        | {key: ARM | {"english_minus_this": DIFFERENCE} for key in ("frame", "chinese")},
        "recovery": {
            k: {"1": {"with": ARM, "without": ARM, "with_minus_without": DIFFERENCE}} for k in faults
        },
        "drift": {
            "by_band": {arm: bands for arm in ("feedback", "isolated")},
            "by_depth": {arm: {"2": bands, "64": bands} for arm in ("feedback", "isolated")},
            "steps_done": {arm: {"2": 4.0, "64": 5.5} for arm in ("feedback", "isolated")},
        },
        "memory": {name: {"16": long, "64": long} for name in ("keep-all", "keep-5")},
    }
    return values | {"findings": findings(values)}


@pytest.mark.parametrize(
    ("values", "plots"),
    [(summary(), 13), (summary(stages=(), faults=(), last_band=None), 9)],
)
def test_a_section_for_each_finding(values, plots, tmp_path):
    path = tmp_path / "study.html"
    write_page(path, "<i>run</i>", values)
    page = path.read_text()
    assert page.count("<svg") == plots and page.count("<h2") == len(values["findings"]) == 8
    assert (
        "<script" not in page
        and "http:" not in page.split("<body")[0]
        and "<i>run" not in page
        and "<b>" not in page
    )
    for key in values["findings"]:
        assert f'<h2 id="{key}"' in page and f'href="#{key}"' in page
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "plots must not share ids"


def test_the_main_plot_is_a_file_of_its_own(tmp_path):
    write_page(tmp_path / "study.html", "run", summary())
    text = (tmp_path / "study.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    used, given = set(re.findall(r"var\((--\w+)\)", text)), set(re.findall(r"(--\w+):#", text))
    assert used and used <= given and text.count("prefers-color-scheme:dark") == 1
