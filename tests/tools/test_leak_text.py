"""An address of benchmark data takes the paragraph, or the object of JSON, that it stands in."""

import json

import pytest

from mirothinker_jax.tools.leak_guard import URL_CHARS
from mirothinker_jax.tools.leak_text import LEFT_OUT, hide_leaks, mentions_leak
from mirothinker_jax.tools.mcp_result import result_text

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


def test_words_that_an_evaluation_refuses_count_in_addresses():
    text = "Some-Bench is hard.\n\nSee https://a.test/Some-Bench.csv: 42\n\nb"
    assert hide_leaks(text) == text
    assert hide_leaks(text, ["some-bench"]) == f"Some-Bench is hard.\n\n{LEFT_OUT}\n\nb"
    hits = {"hits": [{"url": "https://a.test/some-bench", "text": "42"}, {"url": "https://b.test"}]}
    hidden = json.dumps({"hits": [LEFT_OUT, {"url": "https://b.test"}]})
    assert hide_leaks(json.dumps(hits), ["some-bench"]) == hidden
    contents = [{"type": "resource_link", "uri": "https://a.test/some-bench"}, {"type": "text", "text": text}]
    assert "42" not in result_text({"content": contents}, ["some-bench"])
    assert "a.test" in result_text({"content": contents[:1]})
    assert not mentions_leak("x" * URL_CHARS * 2 + "./", ["some-bench"])
