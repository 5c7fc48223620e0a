"""Parameters with logical axes, and the layers that are the same everywhere: projection, RMSNorm, SwiGLU.

Every parameter of a block is stored for all layers at once (leading dim L, logical axis "layers"), because
the model scans over them; a block's `__call__` sees one layer's slice.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mirothinker_jax.parallel.sharding import Axes, constrain


def parameter(rngs: nnx.Rngs, shape: tuple[int, ...], axes: Axes, dtype: str, scale: float) -> nnx.Param:
    """A normal(0, scale) parameter that knows its logical axes."""
    value = jax.random.normal(rngs.params(), shape, jnp.float32) * scale
    return nnx.Param(value.astype(dtype), axes=axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def contract(equation: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """einsum(equation, x, kernel), whose gradient for the kernel is made without transposing the larger operand.

    jax's own rule puts the output's gradient first; XLA on a CPU transposes what comes first, element by element
    together with whatever made it. For a SwiGLU that costs more than the product itself.
    """
    return jnp.einsum(equation, x, kernel)


def _contract_forward(equation, x, kernel):
    return jnp.einsum(equation, x, kernel), (x, kernel)


def _contract_backward(equation, saved, gradient):
    x, kernel = saved
    operands, out = equation.split("->")
    into, weights = operands.split(",")
    dx = jnp.einsum(f"{out},{weights}->{into}", gradient, kernel)
    smaller, larger = sorted([(x, into), (gradient, out)], key=lambda operand: operand[0].size)
    made = "".join(axis for axis in smaller[1] + larger[1] if axis in weights)
    d_kernel = jnp.einsum(f"{smaller[1]},{larger[1]}->{made}", smaller[0], larger[0])
    # The barrier keeps XLA from turning the product round again to spare the transposition of its small result.
    return dx, jnp.einsum(f"{made}->{weights}", jax.lax.optimization_barrier(d_kernel))


contract.defvjp(_contract_forward, _contract_backward)


class Projection(nnx.Module):
    """x [B, T, *inputs] → [B, T, *outputs] by `einsum`, with an optional bias; computes in x's dtype."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        layers: int,
        inputs: dict[str, int],
        outputs: dict[str, int],
        equation: str,
        dtype: str,
        bias: bool = False,
        residual: bool = False,
    ):
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

    def __call__(self, x: jax.Array) -> jax.Array:
        # One layer's weights are gathered over fsdp where they are used, in the compute dtype.
        kernel = constrain(self.kernel[...].astype(x.dtype), *self.gathered)
        out: jax.Array = contract(self.equation, x, kernel)  # pyright: ignore[reportAssignmentType]
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

    def __init__(self, rngs: nnx.Rngs, layers: int, hidden: int, ffn: int, dtype: str):
        wide, narrow = {"ffn": ffn}, {"embed": hidden}
        self.gate = Projection(rngs, layers, narrow, wide, "btd,df->btf", dtype)
        self.up = Projection(rngs, layers, narrow, wide, "btd,df->btf", dtype)
        self.down = Projection(rngs, layers, wide, narrow, "btf,fd->btd", dtype, residual=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))
