"""GRPO's batches: what is sampled in which step, what is recorded, and what is left out of training."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mirothinker_jax.config import GRPOConfig, TrainingConfig
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.rollout.source import GRPOSource, describe
from mirothinker_jax.tasks.types import Task
from mirothinker_jax.trajectory import journal
from mirothinker_jax.trajectory.types import Segment, Source, Stop, Trajectory, TurnContext

TASKS = [Task(f"q{i}", f"question {i}", str(i)) for i in range(5)]
GROUP, QUESTIONS = 4, 2
CONFIG = GRPOConfig(group=GROUP, questions=QUESTIONS, training=TrainingConfig(sequence_length=24))


class FakeCollector:
    """Answers by `outcome(task number, member) → (answer, stop)`, in tokens that tell both. With `routes` also those of
    a router with 3 layers and 2 choices, for the five tokens that are fed."""

    def __init__(
        self,
        outcome=lambda number, member: (str(number) if member % 2 else "wrong", Stop.ANSWERED),
        routes=False,
    ):
        self.outcome, self.routes, self.runs = outcome, routes, []

    def run(self, params, specs, path, *, mine, wanted):
        history, figures = journal.History(path), {}
        own = [specs[place] for place in mine]
        if not all(history.finished(spec.id) for spec in own):
            self.runs.append((params(), own))
            journal.write(path, [self.episode(spec, number) for number, spec in enumerate(own)])
            figures = {"rollout/seconds": 1.0}
        return [journal.History(path).require(specs[place].id) for place in wanted], figures

    def episode(self, spec, order=0):
        number, member = int(spec.task.id[1:]), int(spec.id.rpartition("-")[2])
        answer, stop = self.outcome(number, member)
        logprob = -float(np.float32(0.1) * (1 + member))
        segments = (
            Segment(Source.PROMPT, (1, 2, 10 + number), (("user", spec.task.question),)), Segment(Source.POLICY, (20 +
            member, 30, 31), (("assistant", f"answer {answer}"),), (logprob, logprob, -0.5)),
        )  # fmt: skip
        return Trajectory(
            id=spec.id, question_id=spec.task.id, question=spec.task.question, expected=spec.task.answer,
            answer=answer, stop=stop, calls=0, failed_calls=0, malformed_calls=0, segments=segments,
            turns=(TurnContext(1, (0,)),), correct=None if stop is Stop.INFRASTRUCTURE else answer == spec.task.answer,
            routes=np.full((5, 3, 2), order, np.int16) if self.routes else None,
        )  # fmt: skip


def make(folder, collector=None, seed=0, **fields):
    given = dict(config=CONFIG, folder=folder, seed=seed, microbatch_size=2)
    collector = collector or FakeCollector(routes="routes" in fields)
    return GRPOSource(tasks=TASKS, collector=collector, **(given | fields))


def test_a_step_samples_groups_of_different_questions(tmp_path):
    collector = FakeCollector()
    make(tmp_path, collector).next(3, params := object())
    ((used, episodes),) = collector.runs
    assert used is params
    assert set(Counter(e.task.id for e in episodes).values()) == {GROUP}
    assert len(episodes) == QUESTIONS * GROUP and {e.version for e in episodes} == {3}
    assert len({e.id for e in episodes}) == len({e.seed for e in episodes}) == len(episodes)
    groups = [episodes[i : i + GROUP] for i in range(0, len(episodes), GROUP)]
    assert all(len({e.task.id for e in group}) == 1 for group in groups)


def asked(folder, steps, **fields):
    collector = FakeCollector()
    source = make(folder, collector, **fields)
    for step in steps:
        source.next(step, None)
    return [e.task.id for _, episodes in collector.runs for e in episodes[::GROUP]]


def test_questions_are_walked_through_in_shuffled_epochs(tmp_path):
    walk = asked(tmp_path / "a", range(5))
    assert len(walk) == 10
    assert sorted(walk[:5]) == sorted(walk[5:]) == [t.id for t in TASKS]
    assert walk[:5] != walk[5:]
    assert asked(tmp_path / "b", range(5), seed=1) != walk
    assert asked(tmp_path / "c", [4, 1]) == walk[8:10] + walk[2:4], (
        "a step's questions depend on the step alone"
    )


def test_processes_share_the_questions_of_a_step(tmp_path):
    whole = asked(tmp_path / "whole", range(3))
    halves = [asked(tmp_path / f"half {i}", range(3), shard=(i, 2), block=(i, 2)) for i in (0, 1)]
    assert [q for pair in zip(*halves, strict=True) for q in pair] == whole


def test_the_batch_of_a_step(tmp_path):
    """Members 1 and 3 of each group are right: advantages ±½, on the policy's three tokens."""
    source = make(tmp_path)
    batch, figures = source.next(0, None)
    assert batch.shape[0] % 2 == 0 and batch.weights.sum() == QUESTIONS * GROUP * 3
    trained = batch.weights > 0
    first = (batch.targets >= 20) & (batch.targets < 24) & trained
    member = batch.targets[first] - 20
    np.testing.assert_array_equal(batch.advantages[first], np.where(member % 2, 0.5, -0.5).astype(np.float32))
    expected = (-np.float32(0.1) * (1 + member)).astype(np.float32)
    np.testing.assert_array_equal(batch.sampler_logprobs[first], expected)
    assert np.all(batch.sampler_logprobs[(batch.targets == 31) & trained] == -0.5)
    assert not batch.advantages[~trained].any()
    assert figures["reward"] == figures["accuracy"] == 0.5 and figures["equal_groups"] == 0
    assert figures["stop/answered"] == 1 and figures["rollout/seconds"] == 1.0


def test_a_recorded_step_is_not_sampled_again(tmp_path):
    batch, _ = make(tmp_path).next(2, None)
    collector = FakeCollector()
    again, figures = make(tmp_path, collector).next(2, None)
    assert collector.runs == [] and "rollout/seconds" not in figures
    tiny.assert_equal(again, batch)
    recorded = journal.read(tmp_path / "step_000002.jsonl")
    assert [t.correct for t in recorded] == [False, True] * 4


def test_routes_are_recorded_and_given_to_training(tmp_path):
    """Also where the step is read from its record; and a step without rows has the same kind of batch."""
    batch, _ = make(tmp_path, routes=(3, 2)).next(2, None)
    first = np.argwhere((batch.targets >= 20) & (batch.targets < 24))
    assert len(first) == QUESTIONS * GROUP
    seen = set()
    for row, place in first:  # the third token of its episode
        own = batch.routes[row, place - 2 : place + 3]
        seen.add(int(own[0, 0, 0]))
        assert np.all(own == own[0, 0, 0])
        assert np.all(batch.routes[row, place + 3] == -1)
    assert seen == set(range(QUESTIONS * GROUP))
    tiny.assert_equal(make(tmp_path, routes=(3, 2)).next(2, None)[0], batch)
    silent = FakeCollector(lambda *_: ("wrong", Stop.ANSWERED), routes=True)
    assert make(tmp_path / "b", silent, routes=(3, 2)).next(0, None)[0].routes.shape == (0, 24, 3, 2)


def test_equal_groups_and_broken_episodes_are_left_out(tmp_path):
    def outcome(number, member):
        if member == 0:
            return None, Stop.INFRASTRUCTURE
        return (str(number) if number % 2 == 0 or member == 1 else "wrong"), Stop.ANSWERED

    batch, figures = make(tmp_path, FakeCollector(outcome)).next(1, None)
    questions = {t.question_id for t in journal.read(tmp_path / "step_000001.jsonl")}
    odd = sum(int(q[1:]) % 2 for q in questions)
    assert figures["equal_groups"] == 1 - odd / QUESTIONS and figures["stop/infrastructure"] == 0.25
    assert batch.weights.sum() == odd * 3 * 3
    # The equal group's nine tokens are not computed, and count; the broken episodes' do neither.
    assert batch.denominator.sum() == QUESTIONS * 3 * 3
    first = (batch.targets >= 20) & (batch.targets < 24) & (batch.weights > 0)
    assert odd == 1 and set(batch.targets[first]) == {21, 22, 23}
    # One of three right: 1 − ⅓ and 0 − ⅓; the broken fourth moves no mean.
    assert sorted(set(batch.advantages[first].tolist())) == pytest.approx([-1 / 3, 2 / 3])


@pytest.mark.parametrize("stop", [Stop.ANSWERED, Stop.INFRASTRUCTURE])
def test_a_step_without_any_signal_is_a_batch_without_rows(tmp_path, stop):
    batch, figures = make(tmp_path, FakeCollector(lambda *_: ("wrong", stop))).next(0, None)
    assert batch.shape == (0, 24) and figures["equal_groups"] == 1


@pytest.mark.parametrize("how", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean"])
def test_a_small_kl_term_does_not_rescale_the_policy_gradient(tmp_path, how):
    """One group of two earned equal rewards: its tokens are computed for the KL term alone, and count either way."""
    outcome = lambda number, member: (str(number) if number % 2 and member else "wrong", Stop.ANSWERED)  # noqa: E731

    def slopes(coef, reference):
        """Of the policy's tokens in the other group, over the denominator; and how many tokens are computed."""
        config = dataclasses.replace(CONFIG, aggregate=how, kl_coef=coef)
        source = make(tmp_path, FakeCollector(outcome), reference=reference, config=config)
        batch, figures = source.next(1, None)
        assert figures["equal_groups"] == 0.5
        gradient = jax.grad(lambda x: make_grpo(config)(x, x, batch).total)(
            jnp.asarray(batch.sampler_logprobs)
        )
        divided = np.asarray(gradient) / (batch.denominator.sum() or 1.0)
        return np.sort(divided[batch.advantages != 0]), np.count_nonzero(batch.weights)

    without, computed = slopes(0.0, None)
    with_term, all_computed = slopes(1e-9, lambda batch: batch)
    assert (computed, all_computed) == (GROUP * 3, 2 * GROUP * 3)
    np.testing.assert_allclose(without, with_term, rtol=1e-6)


def test_with_a_reference_equal_groups_are_kept_for_the_kl_term(tmp_path):
    seen = []

    def reference(batch):
        seen.append(batch.shape)
        return dataclasses.replace(batch, ref_logprobs=batch.weights * -2)

    source = make(tmp_path, FakeCollector(lambda *_: ("wrong", Stop.ANSWERED)), reference=reference)
    batch, _ = source.next(0, None)
    assert batch.weights.sum() == QUESTIONS * GROUP * 3 and not batch.advantages.any()
    np.testing.assert_array_equal(batch.ref_logprobs, batch.weights * -2)
    assert seen == [batch.shape]


def test_its_state_is_its_seed(tmp_path):
    source = make(tmp_path, seed=3)
    source.set_state(source.get_state())
    with pytest.raises(ValueError, match="began with seed 4, not 3"):
        source.set_state({"seed": 4})


def test_figures_of_a_set_of_episodes():
    collector = FakeCollector()
    task = TASKS[0]

    class Spec:
        def __init__(self, member):
            self.id, self.task = f"x-{member}", task

    episodes = [dataclasses.replace(collector.episode(Spec(i)), calls=i, reward=i / 2) for i in range(3)]
    episodes[0] = dataclasses.replace(episodes[0], malformed_calls=1, failed_calls=3)
    figures = describe(episodes)
    assert figures["reward"] == 0.5 and figures["calls"] == 1 and figures["failed_calls"] == 1
    assert figures["format_violations"] == pytest.approx(1 / 3) and figures["episode_tokens"] == 6
    assert sum(v for k, v in figures.items() if k.startswith("stop/")) == 1
