"""Where paged attention meets the mesh: every device of the batch axes has pages and rows of its own, heads go over
`tensor`. Page numbers are a device's own.

A step first writes its tokens' keys and values and then attends, layer by layer. So a row may see pages that another
row of the same step writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mirothinker_kernels.paged_attention.tpu as tpu  # pyright: ignore[reportMissingImports]
import mirothinker_kernels.paged_attention.xla as xla  # pyright: ignore[reportMissingImports]
from jax.sharding import Mesh, PartitionSpec

from mirothinker_jax.parallel.attend import Attend
from mirothinker_jax.parallel.sharding import spec

Pool = tuple[jax.Array, ...]  # one layer's pages
# Of pages that a turn of the loop loads on a CPU: a decode step of 32 rows takes a fifth less than with a page of each.
CPU_BYTES = 1 << 20


class PagedKernels:
    """The kernels for the devices of a mesh."""

    def __init__(self, mesh: Mesh):
        platform = mesh.devices.flat[0].platform
        on_tpu = platform == "tpu"
        self._kernels = tpu if on_tpu else xla
        self._how = {"at_once": CPU_BYTES} if platform == "cpu" else {}
        # Axes of a layer's pages: those of tpu.py and of xla.py.
        axes = ("batch", None, "kv_heads", None) if on_tpu else ("batch", "kv_heads", None, None)
        self.pages, self._parts = spec(*axes), 1 if on_tpu else 2
        self.contents = PartitionSpec(None, *self.pages)  # of pages of all layers
        self._alone = mesh.size == 1

    def empty(self, pages: int, size: int, kv_heads: int, width: int, dtype: Any) -> Pool:
        """One layer's pages, zeros; `pages` of all devices together."""
        return self._kernels.empty(pages, size, kv_heads, width, dtype)

    def copy(self, pools: list[Pool], source: jax.Array, target: jax.Array) -> list[Pool]:
        """Pages source[i] copied to target[i], int32 [n] of each device, one after the other; −1: none."""

        def local(pools, source, target) -> list[Pool]:
            return [self._kernels.copy(pool, source, target) for pool in pools]

        every = [(self.pages,) * self._parts for _ in pools]
        return self._mapped(local, (every, spec("batch"), spec("batch")), every)(pools, source, target)

    def take(self, pools: list[Pool], pages: jax.Array) -> jax.Array:
        """The content of pages, int32 [n] of each device, one after the other: [layers · parts, n, …] of each."""

        def local(pools, pages) -> jax.Array:
            shape = (len(pages), *pools[0][-1].shape[1:])  # of values; keys may lie in another order
            return jnp.stack([part[pages].reshape(shape) for pool in pools for part in pool])

        every = [(self.pages,) * self._parts for _ in pools]
        return self._mapped(local, (every, spec("batch")), self.contents)(pools, pages)

    def put(self, pools: list[Pool], pages: jax.Array, contents: jax.Array) -> list[Pool]:
        """The pools with these pages as `take` gave them. −1: none."""

        def local(pools, pages, contents) -> list[Pool]:
            where = jnp.where(pages >= 0, pages, pools[0][0].shape[0])
            each = iter(contents)

            def put(part) -> jax.Array:
                return part.at[where].set(next(each).reshape(-1, *part.shape[1:]), mode="drop")

            return [tuple(map(put, pool)) for pool in pools]

        every = [(self.pages,) * self._parts for _ in pools]
        return self._mapped(local, (every, spec("batch"), self.contents), every)(pools, pages, contents)

    def attend(self, table: jax.Array, places: jax.Array) -> Attend:
        """Attention of tokens at `places`, int32 [B, C], of rows with the pages `table`, int32 [B, M]. The layer cache
        is the layer's pages, which it writes first. A token at −1 is not written, and sees nothing."""

        def local(q, k, v, pool, table, places) -> tuple[Any, ...]:
            pool = self._kernels.write(pool, k, v, table, places)
            return self._kernels.attend(q, pool, table, places, **self._how), pool

        heads, kv, rows = (
            spec("batch", None, "heads", None),
            spec("batch", None, "kv_heads", None),
            spec("batch"),
        )
        rows = PartitionSpec(*rows, None)
        pages = (self.pages,) * self._parts
        mapped = self._mapped(local, (heads, kv, kv, pages, rows, rows), (heads, pages))

        def attend(q, k, v, layer_cache) -> tuple[Any, ...]:
            return mapped(q, k, v, layer_cache, table, places)

        return attend

    def _mapped(self, local: Callable, in_specs: Any, out_specs: Any) -> Callable:
        if self._alone:
            return local
        # Every axis splits every operand, so there is no replication to check.
        return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs, check_vma=False)
