"""Log-probs under a frozen reference model, computed once into the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec
from mirothinker_jax.parallel.context import zigzag
from mirothinker_jax.parallel.placement import data_shard, to_global
from mirothinker_jax.parallel.sharding import on_host
from mirothinker_jax.trainer.step import make_logprobs
from mirothinker_jax.types import Batch


def make_reference(
    model: ModelSpec, params: Params, microbatch_size: int, shared: bool, offload: bool = False
) -> Callable[[Batch], Batch]:
    """A function that fills in `ref_logprobs` of numpy rows [R, T], microbatch_size at a time.

    With `shared` every process passes the same rows and gets them all back; without, each passes its own. With
    `offload` it keeps a copy of the parameters, in the host's memory: nothing of the device's is taken while the
    trained model takes its steps, and those may donate `params`.
    """
    where = on_host(model.shardings) if offload else model.shardings
    if offload:
        params = jax.jit(lambda params: params, out_shardings=where)(params)
    logprobs = make_logprobs(model, where)
    index, count = data_shard(model.mesh)
    block = microbatch_size // count

    def fill(batch: Batch) -> Batch:
        rows = batch.shape[0]
        step = microbatch_size if shared else block
        # The reference's routers choose for themselves.
        whole = dataclasses.replace(batch, routes=None).padded(-rows % step)
        if shared:  # micro-batch m is rows m·microbatch_size …, of which this process places its block
            whole = jax.tree.map(
                lambda x: x.reshape(-1, count, block, x.shape[1])[:, index].reshape(-1, x.shape[1]), whole
            )
        placed, used = to_global(model.mesh, whole, microbatch_size, 1)
        filled = []
        with jax.set_mesh(model.mesh):
            for m in range(int(used)):
                values = logprobs(params, jax.tree.map(lambda x, m=m: x[m], placed))
                if jax.process_count() > 1:
                    values = multihost_utils.process_allgather(values, tiled=True)
                filled.append(np.asarray(values))
        if not filled:  # no rows, on no process
            return batch
        values = np.stack(filled)
        values[..., zigzag(batch.shape[1], model.mesh.shape["context"])] = values.copy()
        own = values if shared else values[:, index * block : (index + 1) * block]
        return dataclasses.replace(batch, ref_logprobs=own.reshape(-1, batch.shape[1])[:rows])

    return fill
