"""What is trained of an episode, token by token, before and after packing."""

import dataclasses

import numpy as np
import pytest
from stretches import PROMPT, segment

from mirothinker_jax.data.packing import pack_pairs, pack_rows
from mirothinker_jax.trajectory.types import Source, TurnContext
from mirothinker_jax.trajectory.views import columns, policy_sample, preference_pair


def test_an_episode_as_columns(make):
    tokens, trained, logprobs = columns(make().segments)
    np.testing.assert_array_equal(tokens, [1, 2, 3, 10, 11, 4, 5, 12])
    np.testing.assert_array_equal(trained, [0, 0, 0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(logprobs, np.asarray([0, 0, 0, -0.5, -0.25, 0, 0, -1.25], np.float32))
    assert (tokens.dtype, trained.dtype, logprobs.dtype) == (np.int32, bool, np.float32)


def test_an_episode_in_a_row_token_by_token(make):
    """Position t speaks of token t + 1, so everything about a token stands one to its left."""
    sample = policy_sample(make(), advantage=0.75)
    batch = pack_rows([sample], 10)
    table = {
        "tokens": [1, 2, 3, 10, 11, 4, 5, 12, 0, 0],
        "targets": [2, 3, 10, 11, 4, 5, 12, 0, 0, 0],
        "weights": [0, 0, 1, 1, 0, 0, 1, 0, 0, 0],
        "advantages": [0, 0, 0.75, 0.75, 0, 0, 0.75, 0, 0, 0],
        "sampler_logprobs": [0, 0, -0.5, -0.25, 0, 0, -1.25, 0, 0, 0],
        "positions": [0, 1, 2, 3, 4, 5, 6, 7, 0, 0],
        "sequence": [0] * 8 + [-1] * 2,
    }
    for name, expected in table.items():
        got = getattr(batch, name)
        np.testing.assert_array_equal(got, np.asarray([expected], got.dtype), err_msg=name)


def test_routes_stand_at_their_own_token(make):
    """Not one to the left; and −1 where a token was never fed to the model, or is padding."""
    routes = np.arange(7 * 2 * 3, dtype=np.int16).reshape(7, 2, 3)
    batch = pack_rows(
        [policy_sample(make(routes=routes), 1.0), policy_sample(make(), 1.0)], 16, routes=(2, 3)
    )
    assert batch.routes.shape == (1, 16, 2, 3) and batch.routes.dtype == np.int16
    np.testing.assert_array_equal(batch.routes[0, :7], routes)
    assert np.all(batch.routes[0, 7:] == -1)
    assert pack_rows([policy_sample(make(), 1.0)], 16).routes is None


def test_a_turn_cut_by_length_trains_no_end_of_turn(make):
    """Its last token is trained; the <|im_end|> (99) that the next observation begins with is not."""
    segments = (
        segment(Source.PROMPT, (1,)),
        segment(Source.POLICY, (10, 11), "", (-0.5, -0.25)),
        segment(Source.OBSERVATION, (99, 4), ""),
        segment(Source.POLICY, (12, 99), "", (-1.0, -2.0)),
    )
    batch = pack_rows([policy_sample(make(segments=segments), 1.0)], 8)
    trained_targets = batch.targets[batch.weights > 0]
    np.testing.assert_array_equal(trained_targets, [10, 11, 12, 99])


def test_a_pair_shares_its_prompt(make):
    chosen = make("c")
    rejected = make("r", segments=(chosen.segments[0], segment(Source.POLICY, (20,), "", (-3.0,))))
    batch = pack_pairs([preference_pair(chosen, rejected)], 12, 1)
    table = {
        #           prompt  chosen, from the prompt's last token   rejected
        "tokens": [1, 2, 3, 10, 11, 4, 5, 12, 3, 20, 0, 0],
        "targets": [2, 3, 10, 11, 4, 5, 12, 0, 20, 0, 0, 0],
        "weights": [0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 0],
        "positions": [0, 1, 2, 3, 4, 5, 6, 7, 2, 3, 0, 0],
        "sequence": [-1, -1, 0, 0, 0, 0, 0, 0, 1, 1, -1, -1],
    }
    for name, expected in table.items():
        got = getattr(batch, name)
        np.testing.assert_array_equal(got, np.asarray([expected], got.dtype), err_msg=name)


def test_a_pair_of_two_questions_is_refused(make):
    with pytest.raises(
        ValueError, match="episodes t0 and r are of questions q0 and q1; pair within a question"
    ):
        preference_pair(make(), make("r", question_id="q1"))


def test_a_pair_trains_the_conversation_as_it_stood_at_the_end(make):
    """Of the chosen one the first turn was taken back, so a plain pair is left."""
    segments = (PROMPT, *(segment(Source.POLICY, (token,), "", (-1.0,)) for token in (20, 21)))
    chosen = make("c", segments=segments, turns=(TurnContext(1, (0,)), TurnContext(2, (0,))))
    pair = preference_pair(chosen, make("r"))
    assert pair.chosen.tokens.tolist() == [21] and pair.chosen.trained.all()
    assert pair.rejected.tokens.tolist() == [10, 11, 4, 5, 12]


def test_a_pair_with_a_hidden_result_is_of_trees(make):
    """Each turn behind its own context; one pair, whose sequences share no prompt."""
    plain = make("r")
    segments = (
        *plain.segments,
        segment(Source.OBSERVATION, (6,)),
        segment(Source.PLACEHOLDER, (7,), hides=2),
        segment(Source.POLICY, (13,), "", (-1.0,)),
    )
    chosen = make("c", segments=segments, turns=(*plain.turns, TurnContext(6, (0, 1, 5, 3, 4))))
    batch = pack_pairs([preference_pair(chosen, plain)], 24, 1)
    table = {
        #           chosen: trunk, branch                           rejected
        "tokens": [1, 2, 3, 10, 11, 7, 12, 6, 13, 11, 4, 5, 12, 1, 2, 3, 10, 11, 4, 5, 12, 0, 0, 0],
        "weights": [0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0],
        "positions": [*range(9), 4, 5, 6, 7, *range(8), 0, 0, 0],
        "sequence": [0] * 13 + [1] * 8 + [-1] * 3,
        "denominator": [1] + [0] * 23,
    }
    for name, expected in table.items():
        got = getattr(batch, name)
        np.testing.assert_array_equal(got, np.asarray([expected], got.dtype), err_msg=name)


def test_the_number_of_tokens(make):
    assert make().tokens == 8
    assert dataclasses.replace(make(), segments=()).tokens == 0
