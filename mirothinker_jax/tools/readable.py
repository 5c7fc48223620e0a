"""HTML to the lines a reader needs, and the choice of the few that answer a question.

Rules, no model: one line per block of text, links as `[text](address)`, rows of a table as `key: value`.
Navigation, scripts, footers and forms are dropped. What a script would draw is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser, LexborNode

# fmt: off
_DROPPED = frozenset((
    "aside", "button", "datalist", "dialog", "footer", "form", "iframe", "input", "math", "nav",
    "noscript", "object", "script", "select", "style", "svg", "template", "textarea",
))
_BLOCKS = frozenset((
    "address", "article", "blockquote", "body", "br", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "tr", "ul",
))
# fmt: on
_LINK_TARGET = re.compile(r"\]\([^)]*\)")
_WORD = re.compile(r"\w+")
# Words of a question that say nothing about which line answers it.
# fmt: off
_EMPTY_WORDS = frozenset((
    "a", "all", "an", "and", "any", "are", "at", "by", "find", "for", "from", "get", "give", "how", "in",
    "information", "is", "it", "its", "me", "of", "on", "or", "page", "please", "return", "tell", "that",
    "the", "this", "to", "was", "were", "what", "when", "where", "which", "who", "with",
))
# fmt: on
_PREFIX_CHARS = 4  # words count as related when one begins with the other and has at least this length


@dataclass(frozen=True)
class Page:
    title: str
    lines: tuple[str, ...]


def read_html(html: str, url: str) -> Page:
    """The page's title and its lines of text, in order. `url` makes relative links absolute."""
    tree = LexborHTMLParser(html)
    head = tree.css_first("title")
    title = " ".join(head.text().split()) if head else ""
    pieces = "".join(_pieces(tree.body, url)) if tree.body else ""
    lines = [" ".join(line.split()).strip(" |") for line in pieces.split("\n")]
    lines = [line for line in lines if line]
    return Page(title or (lines[0] if lines else url), tuple(lines))


def read_main_text(html: str, url: str) -> Page:
    """The same by trafilatura, which keeps what it takes for the main text and drops the rest; some 50 ms a page."""
    import trafilatura

    found = trafilatura.extract(
        html,
        url=url,
        output_format="markdown",
        include_links=True,
        include_tables=True,
        include_comments=False,
    )
    head = LexborHTMLParser(html).css_first("title")
    title = " ".join(head.text().split()) if head else ""
    lines = tuple(line for raw in (found or "").splitlines() if (line := raw.strip(" |#-")))
    return Page(title or (lines[0] if lines else url), lines)


READERS = {"rules": read_html, "trafilatura": read_main_text}


def _pieces(root: LexborNode, url: str) -> list[str]:
    """Text in document order; "\\n" ends a line. An explicit stack: pages may nest deeper than Python."""
    pieces: list[str] = []
    stack: list[LexborNode | str] = [root]  # a str is what closes an element
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            pieces.append(node)
            continue
        tag = node.tag or ""
        if tag == "-text":
            pieces.append((node.text_content or "").replace("\n", " "))
        elif tag not in _DROPPED and not tag.startswith("-"):
            opening, closing = _marks(node, tag, url)
            pieces.append(opening)
            stack.append(closing)
            stack.extend(reversed(list(node.iter(include_text=True))))
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
    if tag in ("td", "th"):
        cells = [n for n in node.parent.iter() if n.tag in ("td", "th")] if node.parent else [node]
        last = cells[-1] == node
        return "", "" if last else ": " if len(cells) == 2 else " | "
    return ("\n", "\n") if tag in _BLOCKS else ("", "")


def best_lines(lines: Sequence[str], wanted: str, count: int) -> list[str]:
    """The `count` lines that share most words with `wanted`, the best first; [] if none shares any.

    A word before the line's first colon counts twice: "north: …" answers "north" better than
    "name: North Bay". Lines with equally many whole words are ordered by related words (elevation,
    elevations), then by their place on the page.
    """
    asked = set(_WORD.findall(wanted.casefold()))
    asked = (asked - _EMPTY_WORDS) or asked
    scored: list[tuple[int, int, int]] = []
    for place, line in enumerate(lines):
        text = _LINK_TARGET.sub("]", line).casefold()
        words = set(_WORD.findall(text))
        key = set(_WORD.findall(text.partition(":")[0])) if ":" in text else set()
        whole = len(asked & words) + len(asked & key)
        related = sum(any(_related(a, w) for w in words) for a in asked - words)
        if whole or related:
            scored.append((-whole, -related, place))
    return [lines[place] for _, _, place in sorted(scored)[:count]]


def _related(a: str, b: str) -> bool:
    return min(len(a), len(b)) >= _PREFIX_CHARS and (a.startswith(b) or b.startswith(a))
