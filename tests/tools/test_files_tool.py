"""The files tools: what a model finds in its task's folder, and that no path leads out of it."""

import asyncio
import os

import pytest
from document_files import docx_file, pdf, xlsx_file

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.config_episodes import FILES_TOOLS
from mirothinker_jax.tools import workspace as workspace_module
from mirothinker_jax.tools.build import build_tools
from mirothinker_jax.tools.executor import ToolExecutor
from mirothinker_jax.tools.spec import Failure, ToolCall
from mirothinker_jax.tools.workspace import PathRefused, Workspace


def use(*calls, files=(), **settings):
    """The results of calls (tool, arguments) in an episode with those files."""

    async def main():
        config = ToolsConfig(names=FILES_TOOLS, **settings)
        tools = build_tools(config, "http://127.0.0.1:9", "")
        async with ToolExecutor(tools, config, lambda text, tokens: (text, False)) as executor:
            for tool in tools:
                await tool.begin("e", files)
            return [await executor.execute(ToolCall("", name, given), "e:0.0") for name, given in calls]

    return asyncio.run(main())


def saved(folder, **files):
    paths = []
    for name, data in files.items():
        path = folder / name.replace("_", ".")
        path.write_bytes(data)
        paths.append(str(path))
    return paths


def test_documents(tmp_path):
    files = saved(
        tmp_path,
        a_pdf=pdf(["A tower", "330 m"], title="Towers"),
        b_docx=docx_file(),
        c_xlsx=xlsx_file([["city", "height"], ["Paris", 330]]),
        d_csv=b"city,height\nParis,330\n",
        e_txt="Größe: 330 m".encode(),
        f_html=b"<title>T</title><p>330 m high</p>",
        g_json=b'{"height": 330}',
        h_py=b"height = 330\n",
        i_png=b"\x89PNG\r\n\x1a\n" + bytes(100),
    )
    names = [path.rpartition("/")[2] for path in files]
    listed, *read = use(("list_files", {}), *[("read_file", {"path": name}) for name in names], files=files)
    assert [line.partition(" ")[0] for line in listed.text.splitlines()] == names
    for result in read[:-1]:
        assert result.failure is None and "330" in result.text, result
    assert read[0].text.startswith("Towers: lines 1-")
    assert read[-1].failure is Failure.TOOL_ERROR and read[-1].text == "cannot read i.png: a PNG image"


def test_part_of_a_file_and_what_models_call_it(tmp_path):
    files = saved(tmp_path, a_txt="\n".join(f"line {i}" for i in range(1, 101)).encode())
    part, end, beyond, other = use(
        ("read_file", {"path": "a.txt", "first_line": 50, "lines": "2"}),
        ("read_file", {"path": "a.txt", "first_line": 100}),
        ("read_file", {"path": "a.txt", "first_line": 101}),
        ("convert_to_markdown", {"uri": "file:a.txt", "lines": 1}),
        files=files,
    )
    assert part.text == "a.txt: lines 50-51 of 100\nline 50\nline 51"
    assert end.text == "a.txt: lines 100-100 of 100\nline 100"
    assert beyond.failure is Failure.TOOL_ERROR and beyond.text == "a.txt has 100 lines"
    assert other.text.endswith("lines 1-1 of 100\nline 1")


def test_writing():
    wrote, listed, read, over, full = use(
        ("write_file", {"path": "notes/a.txt", "content": "one\ntwo"}),
        ("list_files", {}),
        ("read_file", {"path": "notes/a.txt"}),
        ("write_file", {"path": "notes/a.txt", "content": "x"}),
        ("write_file", {"path": "notes", "content": "x"}),
    )
    assert wrote.text == "wrote notes/a.txt (7 bytes)"
    assert listed.text == "notes/a.txt (7 bytes)" and read.text.endswith("one\ntwo")
    assert over.failure is None and full.failure is Failure.TOOL_ERROR


OUTSIDE = {
    "above": "../secret",
    "above-later": "a/../../secret",
    "absolute": "/etc/passwd",
    "file-address": "file:///etc/passwd",
    "file-address-of-a-host": "file://localhost/etc/passwd",
    "home": "~/.bashrc",
    "encoded": "%2e%2e/secret",
    "backslash": "..\\secret",
    "null": "a.txt\0.png",
    "long": "a/" * 600,
    "long-name": "a" * 300,
    "empty": ".",
    "link-to-a-file": "link",
    "link-to-a-folder": "folder/secret",
    "link-to-itself": "loop",
    "pipe": "pipe",
    "device": "zero",
    "folder": "inner",
    "below-a-file": "a.txt/x",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("path", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_no_path_leads_out(tmp_path, path, write):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a.txt").write_text("a")

    async def main():
        workspace = Workspace()
        await workspace.begin("e", [str(tmp_path / "a.txt")])
        folder = workspace._folder("e")
        (folder / "link").symlink_to(tmp_path / "secret")
        (folder / "folder").symlink_to(tmp_path)
        (folder / "loop").symlink_to("loop")
        (folder / "zero").symlink_to("/dev/zero")
        (folder / "inner").mkdir()
        os.mkfifo(folder / "pipe")
        try:
            if write:
                workspace.write("e", path, b"x")
            else:
                workspace.read("e", path, 100)
            # A name like any other, where it is one.
            assert write and all(part not in ("..", "") for part in path.split("/"))
            assert (folder / path).resolve().is_relative_to(folder)
        except PathRefused as error:
            assert len(str(error)) < 1_200
        finally:
            assert (tmp_path / "secret").read_text() == "secret"
            assert {child.name for child in tmp_path.iterdir()} == {"secret", "a.txt"}
            await workspace.aclose()
        assert not folder.exists()

    asyncio.run(main())


def test_folders_are_the_episodes_own(tmp_path):
    files = saved(tmp_path, a_txt=b"a")

    async def main():
        workspace = Workspace()
        await asyncio.gather(*[workspace.begin("one", files) for _ in range(3)])
        await workspace.begin("two", [])
        seen = workspace.paths("one"), workspace.paths("two")
        workspace.write("one", "a.txt", b"changed")  # a copy
        await workspace.end("one")
        await workspace.end("one")
        again = workspace.paths("one")
        await workspace.aclose()
        return *seen, again

    assert asyncio.run(main()) == ([("a.txt", 1)], [], [])
    assert (tmp_path / "a.txt").read_bytes() == b"a"


def test_reading_changes_nothing_and_is_not_remembered_for_others(tmp_path):
    async def main():
        config = ToolsConfig(names=FILES_TOOLS, cache=True)
        tools = build_tools(config, "http://127.0.0.1:9", "")
        read = ToolCall("", "read_file", {"path": "a.txt"})
        async with ToolExecutor(tools, config, lambda text, tokens: (text, False)) as executor:
            texts = []
            for episode in ("one", "two"):
                await executor.begin(episode, saved(tmp_path, a_txt=episode.encode()))
                texts.append((await executor.execute(read, f"{episode}:0.0")).text.splitlines()[-1])
            write = ToolCall("", "write_file", {"path": "a.txt", "content": ""})
            return texts, executor.changes(read), executor.changes(write)

    assert asyncio.run(main()) == (["one", "two"], False, True)


def test_sizes(tmp_path, monkeypatch):
    files = saved(tmp_path, big_txt=bytes(101))
    monkeypatch.setattr(workspace_module, "MOST_BYTES", 1_000)
    monkeypatch.setattr(workspace_module, "MOST_FILES", 3)
    read, listed, large, *many = use(
        ("read_file", {"path": "big.txt"}),
        ("list_files", {}),
        ("write_file", {"path": "a", "content": "x" * 900}),
        *[("write_file", {"path": f"{i}", "content": ""}) for i in range(3)],
        files=files,
        file_bytes=100,
    )
    assert read.text == "big.txt is larger than 100 bytes (tools.file_bytes)"
    assert listed.text == "big.txt (101 bytes)"
    assert [bool(result.failure) for result in (large, *many)] == [True, False, False, True]
    assert "the folder is full" in large.text


@pytest.mark.parametrize(
    ("files", "error"),
    [
        (["nonesuch"], "nonesuch: a file of a task, which is not there"),
        (["."], "a file of a task, which is not there or no file"),
        (["a/x", "b/x"], "two files of a task are called x"),
    ],
)
def test_attachments_that_are_not_there(tmp_path, monkeypatch, files, error):
    monkeypatch.chdir(tmp_path)
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_bytes(b"")

    async def main():
        workspace = Workspace()
        try:
            await workspace.begin("e", files)
        finally:
            await workspace.aclose()

    with pytest.raises(ConfigError, match=error):
        asyncio.run(main())
