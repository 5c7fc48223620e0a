"""What the embedded web answers, without sockets: Serper's shape, mirrors, and what is misleading."""

import dataclasses
import json
import math

import pytest
from multidict import CIMultiDict

from mirothinker_jax.config import WorldConfig
from mirothinker_jax.world.search import SearchIndex
from mirothinker_jax.world.site import Site

KEY = {"X-API-KEY": "k"}


def search(site, body, headers=KEY, request_id="", method="POST"):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = CIMultiDict({**headers, "X-Request-Id": request_id})
    return site.answer(method, "search.test", "/search", headers, raw)


def get(site, host, path, request_id=""):
    return site.answer("GET", host, path, {"X-Request-Id": request_id})


@pytest.fixture(scope="module")
def site(world, quiet):
    return Site(world, quiet, seed=0)


@pytest.fixture(scope="module")
def airport(world):
    return next(e for e in world.entities.values() if e.kind == "airports")


def test_serper_shape(site, airport):
    reply = search(site, {"q": airport.title, "gl": "us", "hl": "en", "num": 5, "page": 1})
    assert (reply.status, reply.content_type) == (200, "application/json; charset=utf-8")
    answer = json.loads(reply.body)
    parameters = answer["searchParameters"]
    assert parameters == {
        "q": airport.title,
        "type": "search",
        "num": 5,
        "page": 1,
        "engine": "google",
        "gl": "us",
        "hl": "en",
    }
    assert 1 <= len(answer["organic"]) <= 5
    assert [set(hit) for hit in answer["organic"]] == [{"title", "link", "snippet", "position"}] * len(
        answer["organic"]
    )
    assert [hit["position"] for hit in answer["organic"]] == list(range(1, len(answer["organic"]) + 1))
    assert answer["organic"][0]["link"] == airport.url


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/..\\..\\windows\\win.ini",
        "//etc/passwd",
        "/KTM/../../etc/passwd",
        "/KTM\0.html",
        "/{{7*7}}",
        "/__class__",
        "",
        "/",
    ],
)
def test_paths_are_names_of_pages_and_not_of_files(site, path):
    assert get(site, "airports.test", path).status == 404


@pytest.mark.parametrize("headers", [{}, {"X-API-KEY": ""}, {"X-API-KEY": "  "}])
def test_search_without_a_key(site, headers):
    reply = search(site, {"q": "x"}, headers)
    assert reply.status == 403
    assert json.loads(reply.body)["message"] == "Unauthorized."


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"3", {}, {"q": ""}, {"q": 3}, {"q": "x", "num": 0}, {"q": "x", "num": "many"}]
)
def test_bad_searches(site, body):
    assert search(site, body).status == 400


def test_search_is_post_only(site):
    assert search(site, {"q": "x"}, method="GET").status == 405


def test_second_page_goes_on_where_the_first_ends(site):
    links = [
        [h["link"] for h in json.loads(search(site, {"q": "airport", "num": 4, "page": p}).body)["organic"]]
        for p in (1, 2)
    ]
    both = json.loads(search(site, {"q": "airport", "num": 8}).body)["organic"]
    assert links[0] + links[1] == [h["link"] for h in both]
    assert len(both) == 8


def test_hosts_and_paths(site, airport):
    assert get(site, "airports.test", f"/{airport.id}").status == 200
    assert (
        get(site, "mirror.test", f"/{airport.id}").body == get(site, "airports.test", f"/{airport.id}").body
    )
    assert get(site, "countries.test", f"/{airport.id}").status == 404
    assert get(site, "airports.test", "/").status == 404
    assert get(site, "airports.test", "/../etc/passwd").status == 404
    assert get(site, "example.com", f"/{airport.id}").status == 404
    assert get(site, "", f"/{airport.id}").status == 404
    assert get(site, "search.test", "/").status == 404
    assert site.answer("POST", "airports.test", f"/{airport.id}", {}).status == 405


def test_dead_links_and_their_mirrors(world):
    site = Site(world, WorldConfig(wrong_first_hit=0, dead_link=0.2, failing_call=0, slow_call=0), seed=4)
    dead = 0
    for entity in world.entities.values():
        status = get(site, f"{entity.kind}.test", f"/{entity.id}").status
        assert get(site, "mirror.test", f"/{entity.id}").status == 200
        found = [h["link"] for h in json.loads(search(site, {"q": entity.title}).body)["organic"]]
        assert found[0] == entity.url
        assert (found[1:2] == [entity.mirror_url]) == (status == 404)
        dead += status == 404
    n = len(world.entities)
    assert abs(dead - 0.2 * n) < 5 * math.sqrt(0.16 * n)


def test_misleading_results_show_a_neighbour_first(world, airport):
    site = Site(world, WorldConfig(wrong_first_hit=0.25, dead_link=0, failing_call=0, slow_call=0), seed=0)
    wrong = 0
    for i in range(400):
        hits = json.loads(search(site, {"q": airport.title}, request_id=f"r{i}").body)["organic"]
        first, second = hits[0]["title"], hits[1]["title"] if len(hits) > 1 else None
        if first != airport.title:
            wrong += 1
            assert second == airport.title
            assert world.neighbourhood[first] == world.neighbourhood[airport.id]
    assert abs(wrong - 100) < 5 * math.sqrt(75)


def test_failing_calls_answer_503_and_retries_can_succeed(world, airport):
    site = Site(world, WorldConfig(wrong_first_hit=0, dead_link=0, failing_call=0.5, slow_call=0), seed=0)
    statuses = [get(site, "airports.test", f"/{airport.id}", f"r{i}").status for i in range(100)]
    assert set(statuses) == {200, 503}
    assert statuses == [get(site, "airports.test", f"/{airport.id}", f"r{i}").status for i in range(100)]
    assert {search(site, {"q": "x"}, request_id=str(i)).status for i in range(50)} == {200, 503}


def test_slow_calls_say_how_long(world, airport):
    settings = WorldConfig(wrong_first_hit=0, dead_link=0, failing_call=0, slow_call=1.0, slow_s=1.5)
    reply = get(Site(world, settings, seed=0), "airports.test", f"/{airport.id}")
    assert (reply.status, reply.delay_s) == (200, 1.5)


def test_exact_titles_rank_first(world):
    index = SearchIndex(world)
    for entity in list(world.entities.values())[::7]:
        for text in (entity.title, entity.title.lower(), f' "{entity.title}" '):
            assert index.query(text, 3)[0].id == entity.id


def test_search_by_name_and_place(world):
    index = SearchIndex(world)
    entity = next(e for e in world.entities.values() if e.id == "DXB" or e.kind == "airports")
    assert entity.id in [h.id for h in index.query(f"{entity.facts['name']} {entity.facts['city']}", 10)]
    assert len(index.query("airport", 3)) == 3


@pytest.mark.parametrize("text", ["", " ", "zzzzqqqq", "((", 'a:b AND "', "title:[* TO *]", "\x00", "\\"])
def test_search_never_breaks(world, text):
    assert isinstance(SearchIndex(world).query(text, 5), list)


def test_what_stands_before_the_slash_of_a_request_id_decides_nothing(world, quiet, airport):
    site = Site(world, dataclasses.replace(quiet, failing_call=0.5), seed=0)
    statuses = [
        [get(site, "airports.test", f"/{airport.id}", f"{label}e{i}:1.0").status for i in range(50)]
        for label in ("", "sft-4/", "grpo-32/")
    ]
    assert statuses[0] == statuses[1] == statuses[2] and set(statuses[0]) == {200, 503}
