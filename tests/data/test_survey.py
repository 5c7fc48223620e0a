"""What a look at every conversation finds, and what it says."""

import json

import numpy as np
import pytest

from mirothinker_jax.agent.characters import Characters
from mirothinker_jax.data.chat import Chat
from mirothinker_jax.data.conversations import open_conversations
from mirothinker_jax.data.messages import DataError
from mirothinker_jax.data.survey import survey

CHAT = Chat(Characters())


def conversations(tmp_path, sizes):
    path = tmp_path / "my.jsonl"
    turns = lambda n: [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * n}]  # noqa: E731
    path.write_text("".join(json.dumps({"messages": turns(n)}) + "\n" for n in sizes))
    return path, open_conversations(str(path))


def tokens(size):
    return len(
        CHAT.render([{"role": "user", "content": "q"}, {"role": "assistant", "content": "x" * size}]).tokens
    )


@pytest.mark.parametrize("threads", [0, 3])
def test_the_longest_and_every_one_counted(tmp_path, threads):
    sizes = [n % 97 for n in range(600)]
    _, opened = conversations(tmp_path, sizes)
    seen = []
    lengths = survey(opened, CHAT, range(600), 200, threads, seen.append)
    assert lengths.tolist() == [tokens(n) for n in sizes] and lengths.dtype == np.int32
    assert sum(seen) == 600 and len(seen) > 1
    assert set(survey(opened, CHAT, range(1, 600, 97), 200, threads, seen.append)) == {tokens(1)}


def test_all_that_do_not_fit_are_told_with_the_row_that_would_do(tmp_path):
    path, opened = conversations(tmp_path, [5, 300, 5, 400])
    with pytest.raises(DataError) as caught:
        survey(opened, CHAT, range(4), 200, 2, lambda _: None)
    assert str(caught.value) == (
        f"{path}:2 and 1 more of 4 conversations do not fit a row of 200 tokens; raise sft.training.sequence_length to "
        f"{tokens(400)}, or take them out"
    )
    survey(opened, CHAT, range(4), tokens(400), 2, lambda _: None)
    with pytest.raises(DataError) as caught:
        survey(opened, CHAT, range(3), 200, 2, lambda _: None)
    assert str(caught.value).startswith(
        f"{path}:2: messages: {tokens(300)} tokens do not fit a row of 200; raise"
    )


def test_what_cannot_be_rendered_is_told_first(tmp_path):
    path, _ = conversations(tmp_path, [300, 5])
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "fly"}}]}
    with path.open("a") as file:
        file.write(json.dumps({"messages": [call]}) + "\n")
    with pytest.raises(
        DataError, match=r"my\.jsonl:3: messages\[0\]\.tool_calls\[0\]\.function\.name: no server"
    ):
        survey(open_conversations(str(path)), CHAT, range(3), 200, 2, lambda _: None)
