"""Two small tokenizers, one as the toy uses it, one without symbols of its own; and the real Qwen3 one."""

import pytest

from mirothinker_jax.config import TokenizerConfig
from mirothinker_jax.data.hf_tokenizer import HFTokenizer
from mirothinker_jax.data.tokenizer import Tokenizer, train_tokenizer

CORPUS = [
    "Kathmandu is the capital of Nepal; the airport of Kathmandu is KTM.\nIts elevation is 4390 ft.",
    "<think>look it up</think><use_mcp_tool><server_name>web</server_name><tool_name>scrape</tool_name>"
    '<arguments>{"url": "http://airports.test/KTM", "info_to_extract": "elevation"}</arguments>'
    "</use_mcp_tool>",
    "\\boxed{4390}",
] * 20
SYMBOLS = (" ", '{"url": "', '", "info_to_extract": "', "http://airports.test/")


@pytest.fixture(scope="session")
def codec(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "toy.model"
    train_tokenizer(CORPUS, path, TokenizerConfig(vocab_size=420, symbols=SYMBOLS))
    return Tokenizer(path)


@pytest.fixture(scope="session")
def plain_codec(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "plain.model"
    train_tokenizer(CORPUS, path, TokenizerConfig(vocab_size=420))
    return Tokenizer(path)


@pytest.fixture(params=["codec", "plain_codec"])
def any_codec(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def qwen(qwen_folder):
    return HFTokenizer(qwen_folder)


@pytest.fixture(scope="session")
def qwen2_5(qwen2_5_folder):
    return HFTokenizer(qwen2_5_folder)
