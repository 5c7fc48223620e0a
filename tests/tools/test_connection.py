"""The client's connections: to the public web alone, by the address that was checked, with limits on what comes back.

Servers and name servers are of this process; what the guard takes for public is changed where one must be reached.
"""

import asyncio
import gzip
import socket
import zlib

import pytest
from aiohttp import web

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools import guard
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.spec import Failure, ToolError

PUBLIC, INSIDE = "127.0.0.1", "127.0.0.2"  # as these tests have it
PAGE = "<title>T</title><p>north of here</p>"


class Net:
    """Two servers on one port, one of them public, and the answers of a name server."""

    def __init__(self, monkeypatch):
        self.names, self.asked, self.reached, self.answer = {}, [], [], None
        monkeypatch.setattr(guard, "is_public", lambda address: address == PUBLIC)
        monkeypatch.setattr(guard, "is_this_machine", lambda family, address: False)
        real = socket.getaddrinfo

        def getaddrinfo(host, port, *args, **kwargs):
            if host not in self.names:
                return real(host, port, *args, **kwargs)
            self.asked.append(host)
            answers = self.names[host]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "unknown")
            return [
                (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
                if ":" in a
                else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
                for a in found
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def run(self, use, **options):
        """`use(client, port)` while the servers answer."""

        async def handle(request):
            self.reached.append((request.transport.get_extra_info("sockname")[0], request.host, request.path))
            response = self.answer(request) if self.answer else web.Response(text=PAGE)
            return response if isinstance(response, web.StreamResponse) else await response

        async def main():
            runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, PUBLIC, 0).start()
            port = runner.addresses[0][1]
            await web.TCPSite(runner, INSIDE, port).start()
            client = WebClient(**options)
            try:
                return await use(client, port)
            finally:
                await client.aclose()
                await runner.cleanup()

        return asyncio.run(main())

    def get(self, url, method="GET", headers=None, service=False, **options):
        """The response to one request, or the ToolError."""

        async def use(client, port):
            try:
                return await client.send(method, url.format(port=port), "e:0.0", headers, service=service)
            except ToolError as error:
                return error

        return self.run(use, **options)

    def scrape(self, url, **arguments):
        async def use(client, port):
            tool = ScrapePage(client, ToolsConfig())
            arguments["url"], arguments["info_to_extract"] = url.format(port=port), "north"
            try:
                return await tool.run(arguments, "e:0.0")
            except ToolError as error:
                return error

        return self.run(use)


@pytest.fixture
def net(monkeypatch):
    return Net(monkeypatch)


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
    monkeypatch.setattr("mirothinker_jax.tools.client.web_address", lambda url: url)
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
                with pytest.raises(RuntimeError, match="is for http://127.0.0.2"):
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


# --- bodies ---

LIMIT = 100_000
ZEROS = gzip.compress(bytes(20_000_000))
BODIES = {  # (Content-Encoding, bytes) → what the model's tool gets, or why it gets nothing
    "gzip": ("gzip", gzip.compress(b"hello"), b"hello"),
    "x-gzip": ("X-GZIP", gzip.compress(b"hello"), b"hello"),
    "deflate": ("deflate", zlib.compress(b"hello"), b"hello"),
    "bare deflate": ("deflate", zlib.compress(b"hello")[2:-4], b"hello"),
    "two members": ("gzip", gzip.compress(b"hel") + gzip.compress(b"lo"), b"hello"),
    "bytes after the end": ("gzip", gzip.compress(b"hello") + b"junk", b"hello"),
    "cut short": ("gzip", gzip.compress(b"hello" * 9)[:-8], b"hello" * 9),
    "empty": ("gzip", b"", b""),
    "identity": ("identity", b"hello", b"hello"),
    "gzip bomb": ("gzip", ZEROS, bytes(LIMIT)),
    "deflate bomb": ("deflate", zlib.compress(bytes(20_000_000)), bytes(LIMIT)),
    "bomb of members": ("gzip", gzip.compress(bytes(1_000)) * 1_000, bytes(LIMIT)),
    "members of nothing": ("gzip", gzip.compress(b"") * 20_000, b""),
    "bomb in a bomb": ("gzip, gzip", gzip.compress(ZEROS), "was not asked for"),
    "brotli": ("br", b"\x0b\x02\x80hello\x03", "was not asked for"),
    "zstd": ("zstd", b"\x28\xb5\x2f\xfd", "was not asked for"),
    "made up": ("x" * 5_000, b"hello", "was not asked for"),
    "no gzip": ("gzip", b"hello", "damaged"),
    "damaged": ("gzip", gzip.compress(b"hello", mtime=0)[:-8] + bytes(8), "damaged"),
}


@pytest.mark.parametrize(("encoding", "sent", "found"), BODIES.values(), ids=BODIES)
def test_compressed_bodies(net, encoding, sent, found):
    net.names["a.example.com"] = [[PUBLIC]]
    net.answer = lambda request: web.Response(body=sent, headers={"Content-Encoding": encoding})
    response = net.get("http://a.example.com:{port}/", max_body_bytes=LIMIT)
    if isinstance(found, bytes):
        assert response.content == found
    else:
        assert response.failure is Failure.UNREACHABLE and found in str(response) and len(str(response)) < 300


async def endless(request):
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 10_000)
    except ConnectionError:
        return response


def test_an_endless_body_is_cut(net):
    net.names["a.example.com"] = [[PUBLIC]]
    net.answer = endless
    assert net.get("http://a.example.com:{port}/", max_body_bytes=LIMIT).content == b"x" * LIMIT


# --- servers that do not speak HTTP as one should ---

HEAD = b"HTTP/1.1 200 OK\r\n"
SPEECH = {
    "many headers": HEAD + b"".join(b"X-%d: y\r\n" % i for i in range(1_000)) + b"\r\n",
    "a long header": HEAD + b"X: " + b"y" * 300_000 + b"\r\n\r\n",
    "a long status": b"HTTP/1.1 200 " + b"O" * 300_000 + b"\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "nothing": b"",
    "null bytes": bytes(1_000),
    "a null byte in a header": HEAD + b"X: a\0b\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 9\r\n\r\nx",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\nx",
    "a bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a body cut short": HEAD + b"Content-Length: 9\r\n\r\nx",
}
DRIP = {  # said once, then again and again
    "silence": (b"", b""),
    "headers, one by one": (HEAD, b"X: y\r\n"),
    "a header, byte by byte": (HEAD + b"X: ", b"y"),
    "a body, byte by byte": (HEAD + b"Content-Type: text/html\r\n\r\n", b"x"),
    "informational answers": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


def speak(net, first, again=None, **options):
    """The ToolError of a request to a server that says these bytes, whatever it is asked."""
    net.names["a.example.com"] = [[PUBLIC]]

    async def talk(reader, writer):
        writer.write(first)
        try:
            while again is not None:
                writer.write(again)
                await writer.drain()
                await asyncio.sleep(0.001)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def main():
        server = await asyncio.start_server(talk, PUBLIC, 0)
        client = WebClient(**options)
        url = f"http://a.example.com:{server.sockets[0].getsockname()[1]}/"
        try:
            return await client.send("GET", url, "r")
        except ToolError as error:
            return error
        finally:
            await client.aclose()
            server.close()

    return asyncio.run(main())


@pytest.mark.parametrize("said", SPEECH.values(), ids=SPEECH)
def test_what_is_no_answer_is_the_pages_fault(net, said):
    error = speak(net, said)
    assert isinstance(error, ToolError) and error.failure is Failure.UNREACHABLE, error


@pytest.mark.parametrize(("first", "again"), DRIP.values(), ids=DRIP)
def test_a_server_that_never_ends_has_a_deadline(net, first, again):
    error = speak(net, first, again, timeout_s=0.1)
    assert isinstance(error, ToolError) and error.failure is Failure.UNREACHABLE, error
