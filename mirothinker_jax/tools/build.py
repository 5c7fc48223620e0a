"""The tools that a config asks for, sharing their connections."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.request import getproxies_environment

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools import browse, sandbox, search
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.documents import PAGE_CHARS, missing_libraries
from mirothinker_jax.tools.extractor import Extractor
from mirothinker_jax.tools.jina import ReaderService
from mirothinker_jax.tools.sandbox import RunPython
from mirothinker_jax.tools.search import GoogleSearch
from mirothinker_jax.tools.spec import Tool

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

logger = logging.getLogger(__name__)

# Tool name → the server that the model calls it by; known without making the tools.
SERVERS = {module.SPEC.name: module.SPEC.server for module in (search, browse, sandbox)}

_BYTES_PER_CHAR = 4  # at most, in UTF-8
_EMBEDDED_KEY = "embedded"


def build_tools(settings: ToolsConfig, proxy_url: str | None, api_key: str) -> list[Tool]:
    """Tools in the order of `settings.names`.

    Args:
      proxy_url: of the embedded web (world.server.WorldServer.proxy_url); None: the open web.
      api_key: for the search service at settings.search_url; the embedded one needs none.

    Raises:
      ConfigError: a search service without a key, no search service at all, or no sandbox on this machine.
    """
    from mirothinker_jax.tools.client import WebClient  # only a run with tools pays for importing HTTP

    def client(proxy: str | None, service: str | None = None) -> WebClient:
        limits = (settings.concurrency, settings.deadline_s, PAGE_CHARS * _BYTES_PER_CHAR)
        return WebClient(proxy, *limits, service_url=service, max_file_bytes=settings.file_bytes)

    if proxy_url is None and (found := sorted({"http", "https", "all"} & getproxies_environment().keys())):
        names = ", ".join(f"{name}_proxy" for name in found)
        logger.warning("%s is set and not used: the tools connect by themselves (see tools/guard.py)", names)
    tools: list[Tool] = []
    pages = client(proxy_url)
    for name in settings.names:
        if name == "google_search":
            check(
                bool(settings.search_url or proxy_url),
                "tools.search_url is empty and the embedded web is off; give the address of a search service",
            )
            check(
                bool(api_key or not settings.search_url),
                f"google_search needs an API key: set the environment variable {settings.search_key_env} "
                "(tools.search_key_env names it)",
            )
            # A search service of the user's own is not on the embedded web, so not behind its proxy.
            service = client(None, settings.search_url) if settings.search_url else pages
            tools.append(GoogleSearch(service, settings, api_key or _EMBEDDED_KEY))
        elif name == "scrape_and_extract_info":
            tools.append(_scrape_page(pages, settings, client, bool(proxy_url)))
        elif name == "run_python_code":
            tools.append(RunPython(settings))
        else:
            raise ValueError(f"tools.names holds {name!r}, which no tool here is called")
    return tools


def _scrape_page(
    pages: WebClient, settings: ToolsConfig, client: Callable[..., WebClient], embedded: bool
) -> ScrapePage:
    """With the services that the settings name; `client(None, URL)` makes a client of one."""
    if not embedded and settings.reader != "jina" and (missing := missing_libraries()):
        install = "pip install 'mirothinker-jax[documents]'"
        logger.warning("%s files cannot be read here: %s", ", ".join(missing), install)
    service, extractor = None, None
    if settings.reader == "jina":
        check(
            not embedded, "tools.reader is 'jina', which cannot reach the embedded web; set tools.search_url"
        )
        key = os.environ.get(settings.reader_key_env, "")
        service = ReaderService(client(None, settings.reader_url), settings.reader_url, key)
    if settings.extractor_url:
        key = os.environ.get(settings.extractor_key_env, "")
        extractor = Extractor(client(None, settings.extractor_url), settings, key)
    return ScrapePage(pages, settings, service, extractor)
