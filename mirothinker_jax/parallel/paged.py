"""Where paged attention meets the mesh: every device of the batch axes has pages and rows of its own, heads go over
`tensor`. Page numbers are a device's own.

With more devices on `tensor` than key heads, several hold copies of a head, and of each page every one has its share of
the tokens: of n copies, the i-th has places i, i + n, …. To each of them its share looks like pages of a shorter
context. Queries of the head meet all shares, each on its device, and the results are put together by their log-sum-exp.

A step first writes its tokens' keys and values and then attends, layer by layer. So a row may see pages that another
row of the same step writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mirothinker_kernels.paged_attention.tpu as tpu  # pyright: ignore[reportMissingImports]
import mirothinker_kernels.paged_attention.tpu_part as tpu_part  # pyright: ignore[reportMissingImports]
import mirothinker_kernels.paged_attention.xla as xla  # pyright: ignore[reportMissingImports]
from jax.sharding import Mesh, PartitionSpec

from mirothinker_jax.parallel.attend import Attend
from mirothinker_jax.parallel.sharding import spec

Pool = tuple[jax.Array, ...]  # one layer's pages
# Of pages that a turn of the loop loads on a CPU: a decode step of 32 rows takes a fifth less than with a page of each.
CPU_BYTES = 1 << 20


LANES = tpu_part.LANES  # heads are a multiple of so many wide, where TPUs split the tokens of pages


def share_multiple(dtype: Any) -> int:
    """Of what a TPU's share of a page's tokens has to be a multiple."""
    return tpu_part.tile_rows(dtype)


class PagedKernels:
    """The kernels for the devices of a mesh; `key_copies` of them next to each other hold copies of a key head."""

    def __init__(self, mesh: Mesh, key_copies: int = 1):
        platform = mesh.devices.flat[0].platform
        on_tpu = platform == "tpu"
        self._kernels = (tpu if key_copies == 1 else tpu_part) if on_tpu else xla
        self._how = {"at_once": CPU_BYTES} if platform == "cpu" else {}
        # Axes of a layer's pages: those of tpu.py and tpu_part.py, and of xla.py.
        axes = ("batch", None, "kv_heads", None) if on_tpu else ("batch", "kv_heads", None, None)
        self.pages, self._parts = spec(*axes), 1 if on_tpu else 2
        self.contents = PartitionSpec(None, *self.pages)  # of pages of all layers
        self._alone, self.key_copies = mesh.size == 1, key_copies
        tensor = mesh.shape["tensor"]
        self._groups = [[*range(i, i + key_copies)] for i in range(0, tensor, key_copies)]

    def empty(self, pages: int, size: int, kv_heads: int, width: int, dtype: Any) -> Pool:
        """One layer's pages of `size` tokens, zeros; `pages` of all devices together, `kv_heads` with their copies."""
        return self._kernels.empty(pages, size // self.key_copies, kv_heads, width, dtype)

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
            if self.key_copies > 1:
                return self._attend_shares(q, k, v, pool, table, places)
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

    def _attend_shares(self, q, k, v, pool, table, places) -> tuple[Any, ...]:
        """What a device does with its share of the pages' tokens, and with its queries [B, C, h, E] of n · h."""
        n, groups = self.key_copies, self._groups
        mine = jax.lax.axis_index("tensor") % n
        own = jnp.where((places >= 0) & (places % n == mine), places // n, -1)
        pool = self._kernels.write(pool, k, v, table, own)
        every = jax.lax.all_gather(q, "tensor", axis=2, tiled=True, axis_index_groups=groups)
        # A query at p sees, of its context's places, those of this share that are not above (p − mine) / n.
        seen = (places - mine) // n
        out, norm = self._kernels.attend_part(every, pool, table, seen, **self._how)
        found = jnp.concatenate([out, norm[..., None]], axis=-1)
        found = found.reshape(*q.shape[:2], n, q.shape[2], -1)
        found = jax.lax.all_to_all(found, "tensor", 2, 2, axis_index_groups=groups)  # of my heads, by share
        out, norm = found[..., :-1], found[..., -1:]
        weights = jnp.exp(norm - norm.max(2, keepdims=True))
        return ((out * weights).sum(2) / weights.sum(2)).astype(q.dtype), pool

    def _mapped(self, local: Callable, in_specs: Any, out_specs: Any) -> Callable:
        if self._alone:
            return local
        # Every axis splits every operand, so there is no replication to check.
        return jax.shard_map(local, in_specs=in_specs, out_specs=out_specs, check_vma=False)
