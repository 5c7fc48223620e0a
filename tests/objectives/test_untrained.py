"""What stands at a position that is not trained reaches no loss, no gradient and no figure."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from rows import DPO, GSPO, packed, preferences

from mirothinker_jax.config import GRPOConfig
from mirothinker_jax.objectives.grpo import make_grpo
from mirothinker_jax.objectives.sft import sft

CASES = {
    "sft": (sft, packed()),
    "dpo": (DPO, preferences()),
    "gspo": (GSPO, packed()),
    "clip": (make_grpo(GRPOConfig(loss="clip")), packed()),
    "tis": (make_grpo(GRPOConfig(sampler_correction="tis")), packed()),
    "icepop": (make_grpo(GRPOConfig(sampler_correction="icepop")), packed()),
    "k2": (make_grpo(GRPOConfig(kl_coef=0.1)), packed()),
    "k3-ratio": (make_grpo(GRPOConfig(loss="clip", kl_coef=0.1, kl="k3-ratio")), packed()),
}


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, -3e38], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_garbage_where_nothing_is_trained(name, garbage):
    objective, rows = CASES[name]

    def answer(fill):
        """The loss with its figures, and gradients by log-probs and entropies."""
        put = lambda x: np.where(rows.weights > 0, x, fill).astype(np.float32)  # noqa: E731
        fields = ("advantages", "sampler_logprobs", "ref_logprobs")
        batch = dataclasses.replace(rows, **{f: put(getattr(rows, f)) for f in fields})
        drawn = np.random.default_rng(0).uniform(0.5, 5, (2, *rows.shape))
        arguments = jnp.asarray(put(-drawn[0])), jnp.asarray(put(drawn[1]))

        def loss(logprobs, entropy):
            out = objective(logprobs, entropy, batch)
            return out.total, out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*arguments)

    expected = answer(0.0)
    assert np.any(expected[1][0]) and all(np.all(np.isfinite(x)) for x in jax.tree.leaves(expected))
    tiny.assert_equal(answer(garbage), expected)
