"""Relations between places, computed from real coordinates and numbers. Ties give no link.

Every function takes the places of ONE neighbourhood and returns, per place, the index of the place that
the relation leads to, or None. A tie is rejected, not broken: a question about it would have two right
answers. Distances are great-circle distances on a sphere, good to about 0.5%.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EARTH_RADIUS_KM = 6371.0
TIE_KM = 0.1  # two candidates whose distances differ by less are a tie

Targets = dict[str, list[int | None]]


def compass_links(latitudes: Sequence[float], longitudes: Sequence[float]) -> Targets:
    """north, south, east, west: the nearest place within 45° of that bearing; and nearest, farthest.

    Args:
      latitudes, longitudes: degrees, one per place.
    """
    lat, lon = np.radians(np.asarray(latitudes, float)), np.radians(np.asarray(longitudes, float))
    # Unit vectors: of the place, and of north and east in its tangent plane.
    place = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    north = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)], axis=1)
    east = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)], axis=1)
    chord = np.linalg.norm(place[:, None] - place[None], axis=2)
    km = 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(chord / 2, 0, 1))
    northward, eastward = north @ place.T, east @ place.T  # [from, to]
    vertical = np.abs(northward) >= np.abs(eastward)
    others = ~np.eye(len(lat), dtype=bool)
    masks = {
        "north": vertical & (northward > 0) & others,
        "south": vertical & (northward < 0) & others,
        "east": ~vertical & (eastward > 0) & others,
        "west": ~vertical & (eastward < 0) & others,
        "nearest": others,
    }
    links: Targets = {name: _smallest(km, mask) for name, mask in masks.items()}
    links["farthest"] = _smallest(-km, others)
    return links


def _smallest(values: np.ndarray, mask: np.ndarray) -> list[int | None]:
    """Per row, the column with the smallest value under the mask; None where it is not alone."""
    found: list[int | None] = []
    for row, allowed in zip(values, mask, strict=True):
        columns = np.flatnonzero(allowed)
        if not len(columns):
            found.append(None)
            continue
        order = columns[np.argsort(row[columns], kind="stable")]
        tie = len(order) > 1 and row[order[1]] - row[order[0]] < TIE_KM
        found.append(None if tie else int(order[0]))
    return found


def order_links(values: Sequence[float], up: str, down: str) -> Targets:
    """`up`: the place with the next larger value; `down`: with the next smaller one."""
    places: dict[float, list[int]] = {}
    for index, value in enumerate(values):
        places.setdefault(value, []).append(index)
    ladder = sorted(places)
    rung = {value: i for i, value in enumerate(ladder)}

    def at(i: int) -> int | None:
        if not 0 <= i < len(ladder):
            return None
        candidates = places[ladder[i]]
        return candidates[0] if len(candidates) == 1 else None

    return {up: [at(rung[v] + 1) for v in values], down: [at(rung[v] - 1) for v in values]}
