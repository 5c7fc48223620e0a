"""What our pages share: one style, one script, records that a page decodes when somebody looks.

A page needs nothing but itself. It may run our own script and no other: its policy names the script's digest, so what a
web page wrote could not run even where it were not escaped. Records are JSON, deflated and in base64, whose letters
cannot end an element; the script writes them as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def template(name: str, *scripts: str) -> jinja2.Template:
    """A page's template, with `style`, `script` and `policy` set for these scripts, and filters for figures."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mirothinker_jax.evals", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n" + "\n".join(_asset(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals |= {
        "style": Markup(_asset("page.css")),
        "script": Markup(script),
        "policy": f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        "chunk": chunk,
    }
    environment.filters |= {"percent": percent, "points": points, "number": number, "duration": duration}
    return environment.get_template(name)


def chunk(record: Any) -> str:
    """A record as letters, digits, + and /, for the script to read."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    deflate = zlib.compressobj(6, wbits=-zlib.MAX_WBITS)
    return base64.b64encode(deflate.compress(text) + deflate.flush()).decode()


def read_chunk(text: str) -> Any:
    """The record of a chunk.

    >>> read_chunk(chunk({"a": "</script>"}))
    {'a': '</script>'}
    """
    return json.loads(zlib.decompress(base64.b64decode(text), wbits=-zlib.MAX_WBITS))


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{100 * share:.1f}%"


def points(share: float) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * share:+.1f}".replace("-", "−")


def number(value: float) -> str:
    """Four significant digits; whole numbers with thousands apart."""
    if isinstance(value, bool) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}".replace(",", " ").replace("-", "−")
    return f"{value:.4g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _asset(name: str) -> str:
    return resources.files("mirothinker_jax.evals").joinpath(name).read_text(encoding="utf-8")
