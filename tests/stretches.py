"""Segments with one message each."""

from mirothinker_jax.trajectory.types import Segment, Source


def segment(source, tokens, says="", logprobs=(), **fields):
    """With one message, in the role that goes with the source."""
    role = {Source.PROMPT: "user", Source.POLICY: "assistant"}.get(source, "tool")
    return Segment(source, tuple(tokens), ((role, says),), logprobs, **fields)


PROMPT = segment(Source.PROMPT, (1, 2, 3), "where is KTM?")
