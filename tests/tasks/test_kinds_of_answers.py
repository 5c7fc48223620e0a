"""Answers that are a number or a set, however they are written, against near misses."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.tasks.number_rule import is_correct_number, only_number
from mirothinker_jax.tasks.set_rule import is_correct_set, items


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4,390", 4390),
        (r"\text{4{,}390 m}", 4390),
        ("$17", 17),
        (r"\$1,234.50", Fraction("1234.5")),
        ("17%", 17),
        ("−8 °C", -8),
        ("- 8", -8),
        ("+3.0", 3),
        (".5", Fraction(1, 2)),
        ("about 42 km.", 42),
        ("42 (forty-two)", 42),
        ("42, that is 42.0", 42),
        (r"\frac{3}{4}", Fraction(3, 4)),
        ("1/3", Fraction(1, 3)),
        ("6.02e23", 602 * 10**21),
        (r"6.02 \times 10^{23}", 602 * 10**21),
        ("6.02×10^23 per mole", 602 * 10**21),
        ("6.02×10²³", 602 * 10**21),
        ("1e-3", Fraction(1, 1000)),
        ("COVID-19", 19),
        ("A380", None),  # a name
        ("5-8", None),
        ("between 3 and 5", None),
        ("1/0", None),
        ("2024/01/02", None),
        ("1.2.3", None),
        ("none", None),
        ("", None),
        ("9" * 2000, None),
    ],
)
def test_the_one_number_of_a_text(text, number):
    assert only_number(text) == number


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("4390", "4,390 m", True),
        ("3.14", "3.14159", False),
        ("17", "17%", True),
        ("0.17", "17%", False),
        ("-8", "8", False),
        ("0.1", "1/10", True),
        ("17", "17 or 18", False),
        ("17", None, False),
        ("many", "many", False),  # no number to compare with
    ],
)
def test_numbers_are_exact_and_units_are_not_read(expected, answer, right):
    assert is_correct_number(expected, answer) is right


@given(st.fractions(), st.sampled_from(["{}", "about {} km", "${}$", "**{}**", "x = {}."]))
def test_a_number_is_found_in_any_sentence(number, sentence):
    assert only_number(sentence.format(number)) == number


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        ("Oslo; Bergen", "bergen, Oslo", True),
        ("Oslo, Bergen, Hamar", "Hamar, Bergen, and Oslo", True),
        ("Oslo; Bergen", "- Bergen\n- Oslo\n", True),
        ("Oslo; Bergen", "1. Bergen\n2. Oslo", True),
        ("Oslo; Bergen", "Oslo, Bergen, Oslo", True),
        ("1,000; 2", "2; 1000", True),
        ("1, 2", r"\{2, 1.0\}", True),
        ("甲、乙", "乙，甲", True),
        ("Lima, Peru; Quito", "Quito; Lima, Peru", True),
        ("Lima, Peru; Quito", "Quito, Lima, Peru", False),
        ("Oslo; Bergen", "Oslo", False),
        ("Oslo; Bergen", "Oslo; Bergen; Hamar", False),
        ("Oslo", "Oslo", True),
        ("1, 1.0, 2", "1, 3", False),
        ("Oslo", None, False),
        (";", ";", False),
    ],
)
def test_sets_are_equal_item_by_item(expected, answer, right):
    assert is_correct_set(expected, answer) is right


@given(st.lists(st.sampled_from(["Oslo", "Åre", "1,000", "São Tomé", "-8"]), min_size=1), st.randoms())
def test_no_order_of_a_set_is_wrong(found, random):
    shuffled = random.sample(found, len(found))
    assert items("; ".join(found)) == found
    assert is_correct_set("; ".join(found), ", ".join(shuffled))


@pytest.mark.parametrize("text", ["1,", "9", "1.1", " ", "\n", "- 1 x10^", "("])
def test_long_answers_cost_no_more_than_their_length(text):
    began = time.process_time()
    only_number(text * (40_000 // len(text)))
    items(text * (40_000 // len(text)))
    assert time.process_time() - began < 2
