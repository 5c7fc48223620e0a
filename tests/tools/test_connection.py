"""The client's connections: to the public web alone, by the address that was checked."""

import pytest
from aiohttp import web
from net import INSIDE, PAGE, PUBLIC

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import guard
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.spec import Failure, ToolError


def refused(error):
    return (
        isinstance(error, ToolError)
        and error.failure is Failure.TOOL_ERROR
        and "not on the public web" in str(error)
    )


# --- names ---


def test_a_public_name_is_reached(net):
    net.names["a.example.com"] = [[PUBLIC]]
    assert net.get("http://a.example.com:{port}/").text == PAGE
    assert [where for where, *_ in net.reached] == [PUBLIC]


@pytest.mark.parametrize(
    "addresses",
    [
        [INSIDE],
        [PUBLIC, INSIDE],
        [INSIDE, PUBLIC],
        ["::1"],
        [PUBLIC, "::1"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
    ],
    ids=str,
)
def test_a_name_that_leads_inside_is_refused_by_any_of_its_addresses(net, addresses):
    net.names["evil.example.com"] = [addresses]
    assert refused(net.get("http://evil.example.com:{port}/"))
    assert net.reached == []


def test_a_name_that_nobody_knows_is_unreachable(net):
    net.names["gone.example.com"] = [[]]
    assert net.get("http://gone.example.com:{port}/").failure is Failure.UNREACHABLE


def test_rebinding_the_connection_uses_the_answer_that_was_checked(net):
    """The name server says public, then inside: it is asked once, and that answer is the one connected to."""
    net.names["rebind.example.com"] = [[PUBLIC], [INSIDE]]
    assert net.get("http://rebind.example.com:{port}/").text == PAGE
    assert net.asked == ["rebind.example.com"] and [where for where, *_ in net.reached] == [PUBLIC]


def test_rebinding_between_two_requests_is_seen(net):
    net.names["rebind.example.com"] = [[PUBLIC], [INSIDE]]

    async def use(client, port):
        await client.send("GET", f"http://rebind.example.com:{port}/", "r")
        await client.aclose()  # neither the connection nor the name is remembered
        with pytest.raises(ToolError) as caught:
            await client.send("GET", f"http://rebind.example.com:{port}/", "r")
        return caught.value

    assert refused(net.run(use))
    assert [where for where, *_ in net.reached] == [PUBLIC]


def test_rebinding_in_the_resolver_is_stopped_at_the_socket(net, monkeypatch):
    """Even where the check of the name is passed, the socket's own address decides."""
    net.names["rebind.example.com"] = [[INSIDE]]
    seen = []

    def is_public(address):  # says yes the first time, when the resolver asks
        seen.append(address)
        return len(seen) == 1

    monkeypatch.setattr(guard, "is_public", is_public)
    assert refused(net.get("http://rebind.example.com:{port}/"))
    assert seen == [INSIDE, INSIDE] and net.reached == []


def test_literal_addresses_are_checked_at_the_socket_too(net, monkeypatch):
    monkeypatch.setattr("mirothinker_jax.tools.client.web_address", lambda url, refuse: url)
    assert refused(net.get("http://127.0.0.2:{port}/"))
    assert net.reached == []


def test_an_address_of_this_machine_is_refused_although_public(net, monkeypatch):
    net.names["me.example.com"] = [[PUBLIC]]
    monkeypatch.setattr(guard, "is_this_machine", lambda family, address: address[0] == PUBLIC)
    assert refused(net.get("http://me.example.com:{port}/"))
    assert net.reached == []


def test_several_addresses_of_this_machine_are_one_refusal(net, monkeypatch):
    net.names["me.example.com"] = [["127.0.0.3", "::1", "127.0.0.4"]]
    monkeypatch.setattr(guard, "is_public", lambda address: True)
    monkeypatch.setattr(guard, "is_this_machine", lambda family, address: True)
    assert refused(net.get("http://me.example.com:{port}/"))


# --- redirects ---


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:{port}/secret",
        "//127.0.0.2:{port}/secret",
        "http://2130706434:{port}/secret",
        "http://inside.example.com:{port}/secret",
        "http://[::1]:{port}/secret",
        "http://localhost:{port}/secret",
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://x@127.0.0.2:{port}/secret",
        "file:///etc/passwd",
        "gopher://127.0.0.2:{port}/_x",
        "ftp://127.0.0.2/x",
        "data:text/html,north",
        "https://huggingface.co/datasets/a/b",
        "https://huggingface。co/datasets/a/b",
    ],
)
@pytest.mark.parametrize("hops", [1, 3])
def test_redirects_that_lead_inside(net, location, hops):
    net.names |= {"a.example.com": [[PUBLIC]], "inside.example.com": [[INSIDE]]}

    def answer(request):
        port = request.transport.get_extra_info("sockname")[1]
        last = len(net.reached) == hops
        return web.Response(status=302, headers={"Location": location.format(port=port) if last else "/next"})

    net.answer = answer
    error = net.scrape("http://a.example.com:{port}/", custom_headers={"Cookie": "a=b"})
    assert isinstance(error, ToolError) and not error.failure.infrastructure
    assert [where for where, *_ in net.reached] == [PUBLIC] * hops


def test_redirects_for_ever(net):
    net.names["a.example.com"] = [[PUBLIC]]
    net.answer = lambda request: web.Response(status=307, headers={"Location": "/"})
    error = net.scrape("http://a.example.com:{port}/")
    assert error.failure is Failure.TOOL_ERROR and "more than 5 redirects" in str(error)
    assert len(net.reached) == 6


# --- headers ---


def test_the_request_id_stays_on_our_own_services(net):
    net.names["a.example.com"] = [[PUBLIC]]
    seen = []

    def answer(request):
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(text=PAGE)

    net.answer = answer
    net.get("http://a.example.com:{port}/", headers={"Cookie": "a=b"})
    assert seen[0].keys() == {"host", "user-agent", "accept", "accept-encoding", "cookie"}

    async def serve(_, port):
        service = WebClient(service_url=f"http://{INSIDE}:{port}/search")
        try:
            await service.send("POST", f"http://{INSIDE}:{port}/search", "e:0.1", service=True)
        finally:
            await service.aclose()

    net.run(serve)
    assert seen[1]["x-request-id"] == "e:0.1"


def test_the_embedded_web_is_asked_through_its_proxy_and_knows_the_call(net):
    """Its noise goes by the call's name, and its proxy is on loopback: the one way inside for an address of a model."""
    net.answer = lambda request: web.Response(
        text=f"{request.host}{request.path} {request.headers['X-Request-Id']}"
    )

    async def use(_, port):
        client = WebClient(f"http://{INSIDE}:{port}")
        try:
            page = await client.send("GET", "http://airports.test/KTM", "e:0.0")
            with pytest.raises(ToolError, match="not on the public web"):
                await client.send("GET", f"http://{INSIDE}:{port}/", "e:0.1")
        finally:
            await client.aclose()
        return page.text

    assert net.run(use) == "airports.test/KTM e:0.0"
    assert len(net.reached) == 1


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "https_proxy"])
def test_proxies_of_the_environment_are_not_used_and_said_so(net, monkeypatch, caplog, name):
    monkeypatch.setenv(name, "http://127.0.0.2:9/")
    net.names["a.example.com"] = [[PUBLIC]]
    assert net.get("http://a.example.com:{port}/").text == PAGE
    build_tools(ToolsConfig(names=("scrape_and_extract_info",)), None, "")
    assert f"{name.lower()} is set and not used" in caplog.text


# --- services of the user ---


def test_a_service_may_be_inside_and_nothing_else_is_asked_by_its_client(net):
    async def use(_, port):
        client = WebClient(service_url=f"http://{INSIDE}:{port}/search?k")
        try:
            answer = await client.send("POST", f"http://{INSIDE}:{port}/search", "r", service=True)
            for elsewhere in (f"http://{PUBLIC}:{port}/", f"http://{INSIDE}:{port + 1}/"):
                with pytest.raises(RuntimeError, match=rf"is for http://{INSIDE}"):
                    await client.send("GET", elsewhere, "r", service=True)
        finally:
            await client.aclose()
        return answer.text

    assert net.run(use) == PAGE
    assert [where for where, *_ in net.reached] == [INSIDE]


def test_calling_it_a_service_opens_nothing_to_a_client_of_the_web(net):
    assert refused(net.get("http://127.0.0.2:{port}/", service=True))
    assert net.reached == []


@pytest.mark.parametrize(
    "url", ["localhost:8080/s", "ftp://a.test/", "http://", "http:///s", "http://a b/", "http://[::1/"]
)
def test_a_search_service_without_an_address(url):
    with pytest.raises(ConfigError, match="which is no address; write it as http://host:port/path"):
        ToolsConfig(search_url=url)


def test_a_client_is_for_one_thing():
    with pytest.raises(ValueError, match="not both"):
        WebClient("http://127.0.0.1:1", service_url="http://127.0.0.1:2")
