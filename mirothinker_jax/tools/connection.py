"""Connections to the public web: the address that a socket is about to use is the one that is checked.

Names are resolved by the system. A name of which any address is not public is refused whole: no honest site has
such a mixture, and a rebinding name server does. The check of the socket itself stands behind that, for literal
addresses and whatever else reaches a connection.
"""

from __future__ import annotations

import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from mirothinker_jax.tools import guard


class AddressRefused(OSError):
    """The connection would leave the public web. An OSError, so that aiohttp and happy eyeballs treat it as one."""

    def __init__(self) -> None:
        super().__init__("it leads to an address that is not on the public web")


class PublicResolver(AbstractResolver):
    """The system's answers, or AddressRefused where one of them is not public."""

    def __init__(self) -> None:
        self._system = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        if not all(guard.is_public(result["host"]) for result in found):
            raise AddressRefused
        return found

    async def close(self) -> None:
        await self._system.close()


def open_public_socket(info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
    """The socket for a connection to the address of `info` (as getaddrinfo gives it).

    Raises:
      AddressRefused: that is not a public address, or it is one of this machine.
    """
    family, kind, protocol, _, address = info
    if not guard.is_public(address[0]) or guard.is_this_machine(family, address):
        raise AddressRefused
    return socket.socket(family, kind, protocol)


def web_connector(connections: int) -> aiohttp.TCPConnector:
    """A pool of at most so many connections, none of which leaves the public web."""
    return aiohttp.TCPConnector(
        limit=connections, resolver=PublicResolver(), socket_factory=open_public_socket
    )
