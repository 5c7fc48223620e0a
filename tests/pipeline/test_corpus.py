"""How many calls the experts of the SFT corpus may make."""

from dataclasses import dataclass

from mirothinker_jax.pipeline.corpus import call_budgets


@dataclass(frozen=True)
class Asked:
    hops: int


def test_most_experts_have_calls_to_spare_and_none_more_than_the_limit():
    questions = [Asked(hops) for hops in range(7)] * 300
    budgets = call_budgets(questions, most=6, seed=3)
    assert budgets == call_budgets(questions, most=6, seed=3) != call_budgets(questions, most=6, seed=4)
    assert max(budgets) == 6 and min(budgets) == 0
    enough = [calls >= q.hops + 2 for q, calls in zip(questions, budgets, strict=True)]
    deep = [q.hops > 4 for q in questions]
    assert not any(e and d for e, d in zip(enough, deep, strict=True)), "six calls are four hops"
    shallow = [e for e, d in zip(enough, deep, strict=True) if not d]
    assert 0.87 < sum(shallow) / len(shallow) < 0.93  # a tenth is cut short


def test_a_limit_of_no_calls():
    assert call_budgets([Asked(2)] * 5, most=0, seed=0) == [0] * 5
