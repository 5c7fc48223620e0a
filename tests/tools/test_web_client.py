"""The HTTP client against a real server on loopback: limits, errors, and nothing kept between calls."""

import asyncio
import gzip
import socket

import pytest
from aiohttp import web

from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.spec import Failure, ToolError

# What a client of the web must not reach is in test_connection.py.
pytestmark = pytest.mark.usefixtures("loopback_is_public")


def talk(handler, use, **options):
    """Serves `handler` on loopback, and runs `use(client, url)` against it."""

    async def main():
        runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        client = WebClient(**options)
        try:
            return await use(client, f"http://127.0.0.1:{runner.addresses[0][1]}")
        finally:
            await client.aclose()
            await runner.cleanup()

    return asyncio.run(main())


def test_request_and_response():
    async def handler(request):
        body = await request.text()
        seen = {k: request.headers.get(k) for k in ("X-Request-Id", "X-Other", "User-Agent", "Content-Type")}
        return web.json_response({"path": request.path_qs, "body": body, **seen}, headers={"X-Back": "é"})

    async def use(client, url):
        return await client.send(
            "POST", f"{url}/a%20b?c=%2F", "e:1.0", {"X-Other": "1"}, {"q": "ü"}, service=True
        )

    response = talk(handler, use)
    assert response.json() == {
        "path": "/a%20b?c=%2F",
        "body": '{"q":"ü"}',
        "X-Request-Id": "e:1.0",
        "X-Other": "1",
        "User-Agent": "mirothinker-jax",
        "Content-Type": "application/json",
    }
    assert response.status_code == 200
    assert "X-Back" in response.headers


def test_a_key_that_is_no_header_is_an_error_like_others():
    """As a typographic quote in it would be."""
    with pytest.raises(ToolError) as error:
        headers = {"Authorization": "Bearer “x”"}
        asyncio.run(WebClient().send("GET", "http://127.0.0.1:1", "r", headers, service=True))
    assert error.value.failure is Failure.NETWORK and "“" not in str(error.value)


def test_redirects_are_left_to_the_caller():
    async def handler(request):
        return web.Response(status=302, headers={"Location": "/next"})

    async def use(client, url):
        response = await client.send("GET", url, "r")
        return response.status_code, str(response.next_request.url) == f"{url}/next"

    assert talk(handler, use) == (302, True)


def test_endless_and_exploding_bodies_are_cut():
    async def handler(request):
        if request.path == "/bomb":
            body = gzip.compress(b"\0" * 50_000_000)
            assert len(body) < 60_000
            return web.Response(body=body, headers={"Content-Encoding": "gzip"})
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 10_000)
        except ConnectionError:
            return response

    async def use(client, url):
        return [len((await client.send("GET", f"{url}/{p}", "r")).content) for p in ("bomb", "endless")]

    assert talk(handler, use, max_body_bytes=100_000) == [100_000, 100_000]


def test_a_compressed_body_is_read():
    async def handler(request):
        assert "gzip" in request.headers["Accept-Encoding"]
        return web.Response(body=gzip.compress(b"hello"), headers={"Content-Encoding": "gzip"})

    async def use(client, url):
        return (await client.send("GET", url, "r")).text

    assert talk(handler, use) == "hello"


def test_no_cookie_is_kept():
    async def handler(request):
        return web.Response(text=request.headers.get("Cookie", "none"), headers={"Set-Cookie": "a=b; Path=/"})

    async def use(client, url):
        return [(await client.send("GET", url, "r")).text for _ in range(2)]

    assert talk(handler, use) == ["none", "none"]


def failure(handler, url_of, service=False, **options):
    async def use(client, url):
        with pytest.raises(ToolError) as caught:
            await client.send("GET", url_of(url), "r", service=service)
        return caught.value.failure, str(caught.value)

    return talk(handler, use, **options)


async def slow(request):
    await asyncio.sleep(30)
    return web.Response()


async def hang_up(request):
    request.transport.abort()
    return web.Response()


async def fine(request):
    return web.Response()


def unused():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# What is the model's choice of address is an observation; what the run brings is infrastructure.
@pytest.mark.parametrize(("service", "kind"), [(False, Failure.UNREACHABLE), (True, Failure.DEADLINE)])
def test_too_slow(service, kind):
    found, text = failure(slow, lambda url: url, service, timeout_s=0.1)
    assert found is kind and "in 0.1 s" in text


@pytest.mark.parametrize(("service", "kind"), [(False, Failure.UNREACHABLE), (True, Failure.NETWORK)])
@pytest.mark.parametrize(
    ("handler", "url_of"),
    [
        (hang_up, lambda url: url),
        (fine, lambda url: unused()),
        (fine, lambda url: "http://a-made-up-host.invalid/"),
        (fine, lambda url: url.replace("http:", "https:")),  # no certificate, no TLS
    ],
    ids=["connection lost", "refused", "unknown host", "no TLS"],
)
def test_nobody_answers(handler, url_of, service, kind):
    found, text = failure(handler, url_of, service)
    assert found is kind and text.startswith("cannot reach http")


@pytest.mark.parametrize("service", [False, True])
@pytest.mark.parametrize("url", ["http://somewhere.test/", "https://somewhere.test/"])
def test_a_proxy_that_is_down_is_infrastructure(url, service):
    found, _ = failure(fine, lambda _: url, service, proxy_url=unused())
    assert found is Failure.NETWORK


@pytest.mark.parametrize("url", ["http://[", "http://a b/", "http://x:99999999/", "http://\x00/"])
def test_not_an_address(url):
    kind, text = failure(fine, lambda _: url)
    assert kind in (Failure.TOOL_ERROR, Failure.UNREACHABLE) and text


def test_a_proxy_that_refuses_a_tunnel_is_the_callers_mistake():
    async def use(_, url):
        client = WebClient(proxy_url=url)
        try:
            with pytest.raises(ToolError) as caught:
                await client.send("GET", "https://somewhere.test/", "r")
        finally:
            await client.aclose()
        return caught.value.failure

    async def handler(request):
        return web.Response(status=404)

    assert talk(handler, use) is Failure.TOOL_ERROR


def test_a_closed_client_opens_again_but_not_on_two_loops_at_once():
    client = WebClient()

    async def handler(request):
        return web.Response(text="hello")

    async def use(_, url):
        first = (await client.send("GET", url, "r")).text
        await client.aclose()
        second = (await client.send("GET", url, "r")).text

        def elsewhere():
            return asyncio.run(client.send("GET", url, "r"))

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)
        await client.aclose()
        return first + second

    assert talk(handler, use) == "hellohello"
    assert talk(handler, use) == "hellohello"


def test_connections_are_bounded():
    running, most = 0, 0

    async def handler(request):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return web.Response()

    async def use(client, url):
        await asyncio.gather(*[client.send("GET", url, "r") for _ in range(12)])

    talk(handler, use, connections=4)
    assert most == 4
