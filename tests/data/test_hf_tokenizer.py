"""On Qwen3's real tokenizer.json, with the library's own reading of it beside ours; errors on a tiny one."""

import copy
import itertools
import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data import tokenizer as sentencepiece_tokenizer
from mirothinker_jax.data.hf_tokenizer import HFTokenizer, open_tokenizer, tokenizer_file

PAD, IM_START, IM_END = 151643, 151644, 151645
ADDED = range(151643, 151669)
NAMES = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>"),
    *("<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>"),
    *("</tool_response>", "<think>", "</think>"),
]
STRUCTURE = [*NAMES[:3], "<tool_response>", "</tool_response>"]  # never made of text, trusted or not
SPOKEN = [name for name in NAMES if name not in STRUCTURE]
# Characters that Python's Unicode knows, so that its NFC and the library's are of the same table.
characters = st.characters(exclude_categories=["Cs", "Cn"])
PIECES = [
    *NAMES,
    *(name[: len(name) // 2] for name in NAMES),
    *(name[len(name) // 2 :] for name in NAMES),
    *("<", "<|", "|>", ">", "</", "think", "im_end", "\u200b", "\u0338", "\u0301", "e\u0301", "\ufeff", "\0"),
    *(" ", "  ", "\n", "\n\n", "\r\n", "\t", "中", "😀", "\ud800", "Kathmandu", "12345", "user", "assistant"),
]
# Without added tokens; hypothesis knows their names from this file and tries them.
plain_texts = st.text(characters).filter(lambda text: not any(name in text for name in NAMES))
texts = st.one_of(st.text(characters), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
many = settings(max_examples=300)


def nfc(text):
    return unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


@pytest.fixture(scope="session")
def library(qwen_folder):
    """The library with the whole file, as everybody else uses it: any text can become any added token."""
    whole = tokenizers.Tokenizer.from_file(str(qwen_folder / "tokenizer.json"))
    return lambda text: whole.encode(text, add_special_tokens=False).ids


def test_the_ids_of_qwen3(qwen):
    assert (qwen.vocab_size, qwen.pad_id, qwen.im_start_id, qwen.im_end_id) == (151669, PAD, IM_START, IM_END)
    assert [qwen.token_id(name) for name in NAMES] == list(ADDED)
    assert qwen.token_id("<use_mcp_tool>") is None
    assert [qwen.encode(name) for name in SPOKEN] == [[qwen.token_id(name)] for name in SPOKEN]


@many
@given(text=plain_texts)
def test_text_without_added_tokens_is_what_the_library_makes_of_it(qwen, library, text):
    assert qwen.encode(text) == qwen.encode_untrusted(text) == library(text)


@many
@given(parts=st.lists(st.one_of(st.sampled_from(SPOKEN), plain_texts), max_size=8))
def test_added_tokens_of_trusted_text_are_what_the_library_makes_of_them(qwen, library, parts):
    text = "".join(parts)
    assert qwen.encode(text) == library(text)


@many
@given(text=texts)
def test_every_text_comes_back_normalised(qwen, text):
    assert qwen.decode(qwen.encode_untrusted(text)) == nfc(text)
    assert nfc(qwen.decode(qwen.encode(text))) == nfc(text)


@many
@given(text=texts)
def test_text_from_outside_makes_no_added_token_and_trusted_text_no_structure(qwen, text):
    assert max(qwen.encode_untrusted(text), default=0) < ADDED.start
    assert not {qwen.token_id(name) for name in STRUCTURE} & {*qwen.encode(text)}


def attacks():
    for name in NAMES:
        middle = len(name) // 2
        yield from (name, name * 2, f" {name}\n", f"<{name}>", f"{name}\u0338", name.upper(), f"\\{name}")
        yield name[:middle] + name + name[middle:]  # nested: taking the inner one out leaves an outer one
        yield name[:middle] + "\u200b" + name[middle:]
        yield f"{name[:middle]}\ud800{name[middle:]}"
        yield from (name[:-1] + other for other in ("<think>", "<|im_end|>"))  # partial overlap
    for one, other in itertools.product(NAMES, NAMES):
        yield one + other


def test_every_added_token_in_every_disguise(qwen, library):
    for attack in attacks():
        ids = qwen.encode_untrusted(attack)
        assert max(ids) < ADDED.start, attack
        assert qwen.decode(ids) == nfc(attack)
    assert all(library(name) == [i] for name, i in zip(NAMES, ADDED, strict=True))  # the danger is real


def test_the_composition_of_a_bracket_and_an_overlay(qwen):
    assert qwen.encode("<think>\u0338")[0] == qwen.token_id("<think>")  # tags are cut out first
    assert qwen.decode(qwen.encode_untrusted("<think>\u0338")) == "<think\u226f"


@many
@given(text=texts, most=st.integers(0, 20))
def test_truncation_keeps_a_beginning_within_the_limit(qwen, text, most):
    short, was_cut = qwen.truncate(text, most)
    assert len(qwen.encode_untrusted(short)) <= most
    assert was_cut == (len(qwen.encode_untrusted(text)) > most)
    if not was_cut:
        assert short == text
    else:
        assert nfc(text).startswith(short.removesuffix("\n[cut]"))
        assert most < 6 or short.endswith("\n[cut]")


@pytest.mark.parametrize("unit", ["\u03b1\u0313\u0300\u0345", " ", "Kathmandu, Nepal. ", "\U0001f600"])
def test_truncation_of_long_texts_uses_the_room_it_has(qwen, unit):
    text = unit * 20_000  # the first unit: four characters that NFC makes one of; the second: long tokens
    whole = len(qwen.encode_untrusted(text))
    short, was_cut = qwen.truncate(text, 60)
    assert was_cut == (whole > 60)
    assert 54 <= len(qwen.encode_untrusted(short)) <= 60
    assert qwen.truncate(text, whole) == (text, False)
    assert qwen.truncate(text, whole - 1)[1]


def test_no_character_of_nfc_stands_for_more_than_four():
    longest = max(
        len(unicodedata.normalize("NFD", chr(i))) for i in range(0x110000) if not 0xD800 <= i < 0xE000
    )
    assert longest == 4


def test_ids_and_bytes_that_are_no_text_decode_to_replacement_characters(qwen):
    assert qwen.decode([qwen.vocab_size, 151_935, -1]) == "\ufffd" * 3
    rare = qwen.encode("\U00013000")
    assert len(rare) > 1
    assert qwen.decode(rare[:-1]) == "\ufffd"
    assert (
        qwen.decode([IM_START, IM_END, PAD, 151665]) == "<|im_start|><|im_end|><|endoftext|><tool_response>"
    )
    assert qwen.encode("a\ud800b") == qwen.encode("a\ufffdb")
    assert qwen.encode("\ud83d\ude00") == qwen.encode("😀")  # a pair is a character


def test_threads_share_it(qwen):
    pages = [f"<think>page {i}</think> " + "Kathmandu 中 " * (i % 7) for i in range(200)]
    expected = [qwen.encode(page) for page in pages]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(qwen.encode, pages)) == expected
        assert list(threads.map(qwen.decode, expected)) == pages


# A tiny tokenizer.json: bytes, one merge, the control tokens and some tags.

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def tiny():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "th"])}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(CONTROL)
    made.add_tokens([tokenizers.AddedToken(tag, normalized=False) for tag in ("<tool_call>", "</tool_call>")])
    return json.loads(made.to_str())


@pytest.fixture
def saved(tmp_path):
    def save(content):
        path = tmp_path / "tokenizer.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return save


def test_a_file_without_some_tags_spells_them(saved, tiny):
    codec = HFTokenizer(saved(tiny))
    assert codec.vocab_size == 257 + 5
    assert codec.encode("<tool_call>") == [260]
    assert codec.token_id("<think>") is None
    assert codec.encode("<think>") == codec.encode_untrusted("<think>")
    assert len(codec.encode("<think>")) == len("<think>") - 1  # "th" is one
    bare = copy.deepcopy(tiny)
    bare["added_tokens"] = bare["added_tokens"][:3]
    assert HFTokenizer(saved(bare)).encode("a<tool_call>b") == codec.encode_untrusted("a<tool_call>b")


def test_ids_that_stand_for_nothing_and_settings_of_the_file_that_would_add_or_cut(saved, tiny):
    gap = copy.deepcopy(tiny)
    gap["added_tokens"][4]["id"] = 300
    gap["model"]["dropout"] = 1.0
    gap["truncation"] = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    codec = HFTokenizer(saved(gap))
    assert codec.vocab_size == 301
    assert codec.decode([290, 300]) == "\ufffd</tool_call>"
    assert len(codec.encode("abcdefth")) == 7


def changed(tiny, **changes):
    content = copy.deepcopy(tiny)
    for key, value in changes.items():
        *above, last = key.split("__")
        place = content
        for name in above:
            place = place[int(name) if name.isdigit() else name]
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tiny: b"{", r"not JSON \(Expecting"),
        (lambda tiny: b'{"\xc3": 1}', r"not JSON \('utf-8' codec can't decode"),
        (lambda tiny: [], "not a tokenizer.json .lacks model or added_tokens"),
        (lambda tiny: {"chat_template": ""}, "not a tokenizer.json .lacks model or added_tokens"),
        (lambda tiny: changed(tiny, model={"type": "Magic"}), "not a tokenizer.json"),
        (lambda tiny: changed(tiny, model__merges=["a nowhere"]), "not a tokenizer.json .*nowhere"),
        (lambda tiny: changed(tiny, model__merges=[5]), "not a tokenizer.json"),
        (
            lambda tiny: changed(tiny, model__continuing_subword_prefix="##"),
            "continuing_subword_prefix is set",
        ),
        (lambda tiny: changed(tiny, model__vocab__x=1 << 30), "the vocabulary has an id of 1073741824"),
        (lambda tiny: changed(tiny, model__vocab__x="1"), "not a tokenizer.json"),
        (lambda tiny: changed(tiny, added_tokens__0__id=-1), "not an added token: {'id': -1"),
        (lambda tiny: changed(tiny, added_tokens=["<think>"]), "not an added token: '<think>'"),
        (
            lambda tiny: changed(tiny, added_tokens=tiny["added_tokens"][:2]),
            r"lacks the added token <\|im_end\|> \(has 2 others\); use the tokenizer of a Qwen model",
        ),
        (
            lambda tiny: changed(tiny, added_tokens__3__id=256),
            "the added token <tool_call> has id 256, which text can make too",
        ),
        (
            lambda tiny: changed(tiny, model__vocab={**tiny["model"]["vocab"], "中": 400}),
            "token '中' has '中', which stands for no byte",
        ),
        (
            lambda tiny: changed(
                tiny, model__vocab={k: v for k, v in tiny["model"]["vocab"].items() if k not in "ab"}
            ),
            "2 of 256 bytes have no token",
        ),
        (lambda tiny: changed(tiny, normalizer={"type": "NFKC"}), "changes text beyond NFC"),
        (lambda tiny: changed(tiny, normalizer={"type": "Lowercase"}), "changes text beyond NFC"),
        (lambda tiny: changed(tiny, pre_tokenizer__add_prefix_space=True), "changes text beyond NFC"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(saved, tiny, make, message):
    path = saved(make(tiny))
    with pytest.raises(ConfigError, match=message) as error:
        HFTokenizer(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_open_tokenizer_takes_a_file_or_a_folder(saved, tiny, tmp_path, codec, tmp_path_factory):
    path = saved(tiny)
    for where in (path, str(path), tmp_path):
        assert isinstance(open_tokenizer(where), HFTokenizer)
        assert tokenizer_file(where) == path
    model = next(tmp_path_factory.getbasetemp().glob("tokenizer*/toy.model"))
    assert isinstance(open_tokenizer(model), sentencepiece_tokenizer.Tokenizer)
    assert tokenizer_file(model) == model
    assert open_tokenizer(model).token_id("<think>") == codec.encode("<think>")[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: no such tokenizer file; give a model's tokenizer.json"),
        ("none.model", "none.model: no such tokenizer file; leave tokenizer.path empty"),
        ("", "tokenizer.json: no such tokenizer file; .* or the folder that holds it"),
        ("other.txt", r"neither \*.model"),
    ],
)
def test_paths_without_a_tokenizer(tmp_path, name, message):
    (tmp_path / "other.txt").write_text("hello")
    with pytest.raises(ConfigError, match=message):
        open_tokenizer(tmp_path / name)
