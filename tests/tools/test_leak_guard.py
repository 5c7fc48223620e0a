"""Dataset hubs are refused however the address is wrapped; ordinary addresses are not."""

import time

import pytest

from mirothinker_jax.tools.leak_guard import URL_CHARS, is_leak


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/datasets/gaia-benchmark/GAIA",
        "http://HuggingFace.co/Datasets/x/y",
        "https://www.huggingface.co/datasets/x",
        "https://user:pw@huggingface.co:443/datasets/x",
        "https://huggingface.co./datasets/x",
        "https://huggingface.co//datasets/x",
        "https://huggingface.co/./datasets/x",
        "https://huggingface.co/docs/../datasets/x",
        "https://huggingface.co/api/datasets/x/y/parquet",
        "https://huggingface.co/%64atasets/x",
        "https://huggingface.co/%2564atasets/x",
        "https://huggingface.co/spaces/x/y",
        "https://huggingface.co/datasets",
        "https://huggingface.co\\datasets\\x",
        "https://hf.co/datasets/x",
        "https://hf-mirror.com/datasets/x",
        "https://someone-app.hf.space/",
        "https://datasets-server.huggingface.co/rows?dataset=x",
        "https://r.jina.ai/https://huggingface.co/datasets/x",
        "https://web.archive.org/web/2024/https://huggingface.co/datasets/x",
        "https://translate.test/?u=https%3A%2F%2Fhuggingface.co%2Fdatasets%2Fx",
        "https://translate.test/?u=https://huggingface.co/datasets&to=en",
        "https://huggingface-co.translate.goog/datasets/x?_x_tr_tl=de",
        "https://hf--mirror-com.translate.goog/datasets/x",
        "https://ｈｕｇｇｉｎｇｆａｃｅ．ｃｏ/datasets/x",
        "https://huggingface。co/datasets/x",
        "https://hugging\u200bface.co/datasets/x",
        "https://hugging\tface.co/data\nsets/x",
        "https://huggingface.co%EF%BC%8Fdatasets/x",
        "https://r.test/" + "https://huggingface.co/datasets/x".replace("/", "%25252525252F"),
        "https://cdn-lfs-us-1.hf.co/repos/ab/cd/ef",
        "https://cdn-lfs.huggingface.co/datasets/x/y",
        "https://cas-bridge.xethub.hf.co/xet-bridge-us/x",
        "https://modelscope.cn/datasets/x/y",
        "http://example.com/" + "x" * URL_CHARS,
    ],
)
def test_refused(url):
    assert is_leak(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/Qwen/Qwen3-8B",
        "https://huggingface.co/docs/transformers",
        "https://huggingface.co/",
        "https://example.com/datasets/x",
        "http://airports.test/KTM",
        "https://en.wikipedia.org/wiki/Hugging_Face",
        "https://huggingface.co/papers?q=spaces",
        "https://en-wikipedia-org.translate.goog/wiki/Dataset",
        "https://half.co/datasets/x",
        "https://example.com/?u=https://huggingface.co&next=/datasets/x",
        "https://example.com/100%25",
    ],
)
def test_allowed(url):
    assert not is_leak(url)


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        ("https://github.com/someone/Some-Bench/blob/main/data.csv", True),
        ("https://some-bench.test/", True),
        ("https://r.test/?u=https%3A%2F%2Fa.test%2Fsome%252Dbench", True),
        ("https://a.test/ｓｏｍｅ－ｂｅｎｃｈ", True),
        ("https://a.test/so\u200bme-bench", True),
        ("https://some--bench-test.translate.goog/", True),
        ("https://a.test/some/bench", False),
    ],
)
def test_words_that_an_evaluation_refuses(url, refused):
    assert is_leak(url, ["other", "some-bench"]) is refused
    assert not is_leak(url)


LONG = URL_CHARS - 20


@pytest.mark.parametrize(
    "url",
    [
        "http://a.test/" + "hf.co/" * (LONG // 6),
        "http://a.test/hf.co" + ":9" * (LONG // 2),
        "http://a.test/%" + "25" * (LONG // 2),
        "http://a.test/cdn-lfs" + "-" * (LONG - 10),
        "http://a.test/" + "cdn-lfs" * (LONG // 7),
        "http://a.test/" + "a-" * (LONG // 2),
        "http://" + "9" * LONG,
        "http://a.test/" + "\ufdfa" * LONG,  # one letter, which is eighteen
    ],
    ids=lambda url: url[7:27],
)
def test_the_longest_addresses_take_no_time(url):
    start = time.process_time()
    is_leak(url)
    assert time.process_time() - start < 0.5  # quadratic, they took up to 6 s
