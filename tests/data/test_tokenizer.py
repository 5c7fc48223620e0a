import io

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirothinker_jax.config import TokenizerConfig
from mirothinker_jax.data.atomic import replacing
from mirothinker_jax.data.tokenizer import CONTROL, TAGS, Tokenizer, train_tokenizer

# Whole tags, pieces of tags, control tokens and characters that sentencepiece treats in a way of its own.
FRAGMENTS = [
    *TAGS["mcp"],
    *CONTROL,
    *(tag[:-1] for tag in TAGS["mcp"]),
    "<",
    "</",
    ">",
    "use_mcp_tool>",
    "think",
    "\u2581",
]
FRAGMENTS += [
    "\u2581\u2581",
    "<0x41>",
    "<unk>",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "\r\n",
    "\0",
    "é",
    "中",
    "\ufffd",
]
FRAGMENTS += [
    '{"url": "',
    '", "info_to_extract": "',
    "http://airports.test/",
    "Kathmandu",
    "12345",
    "\ufb01",
    "😀",
]
texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join),
)
many = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def forbidden(codec):
    """Ids of the control and tag tokens."""
    tags = [codec.encode(tag) for tag in TAGS["mcp"]]
    assert all(len(ids) == 1 for ids in tags)
    return {codec.pad_id, codec.im_start_id, codec.im_end_id, *(ids[0] for ids in tags)}


@many
@given(text=texts)
def test_every_text_comes_back_unchanged(any_codec, text):
    assert any_codec.decode(any_codec.encode(text)) == text
    assert any_codec.decode(any_codec.encode_untrusted(text)) == text


@many
@given(text=texts)
def test_text_cannot_make_control_tokens_nor_untrusted_text_tags(any_codec, text):
    control = {any_codec.pad_id, any_codec.im_start_id, any_codec.im_end_id}
    assert not control & set(any_codec.encode(text))
    assert not forbidden(any_codec) & set(any_codec.encode_untrusted(text))


def test_a_symbol_that_holds_a_tag_is_no_way_around(tmp_path):
    path = tmp_path / "t.model"
    symbol = "<use_mcp_tool><server_name>"
    train_tokenizer(["some text"], path, TokenizerConfig(vocab_size=300, symbols=(symbol,)))
    codec = Tokenizer(path)
    (compound,) = codec.encode(symbol)
    assert compound not in codec.encode_untrusted(symbol)
    assert codec.decode(codec.encode_untrusted(symbol)) == symbol


@many
@given(text=texts, most=st.integers(0, 30))
def test_truncation_keeps_a_beginning_within_the_limit(any_codec, text, most):
    short, was_cut = any_codec.truncate(text, most)
    assert len(any_codec.encode_untrusted(short)) <= most
    assert was_cut == (len(any_codec.encode_untrusted(text)) > most)
    assert text.startswith(short.removesuffix("\n[cut]"))
    if not was_cut:
        assert short == text
    elif most >= 6:
        assert short.endswith("\n[cut]")


def test_truncation_uses_the_room_it_has(codec):
    text = "Kathmandu is the capital of Nepal. " * 2000
    short, was_cut = codec.truncate(text, 50)
    assert was_cut
    assert 48 <= len(codec.encode_untrusted(short)) <= 50


def test_symbols_are_one_token_and_words_do_not_depend_on_what_stands_before(codec):
    for symbol in (" ", '{"url": "', '", "info_to_extract": "', "http://airports.test/", "\n"):
        assert len(codec.encode(symbol)) == 1
    word = codec.encode("elevation")
    assert codec.encode(" elevation")[1:] == word
    assert codec.encode('{"url": "elevation')[1:] == word
    assert codec.encode("http://airports.test/elevation")[1:] == word
    assert len(word) < len("elevation")  # merges were learned


def test_a_symbol_of_several_lines_is_one_token_and_teaches_no_words(tmp_path):
    said, plain = "<arguments>\n{} and outside", "outside"
    for name, symbols in (("a", ("<arguments>\n{}",)), ("b", ("q",))):
        settings = TokenizerConfig(vocab_size=330, symbols=symbols)
        train_tokenizer(
            [said, plain] * 9 if name == "a" else [" and outside", plain] * 9, tmp_path / name, settings
        )
    across, without = Tokenizer(tmp_path / "a"), Tokenizer(tmp_path / "b")
    assert len(across.encode("<arguments>\n{}")) == 1
    assert across.vocab_size == without.vocab_size
    assert [across.decode([i]) for i in across.encode(said)[1:]] == [
        without.decode([i]) for i in without.encode(" and outside")
    ]


def test_training_is_deterministic(tmp_path):
    corpus = ["one text", "another text\nof two lines", "<|im_end|> é 中"] * 5
    for name in ("a", "b"):
        train_tokenizer(iter(corpus), tmp_path / name, TokenizerConfig(vocab_size=320, symbols=("te",)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a", "b"]  # no scratch file stays


def test_more_characters_than_the_vocabulary_holds(tmp_path):
    everything = "".join(map(chr, range(0x4E00, 0x5E00)))
    train_tokenizer(
        ["the airport of the city " * 50, everything], tmp_path / "t", TokenizerConfig(vocab_size=330)
    )
    codec = Tokenizer(tmp_path / "t")
    assert codec.vocab_size <= 330
    assert codec.decode(codec.encode(everything)) == everything
    assert len(codec.encode(" airport of the city")) == 4  # room was left for words


def test_small_corpus_gives_a_smaller_vocabulary(tmp_path):
    train_tokenizer(["ab"], tmp_path / "t", TokenizerConfig(vocab_size=5000))
    assert 270 < Tokenizer(tmp_path / "t").vocab_size < 280


def test_ids_and_bytes_that_are_no_text_decode_to_replacement_characters(codec):
    assert codec.decode([codec.vocab_size + 7, -1]) == "\ufffd\ufffd"
    assert codec.decode(codec.encode("é")[:1]) == "\ufffd"
    assert codec.decode(codec.encode("a\ud800b")) == "a\ufffdb"
    assert codec.decode([codec.im_start_id, codec.im_end_id, codec.pad_id]) == "".join(
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    )


@pytest.mark.parametrize(
    ("corpus", "settings_", "message"),
    [
        ([], TokenizerConfig(), "no text to train a tokenizer on"),
        (["\n<|im_end|>"], TokenizerConfig(), "no text to train a tokenizer on"),
        (
            ["a"],
            TokenizerConfig(vocab_size=300, symbols=tuple(map(str, range(30)))),
            "is 300, of which .* take 301",
        ),
        (["a"], TokenizerConfig(symbols=("",)), "must not be empty"),
        (["a"], TokenizerConfig(symbols=("x<|im_end|>",)), "nor hold a control token"),
    ],
)
def test_what_cannot_be_trained(tmp_path, corpus, settings_, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(corpus, tmp_path / "t", settings_)
    assert not list(tmp_path.iterdir())


def foreign_model(path, **options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some text of another project"] * 3), model_writer=model, model_type="bpe",
        vocab_size=300, hard_vocab_limit=False, byte_fallback=True, minloglevel=2, **options,
    )  # fmt: skip
    path.write_bytes(model.getvalue())


def test_models_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such tokenizer file"):
        Tokenizer(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="not a sentencepiece model"):
        Tokenizer(tmp_path / "text")
    foreign_model(tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"lacks the token <\|endoftext\|> \(and 12 others\)"):
        Tokenizer(tmp_path / "foreign")
    foreign_model(tmp_path / "lossy", control_symbols=list(CONTROL), user_defined_symbols=list(TAGS["mcp"]))
    with pytest.raises(ValueError, match="changes text"):
        Tokenizer(tmp_path / "lossy")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="killed"), replacing(path) as scratch:
        scratch.write_text("half")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

    old = tmp_path / "old"
    old.hardlink_to(path)
    with replacing(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert old.read_text() == "old"  # the new file took the name; nothing was written into the old one
