"""An address of benchmark data takes the paragraph, or the object of JSON, that it stands in."""

import json

import pytest

from mirothinker_jax.tools.leak_guard import URL_CHARS
from mirothinker_jax.tools.leak_text import LEFT_OUT, hide_leaks, mentions_leak

HUB = "https://huggingface.co/datasets/x/y"


@pytest.mark.parametrize("place", [0, 1, URL_CHARS // 2 - 10, URL_CHARS - 10, URL_CHARS, 5 * URL_CHARS + 77])
def test_an_address_is_found_wherever_it_stands(place):
    assert mentions_leak(f"{'汉' * place} {HUB} {'a' * URL_CHARS}")
    assert not mentions_leak(f"{'汉' * place} https://huggingface.co/docs {'a/' * URL_CHARS}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing here", "nothing here"),
        (f"one\n\n1. Answers\n{HUB}\n42\n \ntwo", f"one\n\n{LEFT_OUT}\n \ntwo"),
        (f"a{HUB}b", LEFT_OUT),
        ('{"a": 1,  "b": [2]}', '{"a": 1,  "b": [2]}'),
        ('[{"u": "https:\\/\\/hf.co\\/dat\\u0061sets\\/x", "a": 42}, 7]', json.dumps([LEFT_OUT, 7])),
        (
            json.dumps({"page": f"one\n\n{HUB} says 42\n\ntwo"}),
            json.dumps({"page": f"one\n\n{LEFT_OUT}\n\ntwo"}),
        ),
        (json.dumps({HUB: 42}), json.dumps(LEFT_OUT)),
        (
            json.dumps({"hits": {"a": {"url": HUB}, "b": "c"}}),
            json.dumps({"hits": {"a": LEFT_OUT, "b": "c"}}),
        ),
        (f"{'[' * 100_000} {HUB}", LEFT_OUT),
        (f'{{"a": "{HUB}"', LEFT_OUT),
    ],
)
def test_what_stands_beside_it_is_left_out(text, shown):
    assert hide_leaks(text) == shown
