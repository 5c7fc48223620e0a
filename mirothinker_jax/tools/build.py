"""The tools that a config asks for, sharing their connections."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies_environment

from mirothinker_jax.config import ToolsConfig, check
from mirothinker_jax.tools import browse, files, sandbox, search
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.corpus_index import open_corpus
from mirothinker_jax.tools.documents import PAGE_CHARS, missing_libraries
from mirothinker_jax.tools.extractor import Extractor
from mirothinker_jax.tools.jina import ReaderService
from mirothinker_jax.tools.limits import check_tool_names
from mirothinker_jax.tools.mcp_tools import check_servers, mcp_tools, recorded_tools
from mirothinker_jax.tools.recording import Record
from mirothinker_jax.tools.replay import Recorded, parts
from mirothinker_jax.tools.sandbox_local import LocalHost
from mirothinker_jax.tools.sandbox_pool import SandboxPool
from mirothinker_jax.tools.sandbox_remote import RemoteHost
from mirothinker_jax.tools.search import GoogleSearch, SearchBackend
from mirothinker_jax.tools.search_http import HttpSearch
from mirothinker_jax.tools.search_services import SERVICES
from mirothinker_jax.tools.spec import Tool
from mirothinker_jax.tools.workspace import Workspace

if TYPE_CHECKING:  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.client import WebClient

logger = logging.getLogger(__name__)

_SPECS = {
    **{module.SPEC.name: module.SPEC for module in (search, browse)},
    **sandbox.SPECS,
    **files.SPECS,
}
# Tool name → the server that the model calls it by; known without making the tools.
SERVERS = {name: spec.server for name, spec in _SPECS.items()}

_BYTES_PER_CHAR = 4  # at most, in UTF-8
_EMBEDDED_KEY = "embedded"
EMBEDDED_SEARCH_URL = "http://search.test/search"


def build_tools(settings: ToolsConfig, proxy_url: str | None, api_key: str) -> list[Tool]:
    """Tools in the order of `settings.names`.

    Args:
      proxy_url: of the embedded web (world.server.WorldServer.proxy_url); None: the open web, or a corpus.

    Raises:
      ConfigError: a search service without a key, none at all, a corpus that cannot be used, no sandbox on this
        machine, a server of MCP that cannot be used, limits of a tool that is not there, or a record that cannot be
        written or read.
    """
    if not settings.mcp:  # else when its tools are known
        check_tool_names(settings, [_SPECS[name] for name in settings.names if name in _SPECS])
    if settings.replay:  # nothing is called, so no key and no sandbox is needed
        parts(settings.replay)
        return [Recorded(_SPECS[name]) for name in settings.names] + recorded_tools(settings)
    if settings.record:  # whether it can be written, before hours of training
        record = Record(settings.record)
        record.open()
        record.close()
    from mirothinker_jax.tools.client import WebClient  # only a run with tools pays for importing HTTP
    from mirothinker_jax.tools.corpus import CorpusSearch, CorpusTransport

    where = settings.search_backend

    def client(proxy: str | None = None, **options: Any) -> WebClient:
        limits = (settings.concurrency, settings.deadline_s, PAGE_CHARS * _BYTES_PER_CHAR)
        return WebClient(
            proxy, *limits, max_file_bytes=settings.file_bytes, refuse=settings.refuse, **options
        )

    if (
        proxy_url is None
        and where != "corpus"
        and (found := sorted({"http", "https", "all"} & getproxies_environment().keys()))
    ):
        names = ", ".join(f"{name}_proxy" for name in found)
        logger.warning("%s is set and not used: the tools connect by themselves (see tools/guard.py)", names)
    index = open_corpus(settings.corpus) if where == "corpus" else None
    pages = client(proxy_url) if index is None else client(transport=CorpusTransport(index))

    def downloads() -> WebClient:
        """Of whole files, with one byte more to tell a larger one by."""
        transport = None if index is None else CorpusTransport(index)
        limits = (settings.concurrency, settings.deadline_s, settings.file_bytes + 1)
        return WebClient(proxy_url, *limits, transport, refuse=settings.refuse)

    def backend() -> SearchBackend:
        if index is not None:
            return CorpusSearch(index, settings.snippet_chars)
        if where == "world":
            check(
                bool(proxy_url),
                "tools.search_url is empty and the embedded web is off; give the address of a search "
                "service, or tools.corpus",
            )
            return HttpSearch(
                pages, SERVICES["serper"], EMBEDDED_SEARCH_URL, _EMBEDDED_KEY, settings.deadline_s
            )
        _check_key(settings, api_key)
        # A service of the user's own is not on the embedded web, so not behind its proxy.
        shape, url = SERVICES[where], settings.search_url
        return HttpSearch(client(service_url=shape.address(url)), shape, url, api_key, settings.deadline_s)

    pool: SandboxPool | None = None
    workspace = Workspace()
    tools: list[Tool] = []
    for name in settings.names:
        if name == "google_search":
            tools.append(GoogleSearch(backend(), settings))
        elif name == "scrape_and_extract_info":
            tools.append(_scrape_page(pages, settings, client, bool(proxy_url)))
        elif name in sandbox.SPECS:
            pool = pool or _pool(settings)
            tools.append(_sandbox_tool(name, settings, pool, workspace, downloads))
        else:
            tools.append(_files_tool(name, settings, workspace))
    tools += mcp_tools(settings, tools)
    check_tool_names(settings, [tool.spec for tool in tools])
    return tools


def _pool(settings: ToolsConfig) -> SandboxPool:
    host = LocalHost(settings) if settings.sandbox == "local" else RemoteHost(settings)
    return SandboxPool(host.create, settings.sandboxes)


def _sandbox_tool(
    name: str,
    settings: ToolsConfig,
    pool: SandboxPool,
    workspace: Workspace,
    downloads: Callable[[], WebClient],
) -> Tool:
    match name:
        case "create_sandbox":
            return sandbox.CreateSandbox(pool, settings)
        case "run_command":
            return sandbox.RunCommand(pool, settings)
        case "run_python_code":
            return sandbox.RunPython(pool, settings)
        case "upload_file_from_local_to_sandbox":
            return sandbox.UploadFile(pool, settings, workspace)
    return sandbox.DownloadFile(pool, settings, downloads())


def _files_tool(name: str, settings: ToolsConfig, workspace: Workspace) -> Tool:
    match name:
        case "list_files":
            return files.ListFiles(workspace)
        case "read_file":
            return files.ReadFile(workspace, settings)
    return files.WriteFile(workspace)


def key_env(settings: ToolsConfig) -> str:
    """The environment variable that has the search service's key; "" where it needs none."""
    service = SERVICES.get(settings.search_backend)
    return settings.search_key_env or (service.key_env if service else "")


def check_tools(settings: ToolsConfig, api_key: str) -> None:
    """What can be wrong with the search settings, said without starting any tool. Indexes a corpus that is new.

    Raises:
      ConfigError: as `build_tools`.
    """
    if "google_search" in settings.names:
        _check_key(settings, api_key)
    if settings.search_backend == "corpus":
        open_corpus(settings.corpus)
    if not settings.replay:
        check_servers(settings)


def _check_key(settings: ToolsConfig, api_key: str) -> None:
    name = key_env(settings)
    check(
        bool(api_key or not name) or settings.search_backend == "world",
        f"google_search needs an API key: set the environment variable {name} (tools.search_key_env names it)",
    )


def _scrape_page(
    pages: WebClient, settings: ToolsConfig, client: Callable[..., WebClient], embedded: bool
) -> ScrapePage:
    """With the services that the settings name; `client(service_url=URL)` makes a client of one."""
    if not embedded and settings.reader != "jina" and (missing := missing_libraries()):
        install = "pip install 'mirothinker-jax[documents]'"
        logger.warning("%s files cannot be read here: %s", ", ".join(missing), install)
    service, extractor = None, None
    if settings.reader == "jina":
        check(
            not embedded, "tools.reader is 'jina', which cannot reach the embedded web; set tools.search_url"
        )
        key = os.environ.get(settings.reader_key_env, "")
        reader = client(service_url=settings.reader_url)
        service = ReaderService(reader, settings.reader_url, key, settings.refuse)
    if settings.extractor_url:
        key = os.environ.get(settings.extractor_key_env, "")
        extractor = Extractor(client(service_url=settings.extractor_url), settings, key)
    return ScrapePage(pages, settings, service, extractor)
