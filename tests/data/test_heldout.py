"""What is held out: which conversations, and the rows that they fill."""

import pytest

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import Conversations
from mirothinker_jax.data.heldout import packed_rows, split
from mirothinker_jax.data.messages import DataError

CHAT = Chat(Characters())


def conversations(sizes):
    turns = lambda n: [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * n}]  # noqa: E731
    return Conversations([{"messages": turns(n)} for n in sizes], "my.jsonl")


@pytest.mark.parametrize(("total", "fraction", "count"), [(50, 0.2, 10), (50, 0.001, 1), (2, 0.5, 1)])
def test_each_conversation_is_trained_on_or_held_out(total, fraction, count):
    source = conversations(range(total))
    trained, heldout = split(source, fraction)
    assert (len(trained), len(heldout)) == (total - count, count)
    where = [[part.location(i) for i in range(len(part))] for part in (trained, heldout)]
    assert sorted(where[0] + where[1]) == sorted(source.location(i) for i in range(total))
    assert all(part[0] == source[int(part.location(0)[9:]) - 1] for part in (trained, heldout))
    assert len({source.fingerprint, trained.fingerprint, heldout.fingerprint}) == 3
    assert split(source, fraction)[0].fingerprint == trained.fingerprint


def test_something_must_be_left_to_train_on():
    with pytest.raises(
        ConfigError, match=r"^data\.validation_fraction is 0\.9 of 2 conversations, which leaves"
    ):
        split(conversations([1, 2]), 0.9)


def test_rows_of_all_of_them():
    sizes = [5, 30, 12]
    batch = packed_rows(conversations(sizes), CHAT, 64)
    # Of each answer its letters and its end of turn.
    assert batch.denominator.sum() == batch.weights.sum() == sum(sizes) + len(sizes)
    with pytest.raises(DataError, match=r"^my\.jsonl:2: messages: \d+ tokens do not fit a row of 40"):
        packed_rows(conversations(sizes), CHAT, 40)
