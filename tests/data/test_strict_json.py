"""JSON that only Python reads is refused, and what is JSON keeps what it says."""

import pytest

from mirothinker_jax.data.strict_json import parse_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": -Infinity}}', "-Infinity is not JSON"),
        ('[{"a": 1, "b": 2, "a": 1}]', "the key 'a' stands twice in one object"),
        ("-1e400", "the number -1e400 is too large"),
        ("9" * 5000, "Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_json_that_only_python_reads(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_json_keeps_what_it_says():
    assert parse_json('\ufeff{"a": [1.5, 1e3, 12345678901234567890, null, "é"]}'.encode()) == {
        "a": [1.5, 1000.0, 12345678901234567890, None, "é"]
    }
