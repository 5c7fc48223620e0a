import json

import jax
import numpy as np
import pytest

from mirothinker_jax.config import DataConfig
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import Conversations, open_conversations
from mirothinker_jax.data.epochs import batches_per_epoch
from mirothinker_jax.data.loader import SFTSource
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.data.templates import QWEN2_5

ROWS, T = 4, 96


def episodes(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "messages": [
                {"role": "user", "content": f"{i} " + "Nepal " * int(rng.integers(1, 6))},
                {"role": "assistant", "content": "Kathmandu " * int(rng.integers(1, 6))},
            ]
        }
        for i in range(count)
    ]


@pytest.fixture
def source(codec):
    def make(records=None, process=0, processes=1, rows=ROWS, sequence_length=T, seed=0, **settings):
        conversations = records or Conversations(episodes(40))
        config = DataConfig(**{"shards": 2, "open_bins": 3, "read_threads": 2, **settings})
        return SFTSource(conversations, Chat(codec), config, sequence_length, rows, seed, process, processes)

    return make


def take(source, count):
    return [source.next(step, None)[0] for step in range(count)]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def samples_of(batch):
    """(tokens, weights) of every sample of a batch."""
    for row in range(batch.shape[0]):
        for sequence in range(batch.sequence[row].max() + 1):
            where = batch.sequence[row] == sequence
            yield batch.tokens[row][where], batch.weights[row][where], np.flatnonzero(where)


def test_rows_hold_whole_conversations_each_seeing_itself(source, codec):
    records = episodes(40)
    chat = Chat(codec)
    whole = {tuple(r.tokens): r.trained for r in (chat.render(x["messages"]) for x in records)}
    batch, figures = source(Conversations(records)).next(0, None)
    assert batch.shape == (ROWS, T)
    for tokens, weights, where in samples_of(batch):
        trained = whole[tuple(tokens)]
        np.testing.assert_array_equal(weights, [*trained[1:].astype(np.float32), 0])
        row = next(r for r in range(ROWS) if tuple(batch.tokens[r][where]) == tuple(tokens))
        np.testing.assert_array_equal(batch.targets[row, where][:-1], tokens[1:])
        np.testing.assert_array_equal(batch.positions[row, where], np.arange(len(where)))
        assert (batch.spans.own_lo[row, where] == where[0]).all()
    padding = batch.sequence == -1
    own = np.broadcast_to(np.arange(T), (ROWS, T))
    np.testing.assert_array_equal(batch.spans.own_lo[padding], own[padding])
    assert not batch.weights[padding].any()
    assert (batch.spans.trunk_lo == batch.spans.trunk_hi).all()
    assert figures == {"data/fill": 1 - padding.mean(), "data/trained": pytest.approx(batch.weights.mean())}


def test_every_epoch_shows_every_conversation_once_in_a_new_order(source):
    records = Conversations(episodes(40))
    seen = []
    stream = source(records, read_threads=0)
    while len(seen) < 40 * 6:
        seen += [tuple(tokens) for tokens, _, _ in samples_of(stream.next(0, None)[0])]
    counts = {tokens: seen.count(tokens) for tokens in seen}
    assert len(counts) == 40
    assert max(counts.values()) - min(counts.values()) <= 2  # the open rows hold back at most an epoch
    assert len(seen) > 40
    assert seen[:20] != seen[40:60]


def test_same_seed_same_batches_other_seed_others(source):
    first = take(source(), 3)
    assert_equal(first, take(source(), 3))
    assert_equal(first, take(source(read_threads=0), 3))
    other = take(source(seed=1), 3)
    assert not np.array_equal(first[0].tokens, other[0].tokens)


def test_unshuffled_data_keep_their_order(source, codec):
    stream = source(shuffle=False, shards=1, open_bins=1)
    shown = [codec.decode(tokens) for batch in take(stream, 3) for tokens, _, _ in samples_of(batch)]
    numbers = [int(text.split("\n")[1].split(" ")[0]) for text in shown]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 10


@pytest.mark.parametrize("shards", [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_processes(source, shards):
    whole = take(source(shards=shards), 4)
    parts = [take(source(process=p, processes=2, shards=shards), 4) for p in range(2)]
    joined = [jax.tree.map(lambda *rows: np.concatenate(rows), *step) for step in zip(*parts, strict=True)]
    assert_equal(whole, joined)


@pytest.mark.parametrize(("before", "threads"), [(0, 2), (1, 0), (5, 2), (5, 0)])
def test_a_restored_source_goes_on_exactly(source, before, threads):
    """With as many threads or others."""
    original = source()
    take(original, before)
    state = json.loads(json.dumps(original.get_state()))
    expected = take(original, 4)
    restored = source(read_threads=threads)
    take(restored, 2)  # wherever it stood
    restored.set_state(state)
    assert_equal(take(restored, 4), expected)
    assert restored.get_state() == original.get_state()


def test_two_processes_go_on_from_the_state_of_one_and_back(source):
    one = source()
    take(one, 2)
    state = one.get_state()
    expected = take(one, 2)
    two = [source(process=p, processes=2) for p in range(2)]
    for part in two:
        part.set_state(state)
    joined = [
        jax.tree.map(lambda *rows: np.concatenate(rows), *step)
        for step in zip(*(take(part, 2) for part in two), strict=True)
    ]
    assert_equal(joined, expected)

    states = [part.get_state() for part in two]
    with pytest.raises(ValueError, match=r"lacks shard 1 \(it has 0\); merge the states of all processes"):
        source().set_state(states[0])
    again = source()
    again.set_state({**states[0], "shards": states[0]["shards"] | states[1]["shards"]})
    assert_equal(take(again, 2), take(one, 2))


def test_a_position_in_other_data_is_refused(source):
    state = source().get_state()
    edited = episodes(40)
    edited[7]["messages"][1]["content"] += "."
    for records in (episodes(41), edited):
        with pytest.raises(ValueError) as caught:
            source(Conversations(records, name="new.jsonl")).set_state(json.loads(json.dumps(state)))
        digest = Conversations(episodes(40)).fingerprint[:12]
        assert str(caught.value).startswith(
            f"data.path: this run was made with other data: conversations (40 conversations, SHA-256 {digest}…); "
            f"now it is new.jsonl ({len(records)} conversations, SHA-256 "
        )
    source(Conversations(episodes(40), name="moved.jsonl")).set_state(state)
    with pytest.raises(ValueError, match="saved data position has sequence_length 96, this run 128"):
        source(sequence_length=128).set_state(state)


def test_a_position_under_another_chat_template_is_refused(source, codec, monkeypatch):
    """As when chat_template.jinja beside the tokenizer was edited: the same conversations are other tokens."""
    state = source().get_state()
    monkeypatch.setattr(codec, "template", QWEN2_5)
    with pytest.raises(
        ValueError, match=r"has template Template\(name='chatml'.* this run Template\(name='qwen2.5'"
    ):
        source().set_state(state)


def test_a_conversation_longer_than_a_row_is_named(source, tmp_path):
    long = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "9" * 200}]}
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in [*episodes(3), long]))
    stream = source(open_conversations(str(path)))
    with pytest.raises(DataError) as caught:
        take(stream, 50)
    assert str(caught.value).startswith(f"{path}:4: messages: ")
    assert "tokens do not fit a row of 96; raise sft.training.sequence_length" in str(caught.value)


def test_a_call_that_cannot_be_rendered_is_named(source):
    record = episodes(1)[0]
    record["messages"][1]["tool_calls"] = [{"function": {"name": "fly"}}]
    with pytest.raises(
        DataError, match=r"^expert:1: messages\[1\]\.tool_calls\[0\]\.function\.name: no server"
    ):
        take(source(Conversations([record], name="expert"), shards=1), 1)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"processes": 3}, r"data\.shards \(2\) must be a multiple of the number of processes \(3\)"),
        ({"rows": 3}, r"training\.batch_size \(3\) must be a multiple of data\.shards \(2\)"),
        ({"shards": 64, "rows": 64}, r"data\.shards is 64 for 40 conversations"),
    ],
)
def test_numbers_that_do_not_divide(source, numbers, message):
    with pytest.raises(ValueError, match=message):
        source(**numbers)


@pytest.mark.parametrize(("shards", "open_bins", "shuffle"), [(2, 3, True), (1, 8, False), (4, 1, True)])
def test_batches_of_an_epoch(source, codec, shards, open_bins, shuffle):
    """So many batches hold every conversation once, on average over many epochs, whatever their lengths."""
    records, epochs = episodes(61, seed=3), 24
    chat, settings = Chat(codec), dict(shards=shards, open_bins=open_bins, shuffle=shuffle)
    lengths = np.asarray([len(chat.render(r["messages"]).tokens) for r in records], np.int32)
    batches = batches_per_epoch(lengths, DataConfig(**settings), T, ROWS, seed=0)
    assert batches > 1.05 * lengths.sum() / (ROWS * T), "rows are never that full"
    taken = take(source(Conversations(records), **settings), round(epochs * batches))
    seen = sum((batch.positions == 0)[batch.sequence >= 0].sum() for batch in taken)
    assert seen == pytest.approx(epochs * len(records), rel=0.03)
