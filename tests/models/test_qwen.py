"""The decoder: structure, two families, scan against unrolled layers with a cache, rematerialisation."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.extend.core import jaxprs_in_params

from mirothinker_jax.config import REMAT, ModelConfig
from mirothinker_jax.models.head import full_logits
from mirothinker_jax.models.qwen import STACKED, Params, Qwen, count_parameters, merge
from mirothinker_jax.parallel.attend import make_attend
from mirothinker_jax.parallel.paged import PagedKernels
from mirothinker_jax.parallel.sharding import TABLE
from mirothinker_jax.types import Spans

FAMILIES = {"qwen3": tiny.QWEN3, "qwen2.5": tiny.QWEN2}
LENGTH, PREFILLED = 13, 9


class Family(NamedTuple):
    config: ModelConfig
    graph: Any
    params: Params
    logits: Callable  # jitted (parameters, tokens [2, LENGTH]) → logits of rows that are one sample each


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def family(request):
    config = FAMILIES[request.param]
    graph, _, _ = Qwen.structure(config, tiny.VOCAB)
    return Family(config, graph, tiny.params(config), logits_of_whole(graph))


def tokens(rows=2, seed=1):
    return np.random.default_rng(seed).integers(0, tiny.VOCAB, (rows, LENGTH)).astype(np.int32)


def causal(rows=2):
    """Spans and positions of rows that are one sample each."""
    zeros = np.zeros((rows, LENGTH), np.int32)
    return Spans(zeros, zeros, zeros), np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (rows, LENGTH))


def logits_of_whole(graph):
    spans, positions = causal()

    @jax.jit
    def run(params, tokens):
        module = merge(graph, params)
        hidden, cache, _ = module(tokens, positions, make_attend(spans))
        assert cache is None
        return full_logits(hidden, module.head_weight)

    return run


def test_paged_prefill_in_chunks_and_decode_give_the_logits_of_the_whole(family):
    """Two rows over pages in any order; chunks of 4, then single tokens. This path unrolls the layers and the whole row
    scans over them, so this compares those too."""
    config, graph, params, whole = family
    ids, page = tokens(), 4
    paged = PagedKernels(tiny.mesh())
    table = np.asarray([[6, 2, 7, 0], [1, 5, 3, 8]], np.int32)
    empty = paged.empty(10, page, config.kv_heads, config.head_dim, jnp.float32)
    garbage = jax.tree.map(lambda x: x + 1e3, empty)  # of an earlier context: must not be seen
    cache = [garbage] * config.layers
    apart = [jax.tree.map(lambda p, i=i: p[i], params[STACKED]) for i in range(config.layers)]

    @jax.jit
    def feed(params, apart, cache, chunk, places):
        module = merge(graph, params | {STACKED: apart[0]})
        hidden, cache, _ = module(chunk, places, paged.attend(table, places), cache, unstacked=apart)
        return full_logits(hidden, module.head_weight), cache

    got, start = [], 0
    while start < LENGTH:
        width = 4 if start < PREFILLED - 1 else 1
        places = np.broadcast_to(np.arange(start, start + width, dtype=np.int32), (2, width))
        logits, cache = feed(params, apart, cache, ids[:, start : start + width], places)
        got.append(logits)
        start += width
    assert [g.shape[1] for g in got] == [4, 4] + [1] * (LENGTH - 8)
    tiny.assert_close(jnp.concatenate(got, 1), whole(params, ids), 1e-5)
    for pages in cache[0]:
        assert np.all(np.asarray(pages)[[4, 9]] == 1e3), "a page that is nobody's was written"


def test_a_later_token_changes_no_earlier_logits(family):
    ids = tokens()
    changed = ids.copy()
    changed[:, 8] = (changed[:, 8] + 1) % tiny.VOCAB
    before, after = family.logits(family.params, ids), family.logits(family.params, changed)
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert np.abs(np.asarray(before[:, 8:] - after[:, 8:])).max() > 1e-3


def test_families_have_their_own_parameters():
    qwen3, qwen2 = (Qwen.structure(c, tiny.VOCAB)[1] for c in (tiny.QWEN3, tiny.QWEN2))
    attention3, attention2 = qwen3["blocks"]["attention"], qwen2["blocks"]["attention"]
    assert {"q_norm", "k_norm"} <= attention3.keys() and not {"q_norm", "k_norm"} & attention2.keys()
    assert "head" not in qwen3 and qwen2["head"].shape == (tiny.VOCAB, 32)
    assert "bias" not in attention3["q"]
    assert {name: p["bias"].shape for name, p in attention2.items() if "bias" in p} == {
        "q": (2, 4, 8),
        "k": (2, 2, 8),
        "v": (2, 2, 8),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_structure_fits_the_sharding_table_and_the_arrays(name, dtype):
    config = dataclasses.replace(FAMILIES[name], param_dtype=dtype)
    _, abstract, axes = Qwen.structure(config, tiny.VOCAB)
    shapes = jax.eval_shape(lambda: Qwen.init(config, tiny.VOCAB, jax.random.key(0)))

    def check(shape, real, names):
        assert (shape.shape, shape.dtype) == (real.shape, real.dtype) and real.dtype == dtype
        assert len(names) == len(shape.shape), (names, shape.shape)
        assert {n for n in names if n is not None} <= TABLE.keys()
        mesh_axes = [TABLE[n] for n in names if n is not None and TABLE[n] is not None]
        assert len(set(mesh_axes)) == len(mesh_axes), f"{names} would split two dims over one mesh axis"

    jax.tree.map(check, abstract, shapes, axes)


def test_every_matrix_is_split_over_fsdp_or_small():
    """What is not split over fsdp is copied to every device: only norms over a head's dims may be."""
    _, abstract, axes = Qwen.structure(tiny.QWEN2, tiny.VOCAB)
    leaves = zip(
        jax.tree.leaves(abstract),
        jax.tree.leaves(axes, is_leaf=lambda a: isinstance(a, tuple)),
        strict=True,
    )
    assert all("embed" in names or shape.ndim <= 3 for shape, names in leaves)


def test_number_of_parameters_of_a_published_model():
    """Qwen3-0.6B's config.json gives 596,049,920 parameters, the tied head counted once."""
    config = ModelConfig(hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, ffn=3072)
    assert count_parameters(Qwen.structure(config, 151_936)[1]) == 596_049_920


def test_initial_loss_is_that_of_guessing():
    """A fresh model says nothing: its log-probs are −log V to within a few hundredths."""
    graph, _, _ = Qwen.structure(tiny.QWEN3, tiny.VOCAB)
    params = Qwen.init(tiny.QWEN3, tiny.VOCAB, jax.random.key(1))
    logprobs = jax.nn.log_softmax(logits_of_whole(graph)(params, tokens()))
    assert abs(float(logprobs.mean()) + np.log(tiny.VOCAB)) < 0.05


def test_remat_policies_give_the_same_loss_and_gradients():
    params = tiny.params(tiny.QWEN3)
    spans, positions = causal()
    ids = tokens()

    def gradients(remat):
        graph, _, _ = Qwen.structure(dataclasses.replace(tiny.QWEN3, remat=remat), tiny.VOCAB)

        @jax.jit
        def run(params):
            def loss(params):
                module = merge(graph, params)
                hidden, *_ = module(ids, positions, make_attend(spans))
                return jnp.square(full_logits(hidden, module.head_weight)).mean()

            return jax.value_and_grad(loss)(params)

        return run(params)

    plain = gradients("none")
    assert all(np.any(g) for g in jax.tree.leaves(plain[1])), "some parameter has no gradient"
    for remat in REMAT[1:]:
        tiny.assert_close(gradients(remat), plain, 2e-6)


def test_what_waits_for_the_backward_pass_waits_in_the_hosts_memory():
    """Of each token a layer keeps its input, what attention gives and the log-sum-exps: where the policy says."""
    spans, positions = causal()
    ids = tokens()
    kept = {}
    for remat in ("attention", "offload", "offload-all"):
        graph, _, _ = Qwen.structure(dataclasses.replace(tiny.QWEN3, remat=remat), tiny.VOCAB)

        def loss(params, graph=graph):
            return jnp.square(merge(graph, params)(ids, positions, make_attend(spans))[0]).mean()

        program = jax.make_jaxpr(jax.grad(loss))(tiny.params(tiny.QWEN3))
        forward = next(e for e in program.eqns if e.primitive.name == "scan" and not e.params["reverse"])
        stream = (*ids.shape, tiny.QWEN3.hidden)
        stacked = [v.aval for v in forward.outvars if v.aval.ndim > 2 and v.aval.shape != stream]
        of_tokens = [a for a in stacked if a.size >= tiny.QWEN3.layers * ids.size]
        kept[remat] = collections.Counter(str(a.memory_space) for a in of_tokens)
    device, host = str(jax.memory.Space.Device), str(jax.memory.Space.Host)
    assert kept == {"attention": {device: 3}, "offload": {device: 1, host: 2}, "offload-all": {host: 3}}


def test_chunks_of_the_feed_forward_block_keep_nothing_wide_and_add_up_in_float32():
    """Backward a loop over chunks carries the sums of the weights' gradients, and was left only the chunks' inputs."""
    config = dataclasses.replace(tiny.QWEN3, ffn_tokens=7, compute_dtype="bfloat16")
    params = tiny.params(config)
    spans, positions = causal()
    ids = tokens()
    graph, _, _ = Qwen.structure(config, tiny.VOCAB)

    def loss(params):
        return jnp.square(merge(graph, params)(ids, positions, make_attend(spans))[0]).mean()

    def loops(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                yield equation
            for inner in jaxprs_in_params(equation.params):
                yield from loops(inner)

    found = [
        e
        for e in loops(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
        if e.params["length"] == -(-ids.size // 7)
    ]
    assert len(found) == 2, "forward and backward"
    assert not [v for e in found for v in e.outvars if v.aval.ndim > 2 and v.aval.shape[-1] == config.ffn]
    backward = [v.aval for e in found if e.params["reverse"] for v in e.outvars]
    wide = [a for a in backward if config.ffn in a.shape]
    assert len(wide) == 3 and {a.dtype for a in wide} == {jnp.dtype("float32")}


def test_bfloat16_compute_stays_near_float32():
    config = dataclasses.replace(tiny.QWEN3, compute_dtype="bfloat16")
    params = tiny.params(tiny.QWEN3)
    graph, _, _ = Qwen.structure(config, tiny.VOCAB)
    spans, positions = causal()
    hidden, *_ = jax.jit(lambda p: merge(graph, p)(tokens(), positions, make_attend(spans)))(params)
    assert hidden.dtype == jnp.bfloat16
    wide, _, _ = Qwen.structure(tiny.QWEN3, tiny.VOCAB)
    expected, *_ = jax.jit(lambda p: merge(wide, p)(tokens(), positions, make_attend(spans)))(params)
    tiny.assert_close(hidden.astype(jnp.float32), expected, 0.03)
