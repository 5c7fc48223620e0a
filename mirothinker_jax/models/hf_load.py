"""Parameters on a mesh straight from a folder of safetensors. One of them is whole on the host at a time."""

from __future__ import annotations

import jax
import numpy as np

from mirothinker_jax.models.hf import Tensor, flatten, tensors
from mirothinker_jax.models.hf_files import Folder
from mirothinker_jax.models.qwen import Params
from mirothinker_jax.models.spec import ModelSpec


def load_params(files: Folder, model: ModelSpec) -> Params:
    """The model's parameters, which has no adapters, in its dtype and sharding.

    Raises ConfigError where the folder holds others.
    """
    model = model.stored
    listed = tensors(model.config, model.vocab_size)
    files.check(listed)
    by_path: dict[tuple[str, ...], list[Tensor]] = {}
    for tensor in listed:
        by_path.setdefault(tensor.path, []).append(tensor)
    shardings = dict(flatten(model.shardings))
    params: Params = {}
    for path, abstract in flatten(model.abstract):
        leaf = np.empty(abstract.shape, abstract.dtype)  # pyright: ignore[reportAttributeAccessIssue]
        for tensor in by_path[path]:
            leaf[tensor.index] = tensor.ours(files.read(tensor.name))
        owner = params
        for key in path[:-1]:
            owner = owner.setdefault(key, {})
        owner[path[-1]] = jax.device_put(leaf, shardings[path])  # pyright: ignore[reportArgumentType]
    return params
