"""What needs no compiler: flops of a step, balance of the context axis, and a rule of thumb for memory."""

from __future__ import annotations

import dataclasses
import math

from mirothinker_jax.config import Config, ModelConfig
from mirothinker_jax.parallel.context import zigzag

ITEM = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Parameters:
    """total; of them those that a token meets (all, but for experts that it is not sent to), without the embedding; and
    those that are trained: the adapters, where there are any."""

    total: int
    active: int
    trained: int


def parameters(model: ModelConfig) -> Parameters:
    """How many parameters the model has, adapters not counted."""
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
    total = m.layers * layer + ends
    adapters = m.layers * sum(m.lora.rank * (i + o) for i, o in _linear(m))
    return Parameters(total, m.layers * met + table + m.hidden, adapters or total)


def _linear(m: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of a layer's linear layers that may have adapters; each expert has its own."""
    width, kv, experts = m.heads * m.head_dim, m.kv_heads * m.head_dim, m.moe.experts
    ffn = m.moe.expert_ffn if experts else m.ffn
    sizes = {"q": (m.hidden, width), "k": (m.hidden, kv), "v": (m.hidden, kv), "out": (width, m.hidden)}
    wide = {"gate": (m.hidden, ffn), "up": (m.hidden, ffn), "down": (ffn, m.hidden)}
    of_experts = [wide[name] for name in m.lora.targets if name in wide] * max(1, experts)
    return [sizes[name] for name in m.lora.targets if name in sizes] + of_experts


def useful_flops(model: ModelConfig, sequence_length: int, rows: int) -> float:
    """Of a step whose rows are one causal sample each: 6 per active parameter and token (4 where they are frozen), and
    causal-halved attention (forward 4 per pair of query and key, head and size, backward twice that); what is computed
    again does not count."""
    pairs = sequence_length**2 / 2
    attention = 12 * pairs * model.heads * model.head_dim * model.layers
    each = 4.0 if model.lora.rank else 6.0
    return rows * (each * parameters(model).active * sequence_length + attention)


def balance(sequence_length: int, devices: int) -> float:
    """Busiest over mean of the devices that share a causal row: visible pairs of query and key."""
    work = (zigzag(sequence_length, devices).reshape(devices, -1) + 1.0).sum(1)
    return float(work.max() / work.mean())


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a device, by kind, and of its host's. A rule of thumb, and mostly too little (sweep.LIKELY)."""

    parameters: float
    optimizer: float
    gradients: float
    saved: float  # activations that wait for the backward pass
    working: float  # of the layer that is computed
    host: float  # what waits in the host's memory

    @property
    def on_device(self) -> dict[str, float]:
        """Bytes of a device by kind."""
        return {kind: size for kind, size in dataclasses.asdict(self).items() if kind != "host"}

    @property
    def total(self) -> float:
        """Bytes of a device, all kinds together."""
        return sum(self.on_device.values())


def _split(m: ModelConfig, mesh: dict[str, int]) -> int:
    """Devices that share one copy of the parameters."""
    return mesh["fsdp"] * mesh["context"] * mesh["tensor"] * (mesh["expert"] if m.moe.experts else 1)


def memory(config: Config, stage: str, mesh: dict[str, int]) -> Memory:
    """On a mesh of these sizes."""
    m, training = config.model, getattr(config, stage).training
    compute, stored = ITEM[m.compute_dtype], ITEM[m.param_dtype]
    count, trained = (n / _split(m, mesh) for n in (parameters(m).total, parameters(m).trained))
    stored_trained = ITEM["float32"] if m.lora.rank else stored
    rows = training.microbatch_size / math.prod(mesh[axis] for axis in ("data", "fsdp", "expert"))
    tokens = rows * training.sequence_length / mesh["context"]
    heads, kv, ffn = (n / mesh["tensor"] for n in (m.heads, m.kv_heads, m.ffn))
    attended = heads * (m.head_dim * compute + 4)
    qkv = (heads + 2 * kv) * m.head_dim * compute
    kept, waits = m.hidden * compute, 0.0  # a layer's input
    if m.remat == "offload-all":
        kept, waits = 0.0, kept + attended
    if m.remat == "offload":
        waits = attended
    if m.remat in ("attention", "dots", "none"):
        kept += attended
    if m.remat in ("dots", "none"):
        kept += qkv + m.hidden * compute + 2 * ffn * compute
    if m.remat == "none":
        kept += 4 * m.hidden * compute + ffn * compute
        kept -= 3 * ffn * compute if m.ffn_tokens else 0  # made again, chunk by chunk
    # q, k, v, their gradients and the ring's sums in float32; or the feed-forward block's three arrays and theirs.
    attention = 2 * qkv + 2 * attended + heads * m.head_dim * 8 + kv * m.head_dim * 16
    wide = (m.moe.experts_per_token * m.moe.expert_ffn / mesh["tensor"]) if m.moe.experts else ffn
    ends = (1 if m.tied_head else 2) * m.vocab_size * m.hidden
    layer = (
        (parameters(m).total - ends) / m.layers / mesh["tensor"] / (mesh["expert"] if m.moe.experts else 1)
    )
    inner = 5 * wide * compute * tokens
    if m.ffn_tokens:  # a chunk's, the weights in float32, and the sums of their gradients
        inner = inner * min(1, m.ffn_tokens / tokens) + 2 * 3 * m.hidden * ffn * ITEM["float32"]
    working = max(tokens * attention, inner) + tokens * 4 * m.hidden * compute + 2 * layer * compute
    # Those of micro-batches add up in float32: in place, or beside each one's own where they are of another dtype.
    several = training.batch_size > training.microbatch_size and stored_trained != ITEM["float32"]
    gradients = stored_trained + (ITEM["float32"] if several else 0)
    averages = trained * 2 * ITEM["float32"]
    return Memory(
        count * stored + (trained * stored_trained if m.lora.rank else 0),
        # What waits in the host's memory comes a layer at a time, while another is computed.
        averages / (m.layers if training.optimizer.offload else 1),
        trained * gradients,
        tokens * (m.layers * kept + min(2, m.layers) * waits),
        working,
        m.layers * tokens * waits + between_steps(config, stage, mesh),
    )


def between_steps(config: Config, stage: str, mesh: dict[str, int]) -> float:
    """Bytes of the host's memory, for each device, that stay between steps: averages that wait there, and the
    reference model."""
    m, offload = config.model, getattr(config, stage).training.optimizer.offload
    averages = parameters(m).trained / _split(m, mesh) * 2 * ITEM["float32"]
    return averages * offload + reference(config, stage, mesh)


def reference(config: Config, stage: str, mesh: dict[str, int]) -> float:
    """Bytes of the host's memory, for each device, that the reference model of GRPO takes; another program reads it."""
    if stage != "grpo" or not config.grpo.kl_coef:
        return 0.0
    return parameters(config.model).total * ITEM[config.model.param_dtype] / _split(config.model, mesh)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Bytes of a device of the engine."""

    weights: float
    pages: float  # keys and values
    moved: (
        float  # the largest weight of a layer, or the embedding: there twice while it comes from the trainer
    )
    temporaries: float  # a rule of thumb


def sampler(config: Config, devices: int) -> Sampler:
    """What the engine takes of each of a host's devices."""
    m, r, item = config.model, config.rollout, ITEM[config.model.compute_dtype]
    copies = devices // r.tensor
    kv = 2 * m.layers * m.kv_heads * m.head_dim * item / r.tensor  # of a token
    m = dataclasses.replace(m, kv_heads=max(m.kv_heads, r.tensor))  # with copies of key heads
    adapters = parameters(m).trained if m.lora.rank else 0
    each = m.hidden * (m.moe.expert_ffn * m.moe.experts if m.moe.experts else m.ffn)
    # A block's layer: its input and sum, what attention and the feed-forward block make of it; and the logits.
    tokens, rows = (max(1, n // copies) for n in (r.prefill_slots * r.prefill_tokens, r.slots))
    wide = m.moe.experts_per_token * m.moe.expert_ffn if m.moe.experts else m.ffn
    layer = 4 * m.hidden + (3 * wide + (3 * m.heads + 2 * m.kv_heads) * m.head_dim) / r.tensor
    return Sampler(
        weights=(parameters(m).total * item + adapters * ITEM["float32"]) / r.tensor,
        pages=pages(config) / copies * r.page_tokens * kv,
        moved=max(each, m.vocab_size * m.hidden) * item / r.tensor,
        temporaries=tokens * layer * item + rows * m.vocab_size * (4 * ITEM["float32"] + 1),
    )


def pages(config: Config) -> int:
    """Of all devices of a host."""
    r = config.rollout
    return r.pages or r.slots * -(-config.agent.context_tokens // r.page_tokens)
