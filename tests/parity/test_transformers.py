"""The same numbers as the transformers library, both directions: logits, gradients, greedy generation.

torch and transformers are no dependency: without them (`pip install -e '.[parity]'`) these tests are skipped.
"""

import asyncio
import dataclasses

import jax
import numpy as np
import pytest
import tiny

from mirothinker_jax import convert
from mirothinker_jax.agent.policy import Request, Sampling
from mirothinker_jax.config import RolloutConfig
from mirothinker_jax.data.packing import Sample, pack_rows
from mirothinker_jax.models.head import full_logits
from mirothinker_jax.models.hf import flatten, tensors
from mirothinker_jax.models.qwen import Qwen, merge
from mirothinker_jax.objectives.sft import sft
from mirothinker_jax.parallel.attend import make_attend
from mirothinker_jax.rollout.local.device import Device
from mirothinker_jax.rollout.local.driver import LocalEngine
from mirothinker_jax.trainer.step import make_gradient
from mirothinker_jax.types import Spans

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from converted import CASES, MOE, VOCAB, converted, loaded, random_model  # noqa: E402

LOGITS = 2e-5  # of the largest logit
GRADIENTS = 1e-4  # of the largest gradient of the same parameter
GENERATED = ("qwen2-untied", "qwen3-yarn", "moe-untied")  # by the fast tests


@pytest.fixture(scope="module", params=list(CASES))
def pair(request, tmp_path_factory):
    return converted(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def ids():
    """int32 [2, 80]: longer than the native context of the YaRN cases."""
    return np.random.default_rng(0).integers(0, VOCAB, (2, 80)).astype(np.int32)


def our_logits(spec, params, ids):
    zeros = np.zeros_like(ids)
    places = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)

    @jax.jit
    def run(params):
        module = merge(spec.graph, params)
        hidden, *_ = module(ids, places, make_attend(Spans(zeros, zeros, zeros)))
        return full_logits(hidden, module.head_weight)

    return np.asarray(run(params))


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


def test_logits_of_an_imported_model(pair, ids):
    ours, theirs = our_logits(pair.spec, pair.params, ids), their_logits(pair.theirs, ids)
    assert np.abs(ours - theirs).max() <= LOGITS * np.abs(theirs).max()


def test_logits_of_an_exported_model(pair, ids, tmp_path):
    """Through the file system both ways, and in several files."""
    exported = tmp_path / "exported"
    arguments = ["--to", "hf", "--path", str(pair.run), "--out", str(exported), "--shard-gib", "2e-5"]
    assert convert.main(arguments) == 0
    assert len(list(exported.glob("*.safetensors"))) > 1
    again = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    assert type(again) is type(pair.theirs)
    theirs = their_logits(again, ids)
    np.testing.assert_array_equal(theirs, their_logits(pair.theirs, ids))


def test_gradients_of_the_sft_loss(pair, ids):
    """Mean over the trained targets, of which half are not trained."""
    trained = np.random.default_rng(1).random(ids.shape) < 0.5
    trained[:, 0] = False
    batch = pack_rows([Sample(t, w) for t, w in zip(ids, trained, strict=True)], ids.shape[1])
    config = dataclasses.replace(pair.spec.config.moe, balance_coef=0.0)
    spec = dataclasses.replace(pair.spec, config=dataclasses.replace(pair.spec.config, moe=config))
    gradient = jax.jit(make_gradient(spec, sft))
    (mean, _), ours = gradient(pair.params, jax.tree.map(lambda x: x[None], batch), np.int32(1))

    inputs = torch.tensor(ids, dtype=torch.long)
    labels = torch.where(torch.tensor(trained), inputs, -100)
    pair.theirs.zero_grad()
    loss = pair.theirs(inputs, labels=labels).loss
    loss.backward()
    assert float(mean) == pytest.approx(loss.item(), rel=1e-5)

    theirs = {name: p.grad.numpy() for name, p in pair.theirs.named_parameters()}
    ours = {path: np.asarray(value) for path, value in flatten(ours)}
    for tensor in tensors(pair.spec.config, pair.spec.vocab_size):
        expected = tensor.ours(_one(theirs, tensor.name))
        worst = np.abs(ours[tensor.path][tensor.index] - expected).max()
        assert worst <= GRADIENTS * np.abs(expected).max() + 1e-9, tensor.name


def _one(theirs: dict, name: str) -> np.ndarray:
    """A tensor by its name in files; transformers holds the experts of a layer in one, gate and up together."""
    if ".experts." not in name:
        return theirs[name]
    layer, expert, which = (
        name.replace(".weight", "").split(".experts.")[0],
        *name.split(".experts.")[1].split(".")[:2],
    )
    if which == "down_proj":
        return theirs[f"{layer}.experts.down_proj"][int(expert)]
    gate, up = np.split(theirs[f"{layer}.experts.gate_up_proj"][int(expert)], 2)
    return gate if which == "gate_proj" else up


@pytest.mark.parametrize(
    "pair",
    [pytest.param(name, marks=() if name in GENERATED else pytest.mark.slow) for name in CASES],
    indirect=True,
)
def test_greedy_generation(pair, ids):
    """64 tokens, with our cache and theirs."""
    prompt = ids[0, :7]
    with torch.no_grad():
        whole = pair.theirs.generate(
            torch.tensor(prompt[None], dtype=torch.long),
            max_new_tokens=64,
            min_new_tokens=64,
            do_sample=False,
            pad_token_id=0,
        )
    expected = whole[0, len(prompt) :].tolist()
    config = RolloutConfig(slots=1, prefill_slots=1, prefill_tokens=8, page_tokens=16)
    device = Device(pair.spec, config, 80, end_ids=())
    device.load(pair.params)

    async def ours():
        async with LocalEngine(device) as engine:
            greedy = Sampling(temperature=0.0)
            return await engine.generate(Request("a", prompt.tolist(), 64, sampling=greedy))

    found = list(asyncio.run(ours()).tokens)
    assert found == expected


def test_the_load_balance_loss_is_theirs_for_one_layer(tmp_path):
    """Theirs mixes layers before it multiplies, so with one layer the two definitions meet."""
    options = dict(**MOE, tie_word_embeddings=True, num_hidden_layers=1, router_aux_loss_coef=1.0)
    model = random_model("qwen3_moe", options, tmp_path / "hf")
    assert convert.main(["--from", "hf", "--path", str(tmp_path / "hf"), "--out", str(tmp_path / "run")]) == 0
    spec, params = loaded(tmp_path / "run")
    tokens = np.random.default_rng(0).integers(0, VOCAB, (2, 24)).astype(np.int32)
    batch = pack_rows([Sample(t, np.arange(24) > 0) for t in tokens], 24)
    out = jax.jit(make_gradient(spec, sft))(params, jax.tree.map(lambda x: x[None], batch), np.int32(1))
    value, weight = out[0][1]["router/balance"]
    with torch.no_grad():
        theirs = model(torch.tensor(tokens, dtype=torch.long), output_router_logits=True).aux_loss
    assert float(value / weight) == pytest.approx(theirs.item(), rel=1e-5)


def test_the_import_is_the_identity_on_our_own_parameters(tmp_path):
    """Ours → Hugging Face's tensors → ours, for every shape of model; no library in between."""
    for config in (tiny.QWEN2, tiny.QWEN3):
        abstract = Qwen.structure(config, tiny.VOCAB)[1]
        rng = np.random.default_rng(0)
        ours = {path: rng.normal(size=leaf.shape) for path, leaf in flatten(abstract)}
        listed = tensors(config, tiny.VOCAB)
        assert {t.path for t in listed} == set(ours)
        for tensor in listed:
            part = ours[tensor.path][tensor.index]
            assert tensor.theirs(part).shape == tensor.shape
            np.testing.assert_array_equal(tensor.ours(tensor.theirs(part)), part)
