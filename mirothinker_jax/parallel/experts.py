"""Where the routed feed-forward blocks meet the mesh: experts over `expert`, their inner size over `tensor`.

Rows are spread over the expert axis too. Each device gathers the rows of its expert group, works on those that
chose its own experts, and the results are summed and scattered back: dropless by construction, with static shapes,
and with at most `experts_per_token` experts groups no more traffic than sending each choice to its expert would be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from mirothinker_kernels.grouped_matmul.layout import make_layout  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.grouped_matmul.tiles import tiled  # pyright: ignore[reportMissingImports]
from mirothinker_kernels.grouped_matmul.tpu import (  # pyright: ignore[reportMissingImports]
    grouped,
    largest_tile,
)

from mirothinker_jax.parallel.mesh import TOKEN_AXES
from mirothinker_jax.parallel.sharding import spec

ROUTES = "routes"  # the name, for rematerialisation policies, of which tokens go where: few bytes, and dear to find
LEAST_TILE = 8  # the fewest tokens of one expert that are multiplied at a time


def routed(
    x: jax.Array, chosen: jax.Array, weights: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array
) -> jax.Array:
    """Σ_j weights[…, j] · expert chosen[…, j] of x, on the mesh in force (or without one).

    Args:
      x: [B, T, D]; chosen: int32 [B, T, k], below X; weights: float32 [B, T, k].
      gate, up: [X, D, F]; down: [X, F, D]; all in x's dtype.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _local(x, chosen, weights, gate, up, down)
    rows, wide = spec("batch", "length", None), spec("experts", None, "ffn")
    run = jax.shard_map(
        functools.partial(_shard, parts=mesh.shape["expert"]),
        in_specs=(rows, rows, rows, wide, wide, spec("experts", "ffn", None)),
        out_specs=rows,
    )
    return run(x, chosen, weights, gate, up, down)


def _shard(x, chosen, weights, gate, up, down, *, parts: int) -> Any:
    if parts > 1:
        gather = functools.partial(jax.lax.all_gather, axis_name="expert", axis=0, tiled=True)
        x, chosen, weights = gather(x), gather(chosen), gather(weights)
        chosen = chosen - jax.lax.axis_index("expert") * gate.shape[0]  # out of range: another device's
    # The kernels are the same for all rows; their gradients are the sums over the devices that hold rows.
    everywhere = tuple(a for a in TOKEN_AXES if a != "expert")
    kernels = (jax.lax.pcast(kernel, everywhere, to="varying") for kernel in (gate, up, down))
    x, weights = (jax.lax.pcast(value, "tensor", to="varying") for value in (x, weights))
    out = _local(x, chosen, weights, *kernels)
    out = jax.lax.psum(out, "tensor")
    return jax.lax.psum_scatter(out, "expert", scatter_dimension=0, tiled=True) if parts > 1 else out


def _local(x, chosen, weights, gate, up, down) -> Any:
    flat = lambda value: value.reshape(-1, value.shape[-1])  # noqa: E731
    layout = named(make_layout(flat(chosen), gate.shape[0], _tile(chosen.size, gate.shape[0])))
    out = _platform(flat(x), flat(weights), gate, up, down, layout)
    return out.reshape(x.shape)


def named(routes: Any) -> Any:
    """The same arrays, under the name ROUTES."""
    return jax.tree.map(lambda x: checkpoint_name(x, ROUTES), routes)


def _tile(choices: int, experts: int) -> int:
    """The power of two next to an expert's mean share, which is padded to a multiple of it: few when decoding."""
    return max(LEAST_TILE, min(largest_tile(), 1 << max(0, choices // experts - 1).bit_length()))


def _platform(*operands) -> jax.Array:
    """Kernels on a TPU; everywhere else a loop over tiles is the fast and the lean way."""
    choose: Callable = jax.lax.platform_dependent
    return choose(*operands, tpu=grouped, default=tiled)
