"""HTML to the lines a reader needs (relevance.py chooses the few that answer a question).

Rules, no model: one line per block of text, links as `[text](address)`, rows of a table as `key: value`.
Navigation, scripts, footers and the fields of forms are dropped, unless nothing else is there. What a script would
draw is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

# fmt: off
_DROPPED = frozenset((
    "aside", "button", "datalist", "dialog", "footer", "iframe", "input", "math", "nav",
    "noscript", "object", "script", "select", "style", "svg", "template", "textarea",
))
_BLOCKS = frozenset((
    "address", "article", "blockquote", "body", "br", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
))
# fmt: on
_ALWAYS_DROPPED = _DROPPED - {"aside", "dialog", "footer", "nav", "noscript"}
_CELLS = ("td", "th")
_LINE_CHARS = 1_000  # a longer line is split, or one line would be the whole of a page without breaks
_BREAKS = tuple(
    map(re.compile, (r"[.!?;]\s|[。！？；]", r"\s", r"[,;\]}、，]"))
)  # the best place to split first


@dataclass(frozen=True)
class Page:
    title: str
    lines: tuple[str, ...]


def read_html(html: str, url: str) -> Page:
    """The page's title and its lines of text, in order. `url` makes relative links absolute."""
    tree = LexborHTMLParser(html)
    lines: tuple[str, ...] = ()
    for dropped in (_DROPPED, _ALWAYS_DROPPED):
        if tree.body and not lines:
            lines = split_lines("".join(_pieces(tree.body, _base(tree, url), dropped)), " |")
    return Page(_title(tree) or (lines[0] if lines else url), lines)


def read_main_text(html: str, url: str) -> Page:
    """The same by trafilatura, which keeps what it takes for the main text and drops the rest; some 50 ms a page.
    Where it finds no text, the rules do."""
    import trafilatura

    tree = LexborHTMLParser(html)
    base = _base(tree, url)
    for link in tree.css("a[href]"):  # trafilatura takes what is relative to a page as relative to its host
        with suppress(ValueError):
            link.attrs["href"] = urljoin(base, (link.attributes.get("href") or "").strip())
    found = trafilatura.extract(
        tree.html or "",
        url=base,
        output_format="markdown",
        include_links=True,
        include_tables=True,
        include_comments=False,
    )
    lines = split_lines(found or "", " |#-")
    return Page(_title(tree) or lines[0], lines) if lines else read_html(html, url)


def split_lines(text: str, edges: str = "") -> tuple[str, ...]:
    """The lines of a text without their white space and `edges`; long ones are split, at the end of a sentence."""
    lines = (" ".join(line.split()).strip(edges or None) for line in text.split("\n"))
    return tuple(piece for line in lines if line for piece in _split_long(line))


def _split_long(line: str) -> Iterator[str]:
    start = 0
    while len(line) - start > _LINE_CHARS:
        window = start + _LINE_CHARS // 2, start + _LINE_CHARS
        ends = next(
            (found for kind in _BREAKS if (found := [m.end() for m in kind.finditer(line, *window)])), []
        )
        end = ends[-1] if ends else window[1]
        yield line[start:end].strip()
        start = end
    yield line[start:].strip()


def _title(tree: LexborHTMLParser) -> str:
    head = tree.css_first("title")
    return " ".join(head.text().split()) if head else ""


def _base(tree: LexborHTMLParser, url: str) -> str:
    """What the page's links are relative to."""
    base = tree.css_first("base[href]")
    try:
        joined = urljoin(url, (base.attributes.get("href") or "").strip()) if base else url
    except ValueError:
        return url
    return joined if joined.startswith(("http://", "https://")) else url


READERS = {"rules": read_html, "trafilatura": read_main_text}


def _pieces(root: LexborNode, url: str, dropped: frozenset[str]) -> list[str]:
    """Text in document order; "\n" ends a line. An explicit stack: pages may nest deeper than Python."""
    pieces: list[str] = []
    stack: list[tuple[LexborNode, str, bool] | str] = [(root, "", False)]  # a str is what closes an element
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        node, after, as_written = item
        tag = node.tag or ""
        if tag == "-text":
            text = node.text_content or ""
            pieces.append(text if as_written else text.replace("\n", " "))
        elif tag not in dropped and not tag.startswith("-"):
            opening, closing = _marks(node, tag, url)
            pieces.append(opening)
            stack.append(closing + after)
            children = list(node.iter(include_text=True))
            cells = [i for i, child in enumerate(children) if child.tag in _CELLS]
            between = dict.fromkeys(cells[:-1], ": " if len(cells) == 2 else " | ")
            as_written = as_written or tag in ("pre", "listing", "xmp")
            for place in reversed(range(len(children))):
                stack.append((children[place], between.get(place, ""), as_written))
    return pieces


def _marks(node: LexborNode, tag: str, url: str) -> tuple[str, str]:
    """What stands before and after an element's content."""
    if tag == "a":
        href = (node.attributes.get("href") or "").strip()
        if not href or href.startswith(("#", "javascript:", "mailto:")):
            return "", ""
        if href.startswith(("http://", "https://")):
            return "[", f"]({href})"
        try:
            return "[", f"]({urljoin(url, href)})"
        except ValueError:  # an address such as http://[
            return "", ""
    return ("\n", "\n") if tag in _BLOCKS else ("", "")
