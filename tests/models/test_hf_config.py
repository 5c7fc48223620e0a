"""A published config.json read and written: spellings of YaRN, defaults, and what is refused, by the field's name."""

import pytest

from mirothinker_jax.config import ConfigError, ModelConfig
from mirothinker_jax.config_tree import build
from mirothinker_jax.models.hf_config import from_hf, to_hf
from mirothinker_jax.models.presets import PRESETS, read_hf_config


def published(preset):
    """What test_presets.py holds against the hub."""
    return to_hf(build(ModelConfig, PRESETS[preset]), 151_936, {})


QWEN3_8B, A3B = published("qwen3-8b"), published("qwen3-30b-a3b")
PLAIN = {key: value for key, value in QWEN3_8B.items() if key not in ("rope_theta", "rope_scaling")}
STRETCHED = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", **STRETCHED}},
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **STRETCHED}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **STRETCHED}},  # transformers 5
        {"rope_theta": 1e6, "rope_parameters": {"type": "yarn", **STRETCHED}},
        {
            "rope_theta": 1e6,
            "rope_scaling": {"type": "yarn", **STRETCHED},
            "rope_parameters": {"rope_theta": 5.0},
        },
    ],
)
def test_spellings_of_yarn(rotary):
    fields = from_hf(PLAIN | rotary)
    assert fields["rope_theta"] == 1e6
    assert fields["yarn"] == {"factor": 4.0, "native_tokens": 32768}


def test_all_settings_of_yarn_survive_both_ways():
    given = {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.25}
    stretched = {"rope_type": "yarn", **STRETCHED, **given, "truncate": True, "mscale": None}
    fields = from_hf(PLAIN | {"rope_theta": 1e6, "rope_scaling": stretched})
    assert fields["yarn"] == {"factor": 4.0, "native_tokens": 32768, **given}
    model = build(ModelConfig, fields)
    # What the model came from may spell it the other way, and may hold what would win over it.
    base = {
        "rope_parameters": {"rope_type": "default"},
        "original_max_position_embeddings": 7,
        "pad_token_id": 3,
    }
    back = to_hf(model, model.vocab_size, base)
    assert back["rope_scaling"] == {"rope_type": "yarn", **STRETCHED, **given}
    assert from_hf(back) == fields and back["pad_token_id"] == 3
    assert back["max_position_embeddings"] == 131_072  # vLLM takes the context from here


def test_yarn_without_a_native_context_takes_the_models():
    fields = from_hf(PLAIN | {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 2}})
    assert fields["yarn"] == {"factor": 2.0, "native_tokens": 40960}


def test_yarn_of_factor_one_still_scales_attention():
    """And is written again; without a factor of its own there is nothing to write."""
    stretched = {"rope_type": "yarn", **STRETCHED, "factor": 1.0}
    for given, scale in (({"attention_factor": 1.25}, 1.25), ({}, 1.0)):
        model = build(ModelConfig, from_hf(PLAIN | {"rope_theta": 1e6, "rope_scaling": stretched | given}))
        assert model.yarn.scale == scale
        back = to_hf(model, model.vocab_size, {})
        assert build(ModelConfig, from_hf(back)) == model
        assert (back["rope_scaling"] is None) == (scale == 1)
    model = build(ModelConfig, from_hf(refusal({"rope_type": "yarn", **STRETCHED, "attention_factor": 1.0})))
    assert model.yarn.scale == 1 and build(ModelConfig, from_hf(to_hf(model, 1, {}))).yarn == model.yarn


def test_a_base_that_says_the_same_keeps_its_spelling():
    base = PLAIN | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "bos_token_id": 3}
    model = build(ModelConfig, from_hf(base))
    assert to_hf(model, model.vocab_size, base) == base
    larger = to_hf(model, model.vocab_size + 64, base)
    assert larger["vocab_size"] == model.vocab_size + 64 and "rope_parameters" not in larger


def test_a_qwen2_with_a_head_dim_of_its_own():
    plain = to_hf(build(ModelConfig, PRESETS["qwen2.5-7b"]), 152_064, {})
    assert "head_dim" not in plain and from_hf(plain)["head_dim"] == 128
    own = plain | {"head_dim": 64}
    model = build(ModelConfig, from_hf(own))
    assert model.head_dim == 64 and to_hf(model, 152_064, {})["head_dim"] == 64
    # What the model came from may have had another one.
    assert to_hf(build(ModelConfig, from_hf(plain)), 152_064, own)["head_dim"] == 128


def test_what_a_config_leaves_out_has_the_libraries_default():
    left_out = ("rms_norm_eps", "tie_word_embeddings", "num_key_value_heads", "head_dim", "attention_bias")
    fields = from_hf({key: value for key, value in QWEN3_8B.items() if key not in left_out})
    assert fields == PRESETS["qwen3-8b"] | {"kv_heads": 32}
    renamed = {key: value for key, value in A3B.items() if key != "num_experts"} | {"num_local_experts": 128}
    assert from_hf(renamed) == PRESETS["qwen3-30b-a3b"]


def refusal(rope_scaling=None, **changes):
    return A3B | {"rope_scaling": rope_scaling} | changes


REFUSED = {
    "use_sliding_window": refusal(use_sliding_window=True),
    "hidden_act": refusal(hidden_act="gelu"),
    "attention_bias": refusal(attention_bias=True),
    "quantization_config": refusal(quantization_config={"quant_method": "fp8"}),
    "decoder_sparse_step": refusal(decoder_sparse_step=2),
    "mlp_only_layers": refusal(mlp_only_layers=[0]),
    "model_type": refusal(model_type="llama"),
    "rope_type": refusal({"rope_type": "longrope", "factor": 4.0}),
    "rope_type 'linear'": refusal({"type": "linear", "factor": 4.0}),
    "rope_scaling": refusal("yarn"),
    "rope_scaling.factor is missing": refusal({"rope_type": "yarn"}),
    "rope_scaling.factor is '4'": refusal({"rope_type": "yarn", "factor": "4"}),
    "rope_scaling.beta_fast": refusal({"rope_type": "yarn", "factor": 4.0, "beta_fast": "32"}),
    "mscale": refusal({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0}),
    "attn_factor": refusal({"rope_type": "yarn", "factor": 4.0, "attn_factor": 0.9}),  # vLLM's own
    "mscale_all_dim": refusal({"rope_type": "yarn", "factor": 1.0, "mscale_all_dim": 1.0}),
    "attention_factor is 0": refusal({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0}),
    "factor without a rope_type": refusal({"factor": 4.0}),
    "attention_factor without a rope_type": refusal({"rope_type": "default", "attention_factor": 1.2}),
    "original_max_position_embeddings is '1'": refusal(
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": "1"}
    ),
    "layer_types has sliding_attention": refusal(layer_types=["full_attention", "sliding_attention"]),
    "layer_types has 5": refusal(layer_types=5),
    "truncate": refusal({"rope_type": "yarn", "factor": 4.0, "truncate": False}),
    "partial_rotary_factor": refusal(partial_rotary_factor=0.5),
    "hidden_size is '2048'": refusal(hidden_size="2048"),
    "num_attention_heads is 0": refusal(num_attention_heads=0),
    "num_hidden_layers is True": refusal(num_hidden_layers=True),
    "tie_word_embeddings is 1": refusal(tie_word_embeddings=1),
}
NEEDED = (
    *(
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "rope_theta",
    ),
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size"),
)


@pytest.mark.parametrize("named", REFUSED)
def test_a_refusal_names_the_field(named):
    with pytest.raises(ConfigError) as refused:
        from_hf(REFUSED[named])
    assert named in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_field_is_named(key):
    for absent in ({k: v for k, v in A3B.items() if k != key}, A3B | {key: None}):
        with pytest.raises(ConfigError, match=f"^{key} is missing; give the model's own config.json$"):
            from_hf(absent)


def test_models_that_no_config_can_say_are_not_written():
    with pytest.raises(ConfigError, match=r"qk_norm=True with model\.qkv_bias=True"):
        to_hf(ModelConfig(qkv_bias=True), 64, {})


@pytest.mark.parametrize("text", ["{", "[]", "\x80", '{"model_type": "llama"}'])
def test_a_broken_config_file_is_named(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as refused:
        read_hf_config(path)
    assert str(refused.value).startswith(f"{path}: ")
