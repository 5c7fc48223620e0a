"""Files on their way into a sandbox: from the task's folder and from the web, and from nowhere else."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest
from aiohttp import web
from net import INSIDE, PUBLIC
from sandboxed import isolated, session

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.sandbox import DownloadFile, UploadFile
from mirothinker_jax.tools.sandbox_pool import SandboxPool
from mirothinker_jax.tools.spec import Failure, ToolError
from mirothinker_jax.tools.workspace import Workspace


class Store:
    """A sandbox that only keeps files."""

    alive = True

    def __init__(self):
        self.kept = {}
        self.files = SimpleNamespace(write=self.write)

    async def write(self, path, data):
        self.kept[path] = data

    async def kill(self):
        pass


def transfer(make, **arguments):
    """What a tool says or raises, and the files that are in the sandbox then."""
    store = Store()

    async def create(seconds):
        return store

    async def main():
        tool = make(SandboxPool(create, 1))
        try:
            return await tool.run({"sandbox_id": "default", **arguments}, "e:0.0"), store.kept
        except ToolError as error:
            return error, store.kept
        finally:
            await tool.aclose()

    return asyncio.run(main())


def download(answer, url="http://a.test/data/table.csv", **arguments):
    client = WebClient(transport=httpx.MockTransport(answer))
    return transfer(
        lambda pool: DownloadFile(pool, ToolsConfig(file_bytes=100), client), url=url, **arguments
    )


@pytest.mark.parametrize(
    ("url", "wanted", "path"),
    [
        ("http://a.test/data/table.csv", None, "/home/user/table.csv"),
        ("http://a.test/data/table.csv?x=/y", "/tmp/", "/tmp/table.csv"),
        ("http://a.test/data/table.csv", "data", "/home/user/data/table.csv"),
        ("http://a.test/data/table.csv", "/home/user/other.csv", "/home/user/other.csv"),
        ("http://a.test/", "/home/user", "/home/user/file"),
        ("http://a.test/..%2f..%2fetc%2fpasswd", None, "/home/user/passwd"),
        ("http://a.test/a%00b", None, "/home/user/ab"),
        ("http://a.test/r/", "../../etc", "/etc/r"),  # in the sandbox, where it is read-only
    ],
)
def test_where_a_download_goes(url, wanted, path):
    more = {} if wanted is None else {"sandbox_file_path": wanted}
    said, kept = download(lambda request: httpx.Response(200, content=b"1,2"), url, **more)
    assert kept == {path: b"1,2"}
    assert said == f"downloaded to {path} (3 bytes)"


def redirect(url):
    return lambda request: httpx.Response(302, headers={"Location": url})


@pytest.mark.parametrize(
    ("url", "answer", "error"),
    [
        ("http://127.0.0.1/x", None, "not on the public web"),
        ("http://169.254.169.254/computeMetadata/v1/", None, "not on the public web"),
        ("http://metadata.google.internal/", None, "not on the public web"),
        ("file:///etc/passwd", None, "not an http or https address"),
        ("ftp://a.test/x", None, "not an http or https address"),
        ("https://huggingface.co/datasets/a/b/resolve/main/test.jsonl", None, "benchmark data"),
        ("https://web.archive.org/web/2024/https://huggingface.co/datasets/a/b", None, "benchmark data"),
        ("http://a.test/x", redirect("https://huggingface.co/datasets/a/b"), "benchmark data"),
        ("http://a.test/x", redirect("http://10.0.0.1/x"), "not on the public web"),
        ("http://a.test/x", redirect("http://a.test/x"), "redirects"),
        ("http://a.test/x", redirect("file:///etc/passwd"), "not an http or https address"),
        ("http://a.test/x", lambda request: httpx.Response(404), "HTTP 404"),
        ("http://a.test/x", lambda request: httpx.Response(200, content=bytes(101)), "larger than 100 bytes"),
    ],
    ids=[
        *("loopback", "metadata-address", "metadata-name", "file", "ftp", "leak", "leak-in-an-archive"),
        *("redirect-to-a-leak", "redirect-to-private", "redirect-for-ever", "redirect-to-a-file"),
        *("not-there", "too-large"),
    ],
)
def test_downloads_that_are_refused(url, answer, error):
    said, kept = download(answer or (lambda request: pytest.fail("was asked")), url)
    assert isinstance(said, ToolError) and error in str(said) and not kept
    assert not said.failure.infrastructure


def test_a_download_follows_no_name_inside_and_reads_no_more_than_it_may(net):
    net.names.update({"inside.example.com": [[INSIDE]], "big.example.com": [[PUBLIC]]})
    net.answer = lambda request: web.Response(body=bytes(1 << 20))

    async def use(client, port):
        async def create(seconds):
            return Store()

        tool = DownloadFile(SandboxPool(create, 1), ToolsConfig(file_bytes=1000), client)
        said = []
        for host in ("inside", "big"):
            with pytest.raises(ToolError) as error:
                url = f"http://{host}.example.com:{port}/x"
                await tool.run({"sandbox_id": "default", "url": url}, "e:0.0")
            said.append(str(error.value))
        return said

    inside, big = net.run(use, max_body_bytes=1001)
    assert "off limits" in inside and "larger than 1,000 bytes" in big
    assert [address for address, _, _ in net.reached] == [PUBLIC]


def upload(path, tmp_path, files=(), **arguments):
    workspace = Workspace()

    def make(pool):
        tool = UploadFile(pool, ToolsConfig(file_bytes=100), workspace)
        run = tool.run

        async def after_begin(arguments, request_id):
            await tool.begin("e", files)
            return await run(arguments, request_id)

        tool.run = after_begin
        return tool

    return transfer(make, local_file_path=path, **arguments)


def test_uploads(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"1,2")
    (tmp_path / "big").write_bytes(bytes(101))
    files = [str(tmp_path / "table.csv"), str(tmp_path / "big")]
    said, kept = upload("table.csv", tmp_path, files)
    assert (said, kept) == ("uploaded to /home/user/table.csv (3 bytes)", {"/home/user/table.csv": b"1,2"})
    for path in (
        files[0],
        "/etc/passwd",
        "../table.csv",
        "file:///etc/passwd",
        "table.csv/../../x",
        "a\0b",
        "",
        "big",
    ):
        said, kept = upload(path, tmp_path, files)
        assert isinstance(said, ToolError) and said.failure is Failure.TOOL_ERROR and not kept, path


@isolated
def test_both_in_a_real_sandbox(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_bytes(b"1,2")
    answer = httpx.MockTransport(lambda request: httpx.Response(200, content=b"3,4"))

    async def body(call):
        call.tools["download_file_from_internet_to_sandbox"]._client = WebClient(transport=answer)
        await call.tools["upload_file_from_local_to_sandbox"].begin("e", [str(tmp_path / "table.csv")])
        return [
            (await call(arguments, tool)).text
            for tool, arguments in (
                ("upload_file_from_local_to_sandbox", {"local_file_path": "table.csv"}),
                (
                    "download_file_from_internet_to_sandbox",
                    {"url": "http://a.test/b.csv", "sandbox_file_path": "new"},
                ),
                ("run_command", {"command": "cat table.csv new/b.csv"}),
                (
                    "upload_file_from_local_to_sandbox",
                    {"local_file_path": "table.csv", "sandbox_file_path": "/etc/a.csv"},
                ),
            )
        ]

    assert session(body, proxy_url="http://127.0.0.1:9") == [
        "uploaded to /home/user/table.csv (3 bytes)",
        "downloaded to /home/user/new/b.csv (3 bytes)",
        "1,23,4",
        "cannot write /etc/a.csv: Read-only file system",
    ]
