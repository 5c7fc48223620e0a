"""Which block sizes the kernels use: the best on a v5p by `benchmarks/kernel_cycles.py --sweep`, on any chip so far."""

from __future__ import annotations

from .strips import Blocks

# Largest sizes; `fitted` shrinks them to a row. What a pass holds in fast memory stays under VMEM_BYTES: a kernel that
# reserves more leaves the compiler no room for the arrays that it wants to keep there.
FORWARD = Blocks(queries=1024, tile=128, strip=1024, segment=8192)
FORWARD_FULL = Blocks(queries=1024, tile=128, strip=4096, segment=8192)  # every key seen: nothing to skip
BACKWARD = Blocks(queries=2048, tile=128, strip=1024, segment=4096)
VMEM_BYTES = 32 << 20
LANES = 128


def forward_blocks(kind: str) -> Blocks:
    """The largest sizes for a mask of this kind."""
    return FORWARD_FULL if kind == "full" else FORWARD


def fitted(blocks: Blocks, queries: int, keys: int, item_bytes: int = 2) -> Blocks:
    """These sizes, shrunk where there are fewer queries or keys, so that padding stays below a block or a strip.

    A quarter of them for float32 operands (`item_bytes` 4): each of their products is six, and all parts of a pass are
    held at once.

    >>> fitted(FORWARD, 300, 9000)
    Blocks(queries=512, tile=128, strip=1024, segment=5120)
    """
    if item_bytes == 4:
        quarter = lambda size: min(size, max(LANES, size // 4))  # noqa: E731
        blocks = Blocks(quarter(blocks.queries), quarter(blocks.tile), quarter(blocks.strip), blocks.segment)
    strip = min(blocks.strip, _power(keys))
    segments = -(-keys // blocks.segment)
    segment = -(-keys // (segments * strip)) * strip
    return Blocks(min(blocks.queries, _power(queries)), min(blocks.tile, strip), strip, segment)


def _power(length: int) -> int:
    """The smallest power of two that holds it, and a row of lanes."""
    return max(LANES, 1 << (length - 1).bit_length())
