"""Parameters with logical axes, and the layers that are the same everywhere: projection with adapter, RMSNorm, SwiGLU.

Every parameter of a block is stored for all layers at once (leading dim L, logical axis "layers"), because
the model scans over them; a block's `__call__` sees one layer's slice.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mirothinker_jax.config import LoRAConfig, ModelConfig
from mirothinker_jax.parallel.chunks import in_chunks
from mirothinker_jax.parallel.sharding import Axes, constrain

ADAPTER_LEAVES = ("lora_a", "lora_b")  # names of what is trained where a model has adapters


def parameter(rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes, dtype: str, scale: float) -> nnx.Param:
    """A normal(0, scale) parameter that knows its logical axes."""
    value = jax.random.normal(rngs.params(), shape, jnp.float32) * scale
    return nnx.Param(value.astype(dtype), axes=axes)


def contract(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """einsum(equation, x, kernel), whose gradient for the kernel is made without transposing the larger operand.

    jax's own rule puts the output's gradient first; XLA on a CPU transposes what comes first, element by element
    together with whatever made it. For a SwiGLU that costs more than the product itself.
    """
    return _contract(equation, x, kernel)  # pyright: ignore[reportReturnType]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _contract(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, kernel)


def _contract_forward(equation, x, kernel) -> tuple[Any, ...]:
    return jnp.einsum(equation, x, kernel), (x, kernel)


def _contract_backward(equation, saved, gradient) -> tuple[Any, ...]:
    x, kernel = saved
    operands, out = equation.split("->")
    into, weights = operands.split(",")
    dx = jnp.einsum(f"{out},{weights}->{into}", gradient, kernel)
    smaller, larger = sorted([(x, into), (gradient, out)], key=lambda operand: operand[0].size)
    made = "".join(axis for axis in smaller[1] + larger[1] if axis in weights)
    d_kernel = jnp.einsum(f"{smaller[1]},{larger[1]}->{made}", smaller[0], larger[0])
    # The barrier keeps XLA from turning the product round again to spare the transposition of its small result.
    return dx, jnp.einsum(f"{made}->{weights}", jax.lax.optimization_barrier(d_kernel))


_contract.defvjp(_contract_forward, _contract_backward)


class Adapter(nnx.Module):
    """A low-rank update of a linear layer (LoRA, arXiv 2106.09685): `scale` · a · b, where b starts at zero.

    Stored in float32 whatever the layer's own dtype: it is all that is trained.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        lora: LoRAConfig,
        stacked: dict[str, int],
        inputs: dict[str, int],
        outputs: dict[str, int],
    ):
        wide = float(np.prod(list(inputs.values())))
        down, up = (
            (*stacked.values(), *inputs.values(), lora.rank),
            (*stacked.values(), lora.rank, *outputs.values()),
        )
        self.lora_a = parameter(rngs, down, (*stacked, *inputs, None), "float32", wide**-0.5)
        self.lora_b = nnx.Param(jnp.zeros(up, jnp.float32), axes=(*stacked, None, *outputs))
        self.scale = lora.alpha / lora.rank

    @staticmethod
    def maybe(
        rngs: nnx.Rngs,
        config: ModelConfig,
        name: str,
        stacked: dict[str, int],
        inputs: dict[str, int],
        outputs: dict[str, int],
    ) -> Adapter | None:
        """The adapter of the layer called `name`, where the config asks for one."""
        lora = config.lora
        wanted = lora.rank > 0 and name in lora.targets
        return Adapter(rngs, lora, stacked, inputs, outputs) if wanted else None

    def product(self, equation: str) -> jax.Array:
        """scale · a · b, float32: what merging adds to the layer's kernel."""
        return self.scale * jnp.einsum(equation, self.lora_a[...], self.lora_b[...])

    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        """scale · x · a · b, where `equation` is the layer's own; in x's dtype."""
        operands, out = equation.split("->")
        into, kernel = operands.split(",")
        inputs, outputs = ("".join(c for c in kernel if (c in out) == kept) for kept in (False, True))
        rows = "".join(c for c in into if c not in inputs)
        a, b = (constrain(p[...].astype(x.dtype), *(None,) * (p.ndim)) for p in (self.lora_a, self.lora_b))
        narrow = jnp.einsum(f"{into},{inputs}r->{rows}r", x, a)
        return self.scale * jnp.einsum(f"{rows}r,r{outputs}->{out}", narrow, b)


class Projection(nnx.Module):
    """x [B, T, *inputs] → [B, T, *outputs] by `einsum`, with an optional bias; computes in x's dtype."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        config: ModelConfig,
        name: str,
        inputs: dict[str, int],
        outputs: dict[str, int],
        equation: str,
        bias: bool = False,
        residual: bool = False,
    ):
        layers, dtype = config.layers, config.param_dtype
        shape = (layers, *inputs.values(), *outputs.values())
        scale = float(np.prod(list(inputs.values()))) ** -0.5
        if residual:
            # What is added to the residual stream starts small (GPT-2, §2.3), or it drowns the embeddings: a tiny
            # model then takes several times as many tokens to learn to copy.
            scale = 0.02 * (2 * layers) ** -0.5
        self.kernel = parameter(rngs, shape, ("layers", *inputs, *outputs), dtype, scale)
        self.equation = equation
        self.gathered = tuple(None if axis == "embed" else axis for axis in (*inputs, *outputs))
        zeros = jnp.zeros((layers, *outputs.values()), dtype)
        # In one assignment: NNX takes an attribute that was once None for one without parameters.
        self.bias = nnx.Param(zeros, axes=("layers", *outputs)) if bias else None
        self.adapter = Adapter.maybe(rngs, config, name, {"layers": layers}, inputs, outputs)

    def weight(self, dtype) -> jax.Array:
        """One layer's kernel, gathered over fsdp where it is used, in the compute dtype."""
        return constrain(self.kernel[...].astype(dtype), *self.gathered)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = contract(self.equation, x, self.weight(x.dtype))
        if self.adapter is not None:
            out = out + self.adapter(self.equation, x)
        return out if self.bias is None else out + self.bias[...].astype(x.dtype)[None, None]


class RMSNorm(nnx.Module):
    """x / rms(x) · weight over the last dim, in float32 (arXiv 1910.07467)."""

    def __init__(self, shape: tuple[int, ...], axes: Axes, eps: float, dtype: str):
        self.weight = nnx.Param(jnp.ones(shape, dtype), axes=axes)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.eps)
        weight = jnp.expand_dims(self.weight[...].astype(jnp.float32), range(x.ndim - 1))
        return (normal * weight).astype(x.dtype)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) · up(x)) (arXiv 2002.05202)."""

    def __init__(self, rngs: nnx.Rngs, config: ModelConfig):
        c = config
        wide, narrow = {"ffn": c.ffn}, {"embed": c.hidden}
        self.gate = Projection(rngs, c, "gate", narrow, wide, "btd,df->btf")
        self.up = Projection(rngs, c, "up", narrow, wide, "btd,df->btf")
        self.down = Projection(rngs, c, "down", wide, narrow, "btf,fd->btd", residual=True)
        self.tokens = c.ffn_tokens

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.tokens:
            weights = (p.weight(x.dtype) for p in (self.gate, self.up, self.down))
            return in_chunks(swiglu, self.tokens, x, *weights)
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


def swiglu(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
    """x [N, D]; gate, up [D, F]; down [F, D] → [N, D]."""
    gated, inner = (contract("nd,df->nf", x, kernel) for kernel in (gate, up))
    return contract("nf,fd->nd", jax.nn.silu(gated) * inner, down)
