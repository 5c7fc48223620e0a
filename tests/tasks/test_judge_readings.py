"""What judges say, in every way that is read, and what is no verdict."""

import pytest

from mirothinker_jax.config import ConfigError, TasksConfig
from mirothinker_jax.tasks.judge_prompt import read_prompt, rendered
from mirothinker_jax.tasks.judge_readings import READINGS
from mirothinker_jax.tasks.types import Task

FENCED = '```json\n{"parts": [{"part": "Oslo", "correct": true}], "excessive": []}\n```'
FOUR = "extracted_final_answer: 8\nreasoning: The same.\ncorrect: yes\nconfidence: 87%"


@pytest.mark.parametrize(
    ("reading", "said", "correct"),
    [
        ("word", "They agree.\nCORRECT", True),
        ("choice", "A", True),
        ("choice", " (B)\n", False),
        ("choice", "**A**: CORRECT", True),
        ("choice", "The heights agree.\n\nAnswer: A", True),
        ("choice", "B. incorrect", False),
        ("choice", "A or B", None),
        ("choice", "A\nB", None),
        ("choice", "C", None),
        ("choice", "A tower is high.", None),
        ("choice", "yes", None),
        ("choice_zh", "选择：B", False),
        ("choice_zh", "A：正确", True),
        ("verdict_zh", "二者一致。\n结论：正确", True),
        ("verdict_zh", "结论: 错误", False),
        ("verdict_zh", "**结论：** 不正确。", False),
        ("verdict_zh", "最终结论：正确", True),
        ("verdict_zh", "结论：正确\n结论：错误", None),
        ("verdict_zh", "正确", None),
        ("verdict_zh", "结论：正确与否难以判断", None),
        ("fields", FOUR, True),
        ("fields", FOUR.replace("yes", "**No**"), False),
        ("fields", '{"extracted_final_answer": "8", "correct": "no", "confidence": 20}', False),
        ("fields", "correct: yes\ncorrect: no", None),
        ("fields", "correct: perhaps", None),
        ("fields", "Yes.", None),
        ("parts", FENCED, True),
        ("parts", '{"parts": {"Oslo": true, "Bergen": false}, "excessive": []}', False),
        ("parts", '{"parts": {"Oslo": true}, "excessive": ["Rome"]}', False),
        ("parts", '{"parts": {}, "excessive": []}', None),
        ("parts", '{"parts": {"Oslo": "yes"}, "excessive": []}', None),
        ("parts", '{"parts": ["Oslo"], "excessive": []}', None),
        ("parts", '{"parts": {"Oslo": true}, "excessive": null}', None),
        ("parts", '{"parts": {"Oslo": true}', None),
        ("parts", "{" * 100_000, None),
        ("grades", "A", True),
        ("grades", "B", False),
        ("grades", "Grade: C", False),
        ("grades", "I cannot tell.", False),
    ],
)
def test_what_a_judge_said(reading, said, correct):
    verdict = READINGS[reading].read(said)
    assert (None if verdict is None else verdict.correct) is correct


@pytest.mark.parametrize(
    ("reading", "said", "terms"),
    [
        ("fields", FOUR, {"confidence": 0.87}),
        ("fields", FOUR.replace("87%", "none"), {}),
        ("fields", FOUR.replace("87%", "870"), {}),
        ("parts", FENCED, {"precision": 1, "recall": 1, "f1": 1}),
        # One of two parts, one answer too many: 2 · ½ · ½ / 1.
        (
            "parts",
            '{"parts": {"a": true, "b": false}, "excessive": ["c"]}',
            {"precision": 0.5, "recall": 0.5, "f1": 0.5},
        ),
        ("parts", '{"parts": {"a": false}, "excessive": []}', {"precision": 0, "recall": 0, "f1": 0}),
        # Three of three, one too many: P ¾, R 1, F1 6/7.
        (
            "parts",
            '{"parts": {"a": true, "b": true, "c": true}, "excessive": ["d"]}',
            {"precision": 0.75, "recall": 1, "f1": 6 / 7},
        ),
        ("grades", "A", {"attempted": 1}),
        ("grades", "C", {"attempted": 0}),
        ("grades", "so so", {"attempted": 0, "unparsable": 1}),
    ],
)
def test_what_else_a_verdict_tells(reading, said, terms):
    verdict = READINGS[reading].read(said)
    assert verdict is not None and verdict.terms == pytest.approx(terms)


@pytest.mark.parametrize("name", READINGS)
def test_every_reading_has_a_template_that_asks_for_it(name):
    prompt = rendered(read_prompt("", READINGS[name]), Task("t", "How {high}?", "330 m"), 'a "b"\nc')
    for said in ("How {high}?", "330 m", r'"a \"b\"\nc"'):
        assert prompt.count(said) == 1
    with pytest.raises(ConfigError, match=r"^tasks.judge_reading is 'letter'; choose one of word, choice, "):
        TasksConfig(grader="judge", judge_url="http://a.test/v1", judge_model="m", judge_reading="letter")
