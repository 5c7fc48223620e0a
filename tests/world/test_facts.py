"""Entities, their relations, and the split that no link crosses."""

import math

import pytest

from mirothinker_jax.config import ConfigError, WorldConfig
from mirothinker_jax.world import airports, countries
from mirothinker_jax.world.facts import load_world
from mirothinker_jax.world.links import compass_links, order_links


@pytest.fixture(scope="module")
def whole():
    return load_world(WorldConfig(), seed=0)


def test_whole_world_has_thousands_of_entities_with_links(whole):
    kinds = [e.kind for e in whole.entities.values()]
    assert kinds.count("airports") > 5000
    assert kinds.count("countries") > 180
    assert sum(len(e.links) for e in whole.entities.values()) / len(kinds) > 6


def test_known_facts(whole):
    ktm = whole.entities["KTM"]
    assert (ktm.facts["city"], ktm.facts["elevation"], ktm.facts["country"]) == ("Kathmandu", "4390", "NP")
    nepal = whole.entities["nepal"]
    assert (nepal.facts["capital"], nepal.facts["internet code"]) == ("Kathmandu", ".np")
    assert nepal.links["longest-border"] == "india"
    assert "shortest-border" not in nepal.links  # China is filed under another region
    assert (ktm.url, nepal.mirror_url) == ("http://airports.test/KTM", "http://mirror.test/nepal")


def test_everything_a_page_shows_is_plain(whole):
    for entity in whole.entities.values():
        texts = [entity.id, entity.title, *entity.facts.values()]
        assert all(t and t.isascii() and t == " ".join(t.split()) for t in texts), entity


@pytest.mark.parametrize("seed", [0, 1])
def test_links_stay_in_their_neighbourhood_and_split(seed):
    world = load_world(WorldConfig(), seed)
    for entity in world.entities.values():
        assert entity.id not in entity.links.values()
        for to in entity.links.values():
            assert world.neighbourhood[to] == world.neighbourhood[entity.id]
            assert world.split_of(to) == world.split_of(entity.id)


def test_splits_are_disjoint_and_of_the_size_asked_for(whole):
    train, heldout = whole.of_split("train"), whole.of_split("heldout")
    assert not {e.id for e in train} & {e.id for e in heldout}
    assert len(train) + len(heldout) == len(whole.entities)
    for kind in ("airports", "countries"):
        share = sum(e.kind == kind for e in heldout) / sum(e.kind == kind for e in whole.entities.values())
        assert abs(share - 0.3) < 0.1


@pytest.mark.parametrize(("fraction", "empty"), [(0.0, "heldout"), (1.0, "train")])
def test_extreme_fractions(fraction, empty):
    world = load_world(WorldConfig(sources=("countries",), heldout_fraction=fraction), seed=0)
    assert world.of_split(empty) == []


def test_same_seed_same_world_other_seed_other_split():
    settings = WorldConfig(sources=("airports",), max_entities=300)
    first, again, other = (load_world(settings, seed) for seed in (5, 5, 6))
    assert first == again
    assert list(first.entities) == list(again.entities)
    assert first.split != other.split


def test_max_entities_keeps_whole_neighbourhoods(whole):
    world = load_world(WorldConfig(max_entities=300), seed=0)
    assert 200 < len(world.entities) <= 300
    for name in world.split:
        kept = {i for i, n in world.neighbourhood.items() if n == name}
        assert kept == {i for i, n in whole.neighbourhood.items() if n == name}
    assert all(world.entities[i] == whole.entities[i] for i in world.entities)


def test_max_entities_too_small():
    with pytest.raises(ConfigError, match=r"world\.max_entities is 2; the smallest neighbourhood has"):
        load_world(WorldConfig(max_entities=2), seed=0)


def _bearing_and_km(a, b):
    """By the textbook formulas, which links.py does not use."""
    lat1, lon1, lat2, lon2 = map(math.radians, (*a, *b))
    d = lon2 - lon1
    bearing = math.degrees(
        math.atan2(
            math.sin(d) * math.cos(lat2),
            math.cos(lat1) * math.sin(lat2) - math.sin(lat1) * math.cos(lat2) * math.cos(d),
        )
    )
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin(d / 2) ** 2
    return bearing % 360, 2 * 6371.0 * math.asin(math.sqrt(half))


def test_compass_against_the_textbook(whole):
    quadrants = {"north": 0, "east": 90, "south": 180, "west": 270}
    checked = 0
    for name in [n for n in whole.split if n.startswith("airports/")][::12]:
        places = {
            i: (float(e.facts["latitude"]), float(e.facts["longitude"]))
            for i, e in whole.entities.items()
            if whole.neighbourhood[i] == name
        }
        for start, here in places.items():
            to = {i: _bearing_and_km(here, there) for i, there in places.items() if i != start}
            links = whole.entities[start].links
            for relation, centre in quadrants.items():
                inside = {i: km for i, (b, km) in to.items() if abs((b - centre + 180) % 360 - 180) < 44.9}
                if relation in links and inside:
                    bearing, km = to[links[relation]]
                    assert abs((bearing - centre + 180) % 360 - 180) < 45.1
                    assert km <= min(inside.values()) + 0.05
                    checked += 1
            if "nearest" in links:
                assert to[links["nearest"]][1] <= min(km for _, km in to.values()) + 0.05
            if "farthest" in links:
                assert to[links["farthest"]][1] >= max(km for _, km in to.values()) - 0.05
    assert checked > 500


def test_compass_ties_are_rejected():
    links = compass_links([0, 0, 0, 3], [0, 1, -1, 0])
    assert links["nearest"][0] is None  # one degree east and one degree west
    assert (links["east"][0], links["west"][0], links["north"][0]) == (1, 2, 3)
    assert links["south"][0] is None
    assert links["farthest"][0] == 3


def test_order_ties_are_rejected():
    assert order_links([10, 20, 20, 30, 5], "up", "down") == {
        "up": [None, 3, 3, None, 0],
        "down": [4, 0, 0, None, None],
    }


def test_higher_is_the_next_higher_elevation(whole):
    for entity in [e for e in whole.entities.values() if e.kind == "airports"][::50]:
        home = whole.neighbourhood[entity.id]
        height = int(entity.facts["elevation"])
        around = [
            int(e.facts["elevation"]) for e in whole.entities.values() if whole.neighbourhood[e.id] == home
        ]
        above = min((h for h in around if h > height), default=None)
        if above is None or around.count(above) > 1:
            assert "higher" not in entity.links
        else:
            assert int(whole.entities[entity.links["higher"]].facts["elevation"]) == above


def test_borders():
    assert countries._borders("China 1,389 km; India 1,770 km") == {"China": 1389.0, "India": 1770.0}
    assert countries._borders("Canada 8,891 km (including 2,475 km with Alaska); Mexico 3,111 km") == {
        "Canada": 8891.0,
        "Mexico": 3111.0,
    }
    assert countries._borders("something else") is None
    rows = [
        {"title": t, "long": "", "borders": b}
        for t, b in (("A", {"B": 3.0, "C": 1.0}), ("B", {}), ("C", None))
    ]
    assert countries._border_links(rows) == {
        "longest-border": [1, None, None],
        "shortest-border": [2, None, None],
    }
    rows[0]["borders"] = {"B": 2.0, "C": 2.0}
    assert countries._border_links(rows)["longest-border"][0] is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Amsterdam; note - The Hague is the seat of government", "Amsterdam"),
        ("La Paz (administrative capital); Sucre (constitutional capital)", ""),
        ("Kyiv (Kiev is the transliteration from Russian)", "Kyiv"),
        ("none", ""),
    ],
)
def test_capitals(text, name):
    assert countries._capital(text) == name


def test_airports_without_city_or_elevation_are_left_out():
    row = {"iata": "ABC", "name": "A", "city": "B", "country": "XX", "elevation": 1.0}
    assert airports._usable(row)
    for change in ({"city": ""}, {"elevation": 0.0}, {"name": "São"}):
        assert not airports._usable(row | change)
