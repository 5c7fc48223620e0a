"""Airports of the world with an IATA code, from the PyPI package airportsdata (MIT licence).

A neighbourhood is a country, or for countries with many airports a subdivision of it. Left out: airports
with a name or city outside ASCII (a toy tokenizer reads them badly) or without a city, and those at an
elevation of exactly 0, which is how the source writes "unknown".
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.links import compass_links, order_links

KIND = "airports"
ATTRIBUTES = ("city", "elevation", "icao")  # what a question may ask for
_ICAO = re.compile("[A-Z]{4}")  # the source also has local identifiers in this column
BIG_COUNTRY = 60  # more airports than this: split by subdivision

Rows = Sequence[Mapping[str, Any]]


def read() -> dict[str, Rows]:
    """The usable rows of the source, by neighbourhood ("airports/NP", "airports/US/Alaska")."""
    import airportsdata

    rows = [row for _, row in sorted(airportsdata.load("IATA").items()) if _usable(row)]
    sizes = Counter(row["country"] for row in rows)
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        country = row["country"]
        big = sizes[country] > BIG_COUNTRY
        groups[f"{KIND}/{country}/{row['subd']}" if big else f"{KIND}/{country}"].append(row)
    return dict(groups)


def _usable(row: Mapping[str, Any]) -> bool:
    texts = (row["iata"], row["name"], row["city"], row["country"])
    return all(t.strip() and t.isascii() for t in texts) and float(row["elevation"]) != 0


def build(rows: Rows) -> list[Entity]:
    """Entities of one neighbourhood, with links to each other only."""
    latitudes, longitudes = [row["lat"] for row in rows], [row["lon"] for row in rows]
    elevations = [round(row["elevation"]) for row in rows]
    targets = compass_links(latitudes, longitudes) | order_links(elevations, "higher", "lower")
    return [
        Entity(
            id=row["iata"],
            kind=KIND,
            title=row["iata"],
            aliases=(" ".join(row["name"].split()),),
            facts={
                **({"icao": row["icao"]} if _ICAO.fullmatch(row["icao"]) else {}),
                "name": " ".join(row["name"].split()),
                "city": " ".join(row["city"].split()),
                "country": row["country"],
                "elevation": str(elevation),
                "latitude": f"{row['lat']:.4f}",
                "longitude": f"{row['lon']:.4f}",
                "timezone": row["tz"],
            },
            links={name: rows[to]["iata"] for name, found in targets.items() if (to := found[i]) is not None},
        )
        for i, (row, elevation) in enumerate(zip(rows, elevations, strict=True))
    ]
