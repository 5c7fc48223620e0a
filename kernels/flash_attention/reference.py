"""Which keys a query sees, in one line of the definition: what every kernel's mask is tested against."""

import jax


def visible(trunk_lo, trunk_hi, own_lo, query_index, key_index) -> jax.Array:
    """Bool [B, T, S]: may the query see the key? Keys of a query: [trunk_lo, trunk_hi) and [own_lo, own index].

    trunk_lo, trunk_hi, own_lo: int32 [B, T]; query_index int32 [T] and key_index int32 [S]: places in the row.
    """
    key = key_index[None, None, :]
    trunk = (trunk_lo[..., None] <= key) & (key < trunk_hi[..., None])
    return trunk | ((own_lo[..., None] <= key) & (key <= query_index[None, :, None]))
