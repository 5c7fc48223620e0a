"""Tokens that a user added, and tokenizer.json as other tools write it: transformers' ids beside ours."""

import json

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.hf_tokenizer import HFTokenizer

LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
ADDED = [
    "<search>",
    AddedToken("</search>", special=True),
    AddedToken("<|user_end|>", special=True, normalized=False),
    AddedToken("<left>", lstrip=True),
    AddedToken("<right>", rstrip=True, normalized=False),
    AddedToken("word", single_word=True),
    AddedToken("caf\u00e9", normalized=True),
    AddedToken("ｆｕｌｌ", special=False),
    AddedToken("<think", normalized=False),  # a longer one wins: <think>
]
TEXTS = [
    "<search>KTM</search>",
    "a <search> KTM </search>\n<think>\nx<search>\n</think>",
    "  <left>  b  <right>  c",
    "word words sword word",
    "cafe\u0301 café x",
    "<search>\u0338 <think>\u0338 <thinking",
    "<SEARCH> <search <|user_end|>",
    "ｆｕｌｌ full",
]


def saved(library, folder):
    folder.mkdir(exist_ok=True)
    library.save(str(folder / "tokenizer.json"))
    return HFTokenizer(folder)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """(ours, transformers' ids) of a tokenizer with a user's tokens, and ours without them."""
    library = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    library.normalizer, library.pre_tokenizer = (
        normalizers.NFC(),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    library.add_special_tokens([AddedToken(name, normalized=False) for name in NAMES[:3]])
    library.add_tokens([AddedToken(name, normalized=False) for name in ("<think>", "</think>")])
    without = saved(library, tmp_path_factory.mktemp("without"))
    library.add_tokens(ADDED)
    ours = saved(library, tmp_path_factory.mktemp("added"))
    return ours, lambda text: library.encode(text, add_special_tokens=False).ids, without


@pytest.mark.parametrize("text", TEXTS)
def test_what_an_assistant_says_has_the_users_tokens(mine, text):
    ours, theirs, without = mine
    assert ours.encode(text) == theirs(text)
    assert ours.encode_untrusted(text) == without.encode_untrusted(
        text
    )  # from outside: as if there were none


def test_they_are_used_in_an_assistants_text_thought_and_calls_alone(mine):
    ours, _, without = mine
    new = ours.token_id("<search>")
    assert new == without.vocab_size
    assert ours.decode([new]) == "<search>"
    outside = [{"role": "system", "content": "<search>"}, {"role": "user", "content": "<search>"}]
    call = {"function": {"name": "f", "arguments": {"q": "<search>"}}}
    answer = {
        "role": "assistant",
        "content": "<search>",
        "reasoning_content": "<search>",
        "tool_calls": [call],
    }
    result = {"role": "tool", "content": "<search>"}
    for call_format in ("mcp", "hermes"):
        parts = Chat(ours, {"f": "s"}, call_format).render(
            [*outside, answer, result, {**answer, "weight": 0}]
        )
        assert parts.tokens.tolist().count(new) == 6
        assert parts.tokens[parts.trained].tolist().count(new) == 3


@pytest.mark.slow  # imports transformers, which reads Qwen3's tokenizer twice
def test_a_users_tokens_go_through_transformers(qwen_folder, tmp_path):
    """The same from the other end: transformers adds them, saves its files, and reads them again."""
    transformers = pytest.importorskip("transformers")
    one = transformers.AutoTokenizer.from_pretrained(qwen_folder)
    one.add_tokens(["<search>", "</search>"])
    one.add_special_tokens({"additional_special_tokens": ["<|user_end|>"]})
    one.save_pretrained(tmp_path)
    ours, theirs = HFTokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.template.name == "qwen3"
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


# A tokenizer.json as transformers writes it of a GGUF file: added tokens are in the vocabulary, too.


def from_gguf(merges=(("t", "h"),), **more):
    names = [*LETTERS, *("".join(merge) for merge in merges), *NAMES, "[PAD262]"]
    library = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [*merges], **more))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens([AddedToken(name, normalized=False) for name in NAMES[:3]])
    library.add_tokens([AddedToken(name, normalized=False) for name in NAMES[3:]])
    return library


@pytest.mark.parametrize("more", [{}, {"ignore_merges": True}])
def test_added_tokens_that_are_in_the_vocabulary(tmp_path, more):
    library = from_gguf(**more)
    ours = saved(library, tmp_path)
    text = "the<tool_call>th</tool_call> <think>"
    assert ours.encode(text) == library.encode(text).ids
    assert ours.vocab_size == library.get_vocab_size()
    assert [ours.token_id(name) for name in NAMES] == [257, 258, 259, 260, 261]
    assert ours.decode([262, 258]) == "[PAD262]<|im_start|>"
    for name in NAMES:
        assert not {*range(257, 262)} & {*ours.encode_untrusted(name)}
    assert 258 not in ours.encode("<|im_start|>")


def test_added_tokens_before_the_words_of_the_vocabulary(tmp_path):
    """The library numbers them anew from the vocabulary's size on, where words have their numbers."""
    names = [*NAMES, "<repo>", "<file>", *LETTERS, "th", "the"]
    vocabulary = {name: i for i, name in enumerate(names)} | {"on": len(names) + 3}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, [("t", "h"), ("th", "e"), ("o", "n")]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens([AddedToken(name, normalized=False) for name in names[:7]])
    ours = saved(library, tmp_path)
    for text in ("the thon <repo>ÿ", "<tool_call>on</tool_call> the<file>"):
        assert ours.encode(text) == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == ours.decode(ours.encode_untrusted(text)) == text


def test_a_tag_that_merges_make_is_refused_and_a_word_stays_a_word(tmp_path):
    library = from_gguf()
    library.add_tokens([AddedToken("th")])
    assert saved(library, tmp_path).encode("th") == saved(library, tmp_path).encode_untrusted("th") == [256]
    tag = "<think>"
    library = from_gguf(merges=[(tag[:i], tag[i]) for i in range(1, len(tag))])
    library.add_tokens([AddedToken(tag)])
    with pytest.raises(
        ConfigError, match=r"tokenizer.json: the added token <think> has id 261, which text can make"
    ):
        saved(library, tmp_path)


def test_what_another_file_lacks(tmp_path):
    """No decoder, no post-processor, no flags; another normaliser is refused."""
    library = from_gguf()
    saved(library, tmp_path)
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    bare = {key: content[key] for key in ("pre_tokenizer", "model")}
    bare["added_tokens"] = [{"id": t["id"], "content": t["content"]} for t in content["added_tokens"]]
    file.write_text(json.dumps(bare), encoding="utf-8")
    assert HFTokenizer(file).encode("a<tool_call>") == [*HFTokenizer(file).encode("a"), 260]
    library.normalizer = normalizers.NFKC()
    with pytest.raises(ConfigError, match="changes text beyond NFC"):
        saved(library, tmp_path)
