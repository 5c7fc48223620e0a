"""Every conversation rendered once before training: hour ten is no time to learn that line 700,000 is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mirothinker_jax.data.chat import Chat, Rendered
from mirothinker_jax.data.conversations import ConversationSource
from mirothinker_jax.data.messages import DataError

_AT_ONCE = 256  # conversations handed to the threads; their order is kept


def render(conversations: ConversationSource, chat: Chat, index: int) -> Rendered:
    """Conversation `index` as tokens. Raises DataError, which begins with where it is."""
    record = conversations[index]
    try:
        return chat.render(record["messages"], record.get("tools"))
    except DataError as error:
        raise DataError(f"{conversations.location(index)}: {error}") from None


def check_length(where: str, tokens: int, sequence_length: int) -> None:
    """Raises DataError where a conversation does not fit a row."""
    if tokens > sequence_length:
        raise DataError(
            f"{where}: messages: {tokens} tokens do not fit a row of {sequence_length}; raise "
            "sft.training.sequence_length, or take the conversation out"
        )


def survey(
    conversations: ConversationSource,
    chat: Chat,
    numbers: Sequence[int],
    sequence_length: int,
    threads: int,
    advance: Callable[[int], object],
) -> np.ndarray:
    """Renders the conversations of these numbers; returns the tokens of each, int32 [len(numbers)].

    Args:
      sequence_length: what each must fit.
      threads: that render at the same time.
      advance: told how many more are done.

    Raises:
      DataError: the first that cannot be rendered; or, when all can, those that do not fit.
    """
    lengths: list[int] = []
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for start in range(0, len(numbers), _AT_ONCE):
            part = numbers[start : start + _AT_ONCE]
            sizes = pool.map(lambda n: len(render(conversations, chat, n).tokens), part)
            lengths.extend(sizes)
            advance(len(part))
    beyond = [number for number, size in zip(numbers, lengths, strict=True) if size > sequence_length]
    longest = max(lengths, default=0)
    if len(beyond) > 1:
        raise DataError(
            f"{conversations.location(beyond[0])} and {len(beyond) - 1} more of {len(numbers)} conversations do "
            f"not fit a row of {sequence_length} tokens; raise sft.training.sequence_length to "
            f"{longest}, or take them out"
        )
    if beyond:
        check_length(conversations.location(beyond[0]), longest, sequence_length)
    return np.asarray(lengths, np.int32)
