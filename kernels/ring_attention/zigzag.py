"""Where a row's tokens lie when n devices share it: of 2n equal chunks, device i has the i-th and the i-th from behind.

Under a causal mask the first chunks see little and the last ones much, so that every device has the same work (as in
Llama 3's context parallelism, arXiv 2407.21783, §3.3.2, with keys that rotate).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from ..flash_attention.mask import INDEX, OWN_LO, TRUNK_HI, TRUNK_LO, Mask


@dataclasses.dataclass(frozen=True)
class Zigzag:
    """Rows of 2 · devices chunks of `chunk` tokens."""

    devices: int
    chunk: int

    def starts(self, device: Any) -> tuple[Any, Any]:
        """Where in the row the two chunks of a device begin."""
        return device * self.chunk, (2 * self.devices - 1 - device) * self.chunk

    def places(self, device: Any) -> Any:
        """int32 [2 · chunk], the place in the row of each of a device's tokens."""
        first, second = self.starts(device)
        token = jnp.arange(self.chunk, dtype=jnp.int32)
        return jnp.concatenate([first + token, second + token])

    def held(self, place: Any, device: Any) -> Any:
        """How many of a device's tokens lie before this place of the row. What is a span of the row, be it cut by the
        chunks of others, is a span of the device's own tokens again, and this gives its ends."""
        first, second = self.starts(device)
        return jnp.clip(place - first, 0, self.chunk) + jnp.clip(place - second, 0, self.chunk)

    def mask(self, rows: Any, device: Any) -> Mask:
        """The mask of `Mask.rows` (in places of the row) for keys that this device's tokens have."""
        trunk_lo, trunk_hi, own_lo, index = (rows[:, i] for i in (TRUNK_LO, TRUNK_HI, OWN_LO, INDEX))
        held = [self.held(place, device) for place in (trunk_lo, trunk_hi, own_lo, index + 1)]
        held[3] = held[3] - 1
        return Mask("spans", jnp.stack(held, axis=1), jnp.int32(0))
