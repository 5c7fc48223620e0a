"""The server process: proxy addressing, refusals, answers that follow from its pages, and its end."""

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from selectolax.lexbor import LexborHTMLParser

from mirothinker_jax.config import ConfigError, WorldConfig
from mirothinker_jax.tasks.rules import is_correct
from mirothinker_jax.world.questions import make_questions
from mirothinker_jax.world.server import WorldServer

KEY = {"X-API-KEY": "k"}


@pytest.fixture
def client(quiet_server):
    with httpx.Client(proxy=quiet_server.proxy_url, trust_env=False) as client:
        yield client


# The wording of world.questions: attribute, relations in order, start.
QUESTION = re.compile(r"Find the (.+): (?:go (.+) from|look up) (.+)\.")


class Walker:
    """Answers a question with nothing but requests and HTML: a program in the agent's place."""

    def __init__(self, client):
        self.client = client
        self.requests = 0

    def ask(self, method, url, **options):
        for _ in range(20):  # failing calls: another id, another chance
            self.requests += 1
            headers = {**KEY, "X-Request-Id": str(self.requests)}
            response = self.client.request(method, url, headers=headers, **options)
            if response.status_code != 503:
                return response
        raise AssertionError(f"{url} never answers")

    def page(self, url):
        response = self.ask("GET", url)
        if response.status_code == 404:
            response = self.ask("GET", "http://mirror.test/" + url.rsplit("/", 1)[1])
        assert response.status_code == 200
        return LexborHTMLParser(response.text)

    def find(self, title):
        hits = self.ask("POST", "http://search.test/search", json={"q": title}).json()["organic"]
        return next(hit["link"] for hit in hits if hit["title"] == title)

    def answer(self, text):
        wanted, relations, start = QUESTION.fullmatch(text).groups()
        page = self.page(self.find(start))
        for relation in (relations or "").split():
            links = {li.text().split(": ")[0].strip(): li.css_first("a") for li in page.css("main li")}
            page = self.page(links[relation].attributes["href"])
        facts = {row.css_first("th").text(): row.css_first("td").text() for row in page.css("main tr")}
        return facts[wanted]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_answers_follow_from_the_pages_alone(world, noisy_server, seed, split):
    questions = make_questions(world, split, range(7), 42, seed)
    with httpx.Client(proxy=noisy_server.proxy_url, trust_env=False) as client:
        walker = Walker(client)
        assert [q.id for q in questions if not is_correct(q.answer, walker.answer(q.text))] == []
    assert walker.requests > sum(q.hops + 2 for q in questions)  # dead and failing ones were met


def test_page(world, client):
    entity = next(e for e in world.entities.values() if e.kind == "airports" and len(e.links) > 4)
    response = client.get(entity.url)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    page = LexborHTMLParser(response.text)
    assert page.css_first("title").text() == page.css_first("h1").text() == entity.title
    assert [a.attributes["href"] for a in page.css("main a")] == [
        world.entities[to].url for to in entity.links.values()
    ]
    assert page.css_first("nav") and page.css_first("footer")


def test_absolute_form_outranks_the_host_header(world, quiet_server):
    entity = next(e for e in world.entities.values() if e.kind == "airports")
    with socket.create_connection(("127.0.0.1", int(quiet_server.proxy_url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(f"GET {entity.url} HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200")


def test_host_header_addressing(world, quiet_server):
    entity = next(e for e in world.entities.values() if e.kind == "airports")
    url = f"{quiet_server.proxy_url}/{entity.id}"
    answers = [
        httpx.get(url, headers={"Host": host}, trust_env=False).status_code
        for host in ("airports.test", "AIRPORTS.test:80", "countries.test", "127.0.0.1")
    ]
    assert answers == [200, 200, 404, 404]


def test_nothing_is_forwarded(client):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.3)
        response = client.get(f"http://127.0.0.1:{other.getsockname()[1]}/")
        assert response.status_code == 404
        assert "forwards nothing" in response.text
        with pytest.raises(httpx.ProxyError):
            client.get(f"https://127.0.0.1:{other.getsockname()[1]}/")
        with pytest.raises(TimeoutError):
            other.accept()


def test_listens_on_loopback_only(quiet_server):
    port = int(quiet_server.proxy_url.rsplit(":", 1)[1])
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [row.split()[1] for row in table if row.split()[3] == "0A"]
    assert f"0100007F:{port:04X}" in listening
    assert f"00000000:{port:04X}" not in listening


def test_search_over_http_refuses_too_much(client):
    assert client.post("http://search.test/search", json={"q": "x" * 70_000}, headers=KEY).status_code == 413
    assert client.post("http://search.test/search", json={"q": "x"}).status_code == 403
    assert client.post("http://search.test/search", json={"q": "airport"}, headers=KEY).json()["organic"]


def test_slow_calls_take_their_time(world, quiet, seed):
    entity = next(iter(world.entities.values()))
    settings = dataclasses.replace(quiet, slow_call=1.0, slow_s=0.4)
    with (
        WorldServer(settings, seed) as server,
        httpx.Client(proxy=server.proxy_url, trust_env=False) as client,
    ):
        start = time.monotonic()
        assert client.get(entity.url).status_code == 200
        assert time.monotonic() - start >= 0.4


def test_two_servers_of_one_seed_agree(world, noisy_server, noisy, seed):
    entities = list(world.entities.values())[:60]
    with WorldServer(noisy, seed) as other:
        answers = []
        for server in (noisy_server, other):
            with httpx.Client(proxy=server.proxy_url, trust_env=False) as client:
                answers.append(
                    [client.get(e.url, headers={"X-Request-Id": e.id}).status_code for e in entities]
                )
    assert answers[0] == answers[1]
    assert {200, 404} <= set(answers[0])


def test_stop_ends_the_process_and_start_again_works(quiet, seed):
    server = WorldServer(quiet, seed)
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.proxy_url
    server.start()
    first = server.pid
    with pytest.raises(RuntimeError, match="running already"):
        server.start()
    server.stop()
    server.stop()
    assert not Path(f"/proc/{first}").exists()
    with server:
        assert server.pid not in (None, first)


def test_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"world\.port={port}; 0 takes any free port"):
            WorldServer(WorldConfig(max_entities=50, sources=("airports",), port=port), 0).start()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_dies_with_its_parent_even_by_sigkill():
    code = (
        "import json, time\n"
        "from mirothinker_jax.config import WorldConfig\n"
        "from mirothinker_jax.world.server import WorldServer\n"
        "server = WorldServer(WorldConfig(max_entities=50, sources=('airports',)), 0)\n"
        "server.start()\n"
        "print(json.dumps(server.pid), flush=True)\n"
        "time.sleep(60)\n"
    )
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
    ) as parent:
        assert parent.stdout
        pid = json.loads(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        end = time.monotonic() + 10
        while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < end:
            if not Path(f"/proc/{pid}/cmdline").read_bytes():
                break  # a zombie that init has not collected yet
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
