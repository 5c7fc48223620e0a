"""Which block sizes the kernels use: blocks.json, per chip, from `benchmarks/kernel_cycles.py --sweep`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from ..pallas import little_memory, wide_units
from .strips import Blocks

LANES = 128
TABLE = {
    chip: {way: Blocks(**sizes) for way, sizes in ways.items()}
    for chip, ways in json.loads(Path(__file__).with_name("blocks.json").read_text()).items()
}


def largest(way: str) -> Blocks:
    """The largest sizes for "forward" or "backward", on the chip that is compiled for: a v6e's where the matrix units
    are 256 wide, a v4's where there is little fast memory, a v5p's on all others."""
    return TABLE["v6e" if wide_units() else "v4" if little_memory() else "v5p"][way]


def fit_blocks(blocks: Blocks, queries: int, keys: int, item_bytes: int = 2, exact: bool = False) -> Blocks:
    """These sizes, shrunk where there are fewer queries or keys, so that padding stays below a block or a strip.

    A quarter of them for float32 operands (`item_bytes` 4): each of their products is six, and all parts of a pass are
    held at once. exact: a segment is whole stretches, for a mask under which every query sees all keys.

    >>> fit_blocks(TABLE["v5p"]["forward"], 300, 9000)
    Blocks(queries=512, chunk=256, tile=128, strip=1024, stretch=4096, segment=5120, ahead=5)
    """
    share = 4 if item_bytes == 4 else 1
    part = lambda size: min(size, max(LANES, size // share))  # noqa: E731
    rows = min(part(blocks.queries), _power(queries))
    strip = min(part(blocks.strip), _power(keys))
    segments = -(-keys // blocks.segment)
    segment = -(-keys // (segments * strip)) * strip
    reach = min(max(part(blocks.stretch) // strip, 1), segment // strip)
    reach = 1 << (reach.bit_length() - 1)
    if exact:
        reach = math.gcd(reach, segment // strip)
    chunk, tile = min(blocks.chunk, rows), min(part(blocks.tile), strip)
    ahead = min(blocks.ahead, strip // tile * (rows // chunk))
    return Blocks(rows, chunk, tile, strip, reach * strip, segment, ahead)


def _power(length: int) -> int:
    """The smallest power of two that holds it, and a row of lanes."""
    return max(LANES, 1 << (length - 1).bit_length())
