"""What needs no compiler: flops of a step, balance of the context axis, and a rule of thumb for memory."""

from __future__ import annotations

import dataclasses
import math

from mirothinker_jax.config import Config, ModelConfig
from mirothinker_jax.parallel.context import zigzag

ITEM = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Parameters:
    """total; of them those that a token meets (all, but for experts that it is not sent to), without the embedding."""

    total: int
    active: int


def parameters(model: ModelConfig) -> Parameters:
    m, width = model, model.heads * model.head_dim
    attention = m.hidden * (2 * width + 2 * m.kv_heads * m.head_dim)
    if m.qkv_bias:
        attention += width + 2 * m.kv_heads * m.head_dim
    if m.qk_norm:
        attention += 2 * m.head_dim
    experts = m.moe.experts
    one = 3 * m.hidden * (m.moe.expert_ffn if experts else m.ffn)
    router = m.hidden * experts
    norms = 2 * m.hidden
    table = m.vocab_size * m.hidden
    layer = attention + router + norms + one * max(1, experts)
    met = attention + router + norms + one * (m.moe.experts_per_token if experts else 1)
    ends = table * (1 if m.tied_head else 2) + m.hidden
    return Parameters(m.layers * layer + ends, m.layers * met + table + m.hidden)


def useful_flops(model: ModelConfig, row_tokens: int, rows: int) -> float:
    """Of a step over whole causal rows: 6 per active parameter and token, and causal-halved attention (forward 4 per
    pair of query and key, head and size, backward twice that); what is computed again does not count."""
    pairs = row_tokens**2 / 2
    attention = 12 * pairs * model.heads * model.head_dim * model.layers
    return rows * (6.0 * parameters(model).active * row_tokens + attention)


def balance(row_tokens: int, devices: int) -> float:
    """Busiest over mean of the devices that share a causal row: visible pairs of query and key."""
    work = (zigzag(row_tokens, devices).reshape(devices, -1) + 1.0).sum(1)
    return float(work.max() / work.mean())


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device, by kind. A rule of thumb: within a quarter of what the compiler takes, for dense models."""

    parameters: float
    optimizer: float
    gradients: float
    saved: float  # activations that wait for the backward pass
    working: float  # of the layer that is computed

    @property
    def total(self) -> float:
        return sum(dataclasses.astuple(self))


def memory(config: Config, stage: str, mesh: dict[str, int]) -> Memory:
    """On a mesh of these sizes."""
    m, training = config.model, getattr(config, stage).training
    compute, stored = ITEM[m.compute_dtype], ITEM[m.param_dtype]
    split = mesh["fsdp"] * mesh["context"] * mesh["tensor"] * (mesh["expert"] if m.moe.experts else 1)
    count = parameters(m).total / split
    rows = training.micro_rows / math.prod(mesh[axis] for axis in ("data", "fsdp", "expert"))
    tokens = rows * training.row_tokens / mesh["context"]
    heads, kv, ffn = (n / mesh["tensor"] for n in (m.heads, m.kv_heads, m.ffn))
    attended = heads * (m.head_dim * compute + 4)
    qkv = (heads + 2 * kv) * m.head_dim * compute
    kept = m.hidden * compute  # a layer's input
    if m.remat in ("attention", "dots", "none"):
        kept += attended
    if m.remat in ("dots", "none"):
        kept += qkv + m.hidden * compute + 2 * ffn * compute
    if m.remat == "none":
        kept += 4 * m.hidden * compute + ffn * compute
    # q, k, v, their gradients and the ring's sums in float32; or the feed-forward block's three arrays and theirs.
    attention = 2 * qkv + 2 * attended + heads * m.head_dim * 8 + kv * m.head_dim * 16
    wide = (m.moe.experts_per_token * m.moe.expert_ffn / mesh["tensor"]) if m.moe.experts else ffn
    layer = (parameters(m).total - 2 * m.vocab_size * m.hidden) / m.layers / mesh["tensor"] / mesh["expert"]
    working = tokens * (max(attention, 5 * wide * compute) + 4 * m.hidden * compute) + 2 * layer * compute
    accumulated = 4 * count if training.rows > training.micro_rows else 0
    return Memory(
        count * stored, count * 2 * stored, count * stored + accumulated, m.layers * tokens * kept, working
    )
