"""Presets against what is published, under its own names.

A source is a model's config.json on the Hugging Face hub; of each, the fields that say what is computed. The totals of
parameters are exact, and those of the model cards in billions, but for two cards that do not round.
"""

import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from mirothinker_jax.config import Config, ConfigError, ModelConfig
from mirothinker_jax.config_tree import build, to_plain
from mirothinker_jax.models import rope
from mirothinker_jax.models.hf import shapes
from mirothinker_jax.models.hf_config import from_hf, to_hf
from mirothinker_jax.models.presets import PRESETS, architecture, use

QWEN2 = {
    "model_type": "qwen2",
    "hidden_act": "silu",
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
}
QWEN3 = {
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "rope_theta": 1000000,
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 40960,
    "use_sliding_window": False,
    "rope_scaling": None,
    "vocab_size": 151936,
}
MOE = QWEN3 | {
    "model_type": "qwen3_moe",
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "tie_word_embeddings": False,
}


def sizes(hidden, layers, heads, kv_heads, intermediate, **others):
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        **others,
    }


WIDE = {"vocab_size": 152064, "tie_word_embeddings": False}
QWEN2_72B = QWEN2 | sizes(8192, 80, 64, 8, 29568, **WIDE)
QWEN3_8B = QWEN3 | sizes(4096, 36, 32, 8, 12288, tie_word_embeddings=False)
A3B = MOE | sizes(2048, 48, 32, 4, 6144, moe_intermediate_size=768)
A22B = MOE | sizes(4096, 94, 64, 4, 12288, moe_intermediate_size=1536)
LONG = {"max_position_embeddings": 262144}
# The model cards' own way to longer contexts, there with factor 4.0 for 131,072 tokens.
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32768}

# preset: (source, its fields, parameters in all: exactly, and as the card gives them in billions)
PUBLISHED = {
    "qwen2.5-0.5b": (
        "Qwen/Qwen2.5-0.5B-Instruct config.json",
        QWEN2 | sizes(896, 24, 14, 2, 4864, vocab_size=151936, tie_word_embeddings=True),
        (494_032_768, "0.49"),
    ),
    "qwen2.5-7b": (
        "Qwen/Qwen2.5-7B-Instruct config.json",
        QWEN2 | sizes(3584, 28, 28, 4, 18944, **WIDE),
        (7_615_616_512, "7.6"),  # the card has 7.61
    ),
    "qwen2.5-32b": (
        "Qwen/Qwen2.5-32B-Instruct config.json",
        QWEN2 | sizes(5120, 64, 40, 8, 27648, **WIDE),
        (32_763_876_352, "32.8"),  # the card has 32.5
    ),
    "qwen2.5-72b": ("Qwen/Qwen2.5-72B-Instruct config.json", QWEN2_72B, (72_706_203_648, "72.7")),
    "qwen2.5-72b-256k": (
        "Qwen/Qwen2.5-72B-Instruct config.json, with YaRN as its card says",
        QWEN2_72B | LONG | {"rope_scaling": YARN},
        (72_706_203_648, "72.7"),
    ),
    "qwen3-0.6b": (
        "Qwen/Qwen3-0.6B config.json",
        QWEN3 | sizes(1024, 28, 16, 8, 3072, tie_word_embeddings=True),
        (596_049_920, "0.6"),
    ),
    "qwen3-1.7b": (
        "Qwen/Qwen3-1.7B config.json",
        QWEN3 | sizes(2048, 28, 16, 8, 6144, tie_word_embeddings=True),
        (1_720_574_976, "1.7"),
    ),
    "qwen3-4b": (
        "Qwen/Qwen3-4B config.json",
        QWEN3 | sizes(2560, 36, 32, 8, 9728, tie_word_embeddings=True),
        (4_022_468_096, "4.0"),
    ),
    "qwen3-8b": ("Qwen/Qwen3-8B config.json", QWEN3_8B, (8_190_735_360, "8.2")),
    "qwen3-8b-256k": (
        "Qwen/Qwen3-8B config.json, with YaRN as its card says",
        QWEN3_8B | LONG | {"rope_scaling": YARN},
        (8_190_735_360, "8.2"),
    ),
    "qwen3-14b": (
        "Qwen/Qwen3-14B config.json",
        QWEN3 | sizes(5120, 40, 40, 8, 17408, tie_word_embeddings=False),
        (14_768_307_200, "14.8"),
    ),
    "qwen3-32b": (
        "Qwen/Qwen3-32B config.json",
        QWEN3 | sizes(5120, 64, 64, 8, 25600, tie_word_embeddings=False),
        (32_762_123_264, "32.8"),
    ),
    "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B config.json", A3B, (30_532_122_624, "30.5")),
    "qwen3-30b-a3b-thinking-2507": (
        "Qwen/Qwen3-30B-A3B-Thinking-2507 config.json",
        A3B | LONG | {"rope_theta": 10000000},
        (30_532_122_624, "30.5"),
    ),
    "qwen3-235b-a22b": ("Qwen/Qwen3-235B-A22B config.json", A22B, (235_093_634_560, "235")),
    "qwen3-235b-a22b-thinking-2507": (
        "Qwen/Qwen3-235B-A22B-Thinking-2507 config.json",
        A22B | LONG | {"rope_theta": 5000000},
        (235_093_634_560, "235"),
    ),
}


def test_every_preset_is_checked():
    assert PUBLISHED.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_its_source_says(name):
    source, published, _ = PUBLISHED[name]
    assert from_hf(published) == PRESETS[name], source
    model = build(ModelConfig, PRESETS[name])
    back = to_hf(model, model.vocab_size, {})
    if published.get("rope_scaling"):
        back["rope_scaling"] = {
            key: back["rope_scaling"][key] for key in YARN
        }  # the rest are YaRN's own defaults
    assert {key: back.get(key) for key in published} | {"use_sliding_window": False} == published, source


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_parameters_as_its_model(name):
    source, published, (exact, card) = PUBLISHED[name]
    model = build(ModelConfig, PRESETS[name])
    total = sum(math.prod(shape) for shape in shapes(model, model.vocab_size).values())
    assert total == exact == by_hand(published), source
    assert f"{total / 1e9:.{len(card.partition('.')[2])}f}" == card, source


def by_hand(c):
    """From the published fields alone."""
    d, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    e, qwen2 = c.get("head_dim", d // heads), c["model_type"] == "qwen2"
    attention = d * e * (2 * heads + 2 * kv_heads) + (e * (heads + 2 * kv_heads) if qwen2 else 2 * e)
    experts, inner = c.get("num_experts", 1), c.get("moe_intermediate_size", c["intermediate_size"])
    feed_forward = 3 * d * inner * experts + (d * experts if experts > 1 else 0)
    embeddings = c["vocab_size"] * d * (1 if c["tie_word_embeddings"] else 2)
    return embeddings + c["num_hidden_layers"] * (attention + feed_forward + 2 * d) + d


def paper_frequencies(dims, theta, factor, native):
    """YaRN's formula pair by pair (arXiv 2309.00071, §3.2), in wavelengths, with the bounds on whole dims."""

    def pair_that_turns(times):  # within the native context: native / wavelength = times
        return math.log(native / (2 * math.pi * times), theta) * dims / 2

    first, last = math.floor(pair_that_turns(32)), math.ceil(pair_that_turns(1))
    found = []
    for pair in range(dims // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / dims)
        stretch = 0 if pair < first else 1 if pair > last else (pair - first) / (last - first)
        found.append(2 * math.pi * ((1 - stretch) / wavelength + stretch / (factor * wavelength)))
    return found


@pytest.mark.parametrize("name", [name for name in PRESETS if name.endswith("-256k")])
def test_yarn_of_the_256k_presets(name):
    model = build(ModelConfig, PRESETS[name])
    got = rope.frequencies(model.head_dim, model.rope_theta, model.yarn)
    np.testing.assert_allclose(got, paper_frequencies(128, 1e6, 8.0, 32768), rtol=1e-12)
    plain = 1e6 ** (-np.arange(64) / 64)
    np.testing.assert_array_equal(got[:23], plain[:23])  # 32 turns and more within 32,768 tokens
    np.testing.assert_allclose(got[40:], plain[40:] / 8)  # less than one
    assert model.yarn.scale == pytest.approx(0.1 * math.log(8) + 1, rel=1e-12)
    assert model.yarn.scale == pytest.approx(1.2079441541679836, rel=1e-12)
    assert model.yarn.factor * model.yarn.native_tokens == 262_144


def test_presets_without_yarn_turn_as_ever():
    model = build(ModelConfig, PRESETS["qwen3-30b-a3b-thinking-2507"])
    got = rope.frequencies(model.head_dim, model.rope_theta, model.yarn)
    np.testing.assert_allclose(got, [1e7 ** (-i / 64) for i in range(64)], rtol=1e-12)
    assert model.yarn.scale == 1


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean qwen3-8b"):
        architecture("qwen3-8B-265k")
    with pytest.raises(ConfigError, match=r"presets: qwen2\.5-0\.5b, "):
        architecture("mistral")


def test_a_config_file_takes_a_preset_or_a_converted_run_over(tmp_path):
    config = ConfigDict(to_plain(Config()))
    use(config, "qwen3-8b-256k")
    model = build(ModelConfig, config.model)
    assert (model.vocab_size, model.yarn.factor, model.init_from) == (151_936, 8.0, "")

    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text(json.dumps(A3B))
    use(config, str(tmp_path))
    model = build(ModelConfig, config.model)
    assert (model.moe.experts, model.yarn.factor, model.init_from) == (128, 1.0, str(tmp_path))
    assert config.tokenizer.path == str(tmp_path / "hf/tokenizer.json")


@pytest.mark.parametrize(("rank", "path"), [(0, ""), (4, "/models/tokenizer.json")])
def test_a_config_file_goes_on_from_a_run_that_trained(tmp_path, rank, path):
    """Its sizes, its adapters where it has any, and its tokenizer; how it stored and trained them is its own."""
    ran = {"model.hidden": 48, "model.heads": 6, "model.remat": "none", "model.param_dtype": "bfloat16"}
    ran |= {"model.lora.rank": rank, "model.init_from": "base", "tokenizer.path": path}
    settings = ConfigDict(to_plain(Config()))
    settings.update_from_flattened_dict(ran)
    (tmp_path / "config.json").write_text(json.dumps(settings.to_dict()))

    config = ConfigDict(to_plain(Config()))
    config.model.lora.rank = 16
    use(config, str(tmp_path))
    model = build(ModelConfig, config.model)
    assert (model.hidden, model.heads, model.lora.rank) == (48, 6, rank or 16)
    assert (model.remat, model.param_dtype, model.init_from) == ("full", "float32", str(tmp_path))
    assert config.tokenizer.path == (path or str(tmp_path / "data/tokenizer.model"))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (
            "raw",
            r"raw has a config.json, but is not a run .* mirothinker_jax.convert --from hf --path \S*raw --out",
        ),
        ("nothing", r"nothing' is neither a run that mirothinker_jax.convert made"),
        ("", "'' is neither a run"),
    ],
)
def test_what_is_no_run_is_told_how_to_become_one(tmp_path, monkeypatch, where, said):
    """A Hugging Face folder as it was downloaded; a folder that is not there; nothing, in a folder that has a model."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "raw"):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(A3B))
    with pytest.raises(ConfigError, match=said):
        architecture(str(tmp_path / where) if where else "")
