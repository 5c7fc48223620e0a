"""What an entry of tools.mcp says, and the entries that are refused without starting anything."""

import pytest

from mirothinker_jax.config import ConfigError, ToolsConfig
from mirothinker_jax.tools.build import check_tools
from mirothinker_jax.tools.mcp_entry import McpEntry, parse_entry


@pytest.mark.parametrize(
    ("written", "entry"),
    [
        ("serve", {"command": ("serve",)}),
        ("npx -y pkg '/my data' #a,b", {"command": ("npx", "-y", "pkg", "/my data"), "tools": ("a", "b")}),
        ("files: serve", {"name": "files", "command": ("serve",)}),
        ("serve #x #a #b,c", {"command": ("serve",), "tools": ("x", "a", "b", "c")}),
        ("KEY=$K B= serve A=1", {"command": ("serve", "A=1"), "values": {"KEY": "$K", "B": ""}}),
        ("https://a.test/mcp", {"url": "https://a.test/mcp"}),
        (
            'web: http://127.0.0.1:9/mcp X-Key="Bearer ${K}" #a',
            {
                "name": "web",
                "url": "http://127.0.0.1:9/mcp",
                "values": {"X-Key": "Bearer ${K}"},
                "tools": ("a",),
            },
        ),
        ("serve --color=#fff", {"command": ("serve", "--color=#fff")}),
    ],
)
def test_an_entry(written, entry):
    assert parse_entry(written) == McpEntry(written, **entry)


def test_values_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "s3cret $SOME_KEY")
    entry = parse_entry("KEY=$SOME_KEY HEADER='Bearer ${SOME_KEY}.' PRICE=5$ serve $SOME_KEY")
    assert entry.command == ("serve", "$SOME_KEY")
    key = "s3cret $SOME_KEY"  # what a variable holds is not read again
    assert entry.expand() == {"KEY": key, "HEADER": f"Bearer {key}.", "PRICE": "5$"}
    assert "s3cret" not in repr(entry)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "is no command and no address"),
        ("files:", "is no command and no address"),
        ("serve 'a", "no closing quotation"),
        ("serve #", "names no tool after #"),
        ("https://a.test/mcp#search", "write a space before #"),
        ("https://a.test/mcp search", "after an address come headers"),
        ("KEY=$NOT_SET_ANYWHERE serve", r"serve needs \$NOT_SET_ANYWHERE, which is not set"),
        ("no-such-program-here --port 1", "there is no program no-such-program-here"),
    ],
)
def test_what_is_refused_before_anything_starts(written, said):
    with pytest.raises(ConfigError, match=said):
        check_tools(ToolsConfig(names=(), mcp=(written,)), "")
