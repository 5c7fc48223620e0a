"""What a tool of MCP answered, as text for the model. All of it is untrusted.

Text stays, cut at TEXT_CHARS; images, sounds and other files become a line each; structured content stands in for text
where there is none. Addresses of benchmark data take with them what stands beside them (leak_text.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mirothinker_jax.tools.leak_guard import is_leak
from mirothinker_jax.tools.leak_text import hide_leaks

TEXT_CHARS = 200_000


def result_text(result: Mapping[str, Any], refuse: Sequence[str] = ()) -> str:
    """The text of a result as tools/call gives it; `refuse` as in `is_leak`.

    >>> result_text({"content": [{"type": "image", "mimeType": "image/png", "data": "AAAA"}]})
    '[image/png, 3 bytes: not shown]'
    """
    contents = result.get("content") or []
    said = [text for content in contents if (text := _content_text(content, refuse))]
    structured = result.get("structuredContent")
    if not said and structured is not None:
        said = [json.dumps(structured, ensure_ascii=False)]
    left, shown = TEXT_CHARS, []
    for text in said:
        if len(text) > left:
            text = f"{text[:left]}\n(cut at {TEXT_CHARS:,} characters)"
        shown.append(hide_leaks(text, refuse))
        left -= len(text)
        if left <= 0:
            break
    return "\n".join(shown) or "(no output)"


def _content_text(content: Mapping[str, Any], refuse: Sequence[str]) -> str:
    kind = content.get("type")
    if kind == "text":
        return str(content.get("text", ""))
    if kind == "resource_link":
        address = str(content.get("uri", ""))
        title = content.get("title") or content.get("name", "")
        return "" if is_leak(address, refuse) else f"{title}: {address}"
    if kind == "resource":
        resource = content.get("resource", {})
        if is_leak(str(resource.get("uri", "")), refuse):
            return ""
        if "text" in resource:
            return str(resource["text"])
        return _file_line(resource.get("mimeType"), resource.get("blob", ""))
    return _file_line(content.get("mimeType") or kind, content.get("data", ""))


def _file_line(kind: Any, base64: str) -> str:
    size = len(base64) * 3 // 4 - base64[-2:].count("=")
    return f"[{str(kind or 'a file')[:100]}, {size:,} bytes: not shown]"
