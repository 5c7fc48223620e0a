"""What the engine was asked with is what training sees, from the agent's loop to packed rows."""

import numpy as np
import pytest
from scripted import ANSWER, Script, Tools, found, search

from mirothinker_jax.agent.context import ContextPolicy
from mirothinker_jax.data.packing import Tree, pack_rows
from mirothinker_jax.trajectory.views import policy_rows

SEARCHES = [search(q) for q in "abcde"]
EPISODES = {
    "plain": ([*SEARCHES, ANSWER], {}),
    "the last result kept": ([*SEARCHES, ANSWER], dict(context=ContextPolicy(1))),
    "cut to 1 at 3": ([*SEARCHES, ANSWER], dict(context=ContextPolicy(1, 3))),
    "rollback": ([search("a"), search("a"), search("a"), search("b"), ANSWER], dict(rollbacks=4)),
    "restart": (
        [*SEARCHES[:2], "no idea", "it failed", search("c"), ANSWER],
        dict(restarts=1, restart_with="summary"),
    ),
    "all of it": (
        [*SEARCHES[:3], search("a"), "no idea", "it failed", *SEARCHES[:3], search("b"), ANSWER],
        dict(restarts=1, restart_with="summary", context=ContextPolicy(1), rollbacks=4),
    ),
}


@pytest.mark.parametrize("row_tokens", [2_000, 20_000])
@pytest.mark.parametrize("name", EPISODES)
def test_each_token_is_trained_once_behind_what_the_engine_was_asked_with(play, name, row_tokens):
    lines, settings = EPISODES[name]
    trajectory, engine, _ = play(Script(lines), Tools(found), **settings)
    assert not engine.lines and trajectory.answer == "x"
    rows = policy_rows(trajectory, 0.5, row_tokens)
    assert isinstance(rows[0], Tree) == (not trajectory.linear) == (name != "plain")
    batch = pack_rows(rows, row_tokens)
    expected = {}  # by log-prob, of which there is one for each token
    for request, said in zip(engine.requests, engine.said, strict=True):
        for i, token in enumerate(said):
            expected[-float(len(expected))] = (token, [*request.ids, *said[:i]])
    seen = []
    for row, t in np.argwhere(batch.weights > 0):
        low, high, own = (int(span[row, t]) for span in batch.spans)
        visible = [*range(low, high), *range(own, t + 1)]
        logprob = float(batch.sampler_logprobs[row, t])
        seen.append(logprob)
        assert expected[logprob] == (batch.targets[row, t], batch.tokens[row, visible].tolist())
        assert batch.positions[row, visible].tolist() == list(range(len(visible)))
    assert sorted(seen) == sorted(expected)
