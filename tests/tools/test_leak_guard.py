"""Dataset hubs are refused however the address is wrapped; ordinary addresses are not."""

import pytest

from mirothinker_jax.tools.leak_guard import is_leak


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
    ],
)
def test_allowed(url):
    assert not is_leak(url)
