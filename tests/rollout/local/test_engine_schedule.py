"""The schedule, step by step, against a plain account of pages."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirothinker_jax.rollout.local.schedule import Limits, Plan, View, bucket, buckets, plan

LIMITS = Limits(block=4, blocks=3, page=8)
FED = View(feed=0, room=0, own=2, ahead=4)
NEW = View(feed=10, room=0, own=0, ahead=0)

TABLE = {
    "nobody": ([], 5, Plan((), (), ())),
    "one is fed while another is sampled": ([FED, NEW], 9, Plan(((1, 10),), (0,), ())),
    "blocks are for all together, oldest first": (
        [dataclasses.replace(NEW, feed=9), NEW],
        9,
        Plan(((0, 9),), (), ()),
    ),
    "what is left of the blocks": (
        [dataclasses.replace(NEW, feed=5), NEW],
        9,
        Plan(((0, 5), (1, 4)), (), ()),
    ),
    "one that will have ended is not sampled": ([dataclasses.replace(FED, ahead=0)], 9, Plan((), (), ())),
    "room in the page": ([dataclasses.replace(FED, room=4)], 0, Plan((), (0,), ())),
    "the youngest gives way": ([FED, FED, FED], 1, Plan((), (0, 1), (2,))),
    "not to a younger one": ([FED, FED], 0, Plan((), (0,), (1,))),
    "the youngest waits": ([dataclasses.replace(FED, room=9), FED], 0, Plan((), (0,), ())),
    "whole blocks, as far as pages go": ([dataclasses.replace(NEW, room=1)], 1, Plan(((0, 8),), (), ())),
}


@pytest.mark.parametrize("name", TABLE)
def test_plans(name):
    views, free, expected = TABLE[name]
    assert plan(views, free, LIMITS) == expected


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 24)), min_size=1, max_size=6),
    st.integers(8, 30),
)
def test_everybody_ends_and_pages_are_never_overdrawn(work, count):
    """Contexts and answers of up to 64 tokens on 8 pages or more, all at once."""
    left = [dict(context=c, answer=a, length=0, pages=0) for c, a in work]
    for _ in range(2000):
        if not left:
            return
        views = []
        for s in left:
            feed = max(0, s["context"] - s["length"])
            ahead = 0 if feed else min(3, s["context"] + s["answer"] - s["length"])
            views.append(View(feed, 8 * s["pages"] - s["length"], s["pages"], ahead))
        step = plan(views, count - sum(s["pages"] for s in left), LIMITS)
        for index in step.preempt:
            left[index] |= {"length": 0, "pages": 0}
        tokens = dict(step.feed) | {i: views[i].ahead for i in step.sample}
        assert tokens, "somebody gets on in every step"
        assert not tokens.keys() & set(step.preempt)
        assert sum(-(-n // LIMITS.block) for _, n in step.feed) <= LIMITS.blocks
        for index, n in tokens.items():
            left[index]["length"] += n
            left[index]["pages"] = max(left[index]["pages"], -(-left[index]["length"] // LIMITS.page))
        assert sum(s["pages"] for s in left) <= count
        left = [s for s in left if s["length"] < s["context"] + s["answer"]]
    raise AssertionError(f"{len(left)} never ended")


def test_buckets():
    assert buckets(32, (2, 4, 8)) == (4, 8, 16, 32) and buckets(3, (2, 4)) == (1, 2, 3)
    assert [bucket(n, (4, 8)) for n in (1, 4, 5)] == [4, 4, 8]
