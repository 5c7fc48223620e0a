"""A model's structure on a mesh: everything but the numbers.

Shapes first, then shardings, then arrays born sharded: no full copy of a parameter anywhere.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh

from mirothinker_jax.config import ModelConfig
from mirothinker_jax.models.qwen import Params, Qwen, split
from mirothinker_jax.parallel.mesh import check_model
from mirothinker_jax.parallel.sharding import shardings


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model's structure on a mesh: what is needed to make, restore or compile it, without its numbers.

    key_copies: how often each key/value head is there, because more devices share the heads than there are (only where
    tokens are sampled, rollout/local/layout.py); config.kv_heads counts the copies.
    """

    config: ModelConfig
    vocab_size: int
    mesh: Mesh
    graph: nnx.GraphDef
    abstract: Params
    shardings: Params
    key_copies: int = 1

    @staticmethod
    def build(config: ModelConfig, vocab_size: int, mesh: Mesh, key_copies: int = 1) -> ModelSpec:
        """The spec of a model with `vocab_size` tokens on `mesh`."""
        config = dataclasses.replace(config, kv_heads=config.kv_heads * key_copies)
        check_model(mesh.shape, config, vocab_size)
        graph, abstract, axes = Qwen.structure(config, vocab_size)
        return ModelSpec(config, vocab_size, mesh, graph, abstract, shardings(mesh, axes), key_copies)

    @functools.cached_property
    def stored(self) -> ModelSpec:
        """The spec of the parameters as files have them: of key heads no copies, all of them on every device."""
        if self.key_copies == 1:
            return self
        config = dataclasses.replace(self.config, kv_heads=self.config.kv_heads // self.key_copies)
        graph, abstract, axes = Qwen.structure(config, self.vocab_size)
        whole = lambda axes: tuple(None if axis == "kv_heads" else axis for axis in axes)  # noqa: E731
        axes = jax.tree.map(whole, axes, is_leaf=lambda a: isinstance(a, tuple))
        return ModelSpec(config, self.vocab_size, self.mesh, graph, abstract, shardings(self.mesh, axes))

    def init(self, seed: int) -> Params:
        """Fresh parameters, each device making its own part."""
        return self._make(seed, lambda params: params)

    def init_adapters(self, seed: int) -> Params:
        """The adapters of `init` alone; nothing else is made."""
        return self._make(seed, lambda params: split(self.config, params)[0])

    def _make(self, seed: int, part: Callable[[Params], Params]) -> Params:
        make = jax.jit(
            lambda key: part(Qwen.init(self.config, self.vocab_size, key)), out_shardings=part(self.shardings)
        )
        with jax.set_mesh(self.mesh):
            return make(jax.random.key(seed))
