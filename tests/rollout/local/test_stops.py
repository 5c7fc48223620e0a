"""Stop strings, in tokens that are bytes: characters and strings begin and end within them."""

from hypothesis import given
from hypothesis import strategies as st

from mirothinker_jax.rollout.local.stops import StopStrings


def decode(ids):
    return bytes(ids).decode("utf-8", "replace")


@given(
    st.text("aé→b", max_size=20),
    st.lists(st.text("aé→b", min_size=1, max_size=3), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), min_size=80, max_size=80),
)
def test_a_string_is_found_at_the_token_that_completes_it(text, strings, steps):
    """However the tokens come."""
    tokens, watch = list(text.encode()), StopStrings(strings, decode)
    expected = [n for n in range(len(tokens) + 1) if any(s in decode(tokens[:n]) for s in strings)]
    place, found = 0, None
    while place < len(tokens) and found is None:
        step = tokens[place : place + steps.pop()]
        found = watch.find(step)
        place += len(step) if found is None else found[0]
    assert (None if found is None else place) == min(expected, default=None)
    if found is not None:
        places = [(text.find(s), s) for s in strings if s in decode(tokens[:place])]
        assert found[1] in {s for _, s in places}
