"""What servers send to fill memory, time or the model's context: bombs, streams without an end, floods of headers."""

import asyncio
import gzip
import zlib

import pytest
from aiohttp import web
from net import PUBLIC

from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.spec import Failure, ToolError

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


@pytest.mark.parametrize(
    ("encoding", "part", "found"),
    [("identity", b"x" * 10_000, b"x" * LIMIT), ("gzip", gzip.compress(b"") * 500, b"")],
    ids=["of text", "that expands to nothing"],
)
def test_an_endless_body_is_cut(net, encoding, part, found):
    net.names["a.example.com"] = [[PUBLIC]]

    async def endless(request):
        response = web.StreamResponse(headers={"Content-Encoding": encoding})
        await response.prepare(request)
        try:
            while True:
                await response.write(part)
        except ConnectionError:
            return response

    net.answer = endless
    assert net.get("http://a.example.com:{port}/", max_body_bytes=LIMIT, timeout_s=5.0).content == found


@pytest.mark.parametrize(
    ("mark", "limit"), [(b"%PDF-", 3 * LIMIT), (b"PK\x03\x04", 3 * LIMIT), (b"%PDX-", LIMIT)]
)
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_a_file_has_a_limit_of_its_own(net, mark, limit, encoding):
    net.names["a.example.com"] = [[PUBLIC]]
    whole = mark + bytes(4 * LIMIT)
    sent = gzip.compress(whole) if encoding == "gzip" else whole

    async def in_pieces(request):
        response = web.StreamResponse(headers={"Content-Encoding": encoding})
        await response.prepare(request)
        for piece in (sent[:2], sent[2:]):
            await response.write(piece)
        return response

    net.answer = in_pieces
    response = net.get("http://a.example.com:{port}/", max_body_bytes=LIMIT, max_file_bytes=3 * LIMIT)
    assert response.content == whole[:limit]


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
