"""Every sampled token is trained once, behind exactly the ids and positions that it was sampled behind."""

import numpy as np
import pytest
from edited import Episode, keep_last
from hypothesis import given, settings
from hypothesis import strategies as st

from mirothinker_jax.data.packing import Tree, pack_rows
from mirothinker_jax.trajectory.tree import row_length, tree_rows
from mirothinker_jax.trajectory.types import Source, Stop, Trajectory
from mirothinker_jax.trajectory.views import policy_rows, policy_sample

few = st.integers(1, 3)
which = st.lists(st.integers(0, 6), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), few),
        st.tuples(st.just("turn"), few),
        st.tuples(st.just("observe"), few),
        st.tuples(st.just("observe"), few),
        st.tuples(st.just("take_back")),
        st.tuples(st.just("drop")),
        st.tuples(st.just("hide"), which, st.integers(0, 2)),
        st.tuples(st.just("keep"), st.integers(0, 2), few, st.integers(0, 3)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("prompt"), few),
    ),
    max_size=30,
)


def play(steps):
    episode = Episode()
    episode.prompt(2)
    episode.turn(2)
    for name, *arguments in steps:
        getattr(episode, name)(*arguments)
    episode.turn(1)  # no episode ends with a result
    return episode


def trajectory(episode):
    return Trajectory(
        id="t",
        question_id="q",
        question="",
        expected="",
        answer=None,
        stop=Stop.ANSWERED,
        calls=0,
        failed_calls=0,
        malformed_calls=0,
        segments=tuple(episode.segments),
        turns=tuple(episode.turns),
    )


def contexts(episode):
    """Sampled token → the ids before it, turn by turn. A token occurs once in an episode."""
    seen = {}
    for turn in episode.turns:
        before = [token for i in turn.context for token in episode.segments[i].tokens]
        for token in episode.segments[turn.segment].tokens:
            seen[token] = list(before)
            before.append(token)
    return seen


def longest(episode):
    return max(map(len, contexts(episode).values())) + 1


def read_back(batch):
    """(sampled token, ids that predicted it) of every trained prediction of packed rows, from their spans alone."""
    for row, t in np.argwhere(batch.weights > 0):
        low, high, own = (int(span[row, t]) for span in batch.spans)
        visible = [*range(low, high), *range(own, t + 1)]
        ids, positions = batch.tokens[row, visible], batch.positions[row, visible]
        assert positions.tolist() == list(range(len(visible)))
        assert batch.sequence[row, t] >= 0 and batch.advantages[row, t] == 0.5
        assert batch.sampler_logprobs[row, t] == -batch.targets[row, t] / 8
        yield int(batch.targets[row, t]), ids.tolist()


@given(STEPS, st.integers(1, 3))
@settings(max_examples=300)
def test_every_sampled_token_once_behind_its_context(steps, room):
    episode = play(steps)
    row_tokens = longest(episode) * room
    rows = policy_rows(trajectory(episode), 0.5, row_tokens)
    found = list(read_back(pack_rows(rows, row_tokens)))
    assert sorted(found) == sorted(contexts(episode).items())
    sizes = [len(s.tokens) for s in episode.segments]
    assert sum(map(len, rows)) <= sum(
        sizes[i] for turn in episode.turns for i in (*turn.context, turn.segment)
    )


@given(STEPS, st.sampled_from(["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"]))
def test_however_many_rows_it_takes_it_counts_once(steps, aggregate):
    episode = play(steps)
    tokens = len(contexts(episode))
    rows = policy_rows(trajectory(episode), 0.5, longest(episode))
    batch = pack_rows(rows, longest(episode), aggregate=aggregate)
    total, weight = {
        "token-mean": (tokens, 1),
        "token-sum": (0, 1),
        "seq-mean-token-sum": (1, 1),
        "seq-mean-token-mean": (1, 1 / tokens),
    }[aggregate]
    np.testing.assert_allclose(batch.denominator.sum(), total, rtol=1e-6)
    np.testing.assert_allclose(batch.weights[batch.weights > 0], weight, rtol=1e-6)


def test_the_last_result_kept_token_by_token():
    """The example of the module: p P1 h1 P2 h2 P3 R3 P4 with two branches, in one row."""
    episode = keep_last(turns=4, last=1, sizes=(2, 1, 2, 1))
    at = {i: s.tokens for i, s in enumerate(episode.segments)}
    kinds = [s.source for s in episode.segments]
    p, P, R, h = (
        [at[i] for i, kind in enumerate(kinds) if kind is source]
        for source in (Source.PROMPT, Source.POLICY, Source.OBSERVATION, Source.PLACEHOLDER)
    )
    (tree,) = policy_rows(trajectory(episode), 0.5, 100)
    trunk = [*p[0], *P[0], *h[0], *P[1], *h[1], *P[2], *R[2], *P[3]]
    assert tree.trunk.tokens.tolist() == trunk
    assert tree.trunk.tokens[tree.trunk.trained].tolist() == [*P[0], *P[3]]
    assert [(b.seen, b.sample.tokens.tolist()) for b in tree.branches] == [
        (2, [*P[0], *R[0], *P[1]]),
        (4, [*P[1], *R[1], *P[2]]),
    ]
    batch = pack_rows([tree], len(tree))
    np.testing.assert_array_equal(batch.positions[0], [*range(10), *range(2, 6), *range(4, 8)])
    np.testing.assert_array_equal(batch.spans.trunk_hi[0], [0] * 10 + [2] * 4 + [4] * 4)


def test_a_turn_that_was_taken_back_is_a_branch():
    episode = Episode()
    episode.prompt(3)
    episode.turn(2)
    episode.take_back()
    episode.turn(2)
    episode.observe(2)
    episode.turn(1)
    (tree,) = policy_rows(trajectory(episode), 0.5, 100)
    dropped = episode.segments[1].tokens
    assert [(b.seen, b.sample.tokens.tolist()) for b in tree.branches] == [(2, [3, *dropped])]
    assert len(tree) == 3 + 2 + 2 + 1 + 3


def test_a_fresh_start_from_another_prompt_is_another_row():
    episode = keep_last(turns=4, last=1)
    first = len(episode.segments)
    episode.prompt(5)
    episode.turn(2)
    episode.observe(2)
    episode.turn(2)
    rows = policy_rows(trajectory(episode), 0.5, 1000)
    assert len(rows) == 2
    assert [len(row.branches) for row in rows] == [2, 0]
    assert rows[1].trunk.tokens[0] == episode.segments[first].tokens[0]


def test_a_plain_episode_is_the_sample_it_always_was(make):
    (row,) = policy_rows(make(), 0.75, 10)
    plain = policy_sample(make(), 0.75)
    for name in ("tokens", "trained", "advantages", "sampler_logprobs"):
        np.testing.assert_array_equal(getattr(row, name), getattr(plain, name))


@pytest.mark.parametrize(("last", "high"), [(2, 0), (2, 6)])
def test_rows_are_no_longer_than_they_may_be_and_no_more_than_must(last, high):
    """Of an episode of which one row would hold two thirds, and of rows that hold it all."""
    episode = keep_last(turns=40, last=last, high=high)
    whole = tree_rows(episode.segments, episode.turns, 10**9)
    assert len(whole) == 1
    tokens = row_length(episode.segments, whole[0])
    some = tree_rows(episode.segments, episode.turns, 2 * tokens // 3)
    lengths = [row_length(episode.segments, row) for row in some]
    assert len(some) == 2 and max(lengths) <= 2 * tokens // 3 and sum(lengths) > tokens
    trained = [i for row in some for part in row for i in part.trained]
    assert sorted(trained) == [turn.segment for turn in episode.turns]


def test_a_context_that_no_row_holds_is_named_by_the_packer():
    rows = policy_rows(trajectory(keep_last(turns=4, last=1)), 0.5, 8)
    assert all(isinstance(row, Tree) for row in rows)
    with pytest.raises(ValueError, match=r"sample \d has \d+ tokens, a row 8"):
        pack_rows(rows, 8)
