"""Preference pairs as a batch source: epochs, positions, processes."""

import dataclasses

import numpy as np
import pytest
import tiny

from mirothinker_jax.config import ConfigError
from mirothinker_jax.data.preference import PreferenceSource

LENGTH = 20
PAIRS = tiny.pairs(0, [(3, 4, 5)] * 6)  # one to a row: each takes 13 tokens


def filled(batch):
    return dataclasses.replace(batch, ref_logprobs=batch.weights * -1.5)


def source(pairs=PAIRS, **fields):
    given = dict(sequence_length=LENGTH, pairs_per_row=4, rows=4, seed=0)
    return PreferenceSource(pairs, filled, **(given | fields))


def firsts(batch):
    """Which pair is in each row, told by its first token."""
    known = [int(p.prompt[0]) * 64 + int(p.prompt[1]) for p in PAIRS]
    assert len(set(known)) == len(PAIRS)
    return [known.index(int(row[0]) * 64 + int(row[1])) for row in batch.tokens]


def test_every_pair_comes_once_an_epoch_in_a_new_order():
    made = source()
    batches = [made.next(step, None)[0] for step in range(6)]
    assert all(b.shape == (4, LENGTH) for b in batches)
    order = [i for b in batches for i in firsts(b)]
    epochs = [order[i : i + 6] for i in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert np.all(batches[0].ref_logprobs == batches[0].weights * -1.5) and batches[0].weights.any()
    assert [round(source().next(0, None)[1]["epoch"], 3), made.pairs] == [0.667, 6]


def test_it_goes_on_where_it_was():
    made = source()
    made.next(0, None)
    state = made.get_state()
    expected = made.next(1, None)[0]
    again = source()
    again.set_state(state)
    tiny.assert_equal(again.next(1, None)[0], expected)
    chosen = PAIRS[0].chosen
    untrained = dataclasses.replace(chosen, trained=np.zeros_like(chosen.trained))
    for other in (PAIRS[::-1], [dataclasses.replace(PAIRS[0], chosen=untrained), *PAIRS[1:]]):
        with pytest.raises(
            ConfigError, match=r"preference pairs have changed .* put dpo/samples\.jsonl back"
        ):
            source(other).set_state(state)


def test_processes_take_their_block_of_each_batch():
    whole, halves = source(), [source(shard=(i, 2)) for i in (0, 1)]
    for step in range(3):
        expected = firsts(whole.next(step, None)[0])
        parts = [firsts(half.next(step, None)[0]) for half in halves]
        assert parts[0] + parts[1] == expected


def test_without_pairs_it_says_why():
    with pytest.raises(ConfigError, match=r"^no preference pairs: .*raise dpo\.questions or dpo\.samples$"):
        PreferenceSource([], filled, sequence_length=LENGTH, pairs_per_row=4, rows=4, seed=0)


def test_pairs_that_fit_no_row_are_left_out_and_it_says_so(caplog):
    """Where none is left, there is nothing to train on."""
    longer = [*PAIRS, *tiny.pairs(1, [(3, 9, 9)])]
    made = source(longer)
    assert made.pairs == 6
    (record,) = caplog.records
    assert record.getMessage() == (
        "1 of 7 preference pairs are longer than dpo.training.sequence_length (20); the longest has 22 tokens: left out"
    )
    with pytest.raises(ConfigError, match=r"^6 of 6 preference pairs .*the longest has 13 tokens: raise it$"):
        source(sequence_length=12)
