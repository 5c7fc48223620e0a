"""Where a tool may go on behalf of the model, and with which headers: the public web, and nothing else.

A model does what pages tell it, so an address from a model is an address from a stranger. `web_address` reads one
as a browser would (WHATWG URL: 0x7f.1, 2130706433, full-width letters and %31 are spellings of an ordinary host),
refuses what is not public by its name or number, and returns the one spelling that is then sent: what was checked
and what is asked for are the same text. What a name resolves to is checked at the socket (connection.py), so a
name server that answers twice differently gains nothing.

Addresses are allowed, not forbidden, where that is possible: of IPv6 only global unicast. Not safe: public
addresses that trust this machine (a partner's allow-list, an internal service with a public address, NAT that
leads back), and an operator's own NAT64 prefix, which nothing here can know.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import unquote_to_bytes

import idna

from mirothinker_jax.tools.leak_guard import URL_CHARS, is_leak
from mirothinker_jax.tools.spec import Failure, ToolError

# What a page may need to answer as it would to a reader. None of them grants access to a machine that asks for a
# header as proof of who calls (Metadata-Flavor, X-aws-ec2-metadata-token, Authorization), and none frames a request.
HEADERS = ("Accept", "Accept-Language", "Cookie", "Referer", "User-Agent")
_HEADER_CHARS = 4096

# IANA's special-purpose registry; 168.63.129.16 is a cloud's host agent behind a public address.
# fmt: off
_NOT_PUBLIC_4 = [ipaddress.IPv4Network(text) for text in (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
)]
_GLOBAL_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Protocol assignments with Teredo, documentation, 6to4.
_NOT_PUBLIC_6 = [ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_ISATAP = (0xFDFFFFFF << 32, 0x5EFE << 32)  # mask and value of the half that says: an IPv4 address follows

# Names that mean this machine or its network (RFC 6761, RFC 8375, ICANN's name collisions, metadata.google.internal).
_LOCAL_NAMES = frozenset((
    "localhost", "localdomain", "local", "internal", "intranet", "private", "lan", "home", "corp", "arpa", "onion",
))
# Ports of other protocols, which a request could be taken for (Fetch standard, "bad port").
_BAD_PORTS = frozenset((
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530,
    531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190,
    5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
))
# fmt: on
_URL = re.compile(r"(https?)://([^/?#\s]+)((?:[/?][^#]*)?)(?:#.*)?", re.IGNORECASE | re.DOTALL)
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")


def is_public(address: str) -> bool:
    """Whether an IP address, as a socket or a resolver gives it, is one of the public internet.

    >>> is_public("8.8.8.8"), is_public("169.254.169.254"), is_public("::ffff:8.8.8.8"), is_public("64:ff9b::7f00:1")
    (True, False, False, False)
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NOT_PUBLIC_4)
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    isatap = int(ip) & _ISATAP[0] == _ISATAP[1]
    inside = ip in _GLOBAL_UNICAST_6 and not any(ip in network for network in _NOT_PUBLIC_6)
    return inside and ip.scope_id is None and not isatap


def is_this_machine(family: int, address: tuple[str | int, ...]) -> bool:
    """Whether a socket address is one of this machine's own: its services may listen on a public one. Sends nothing."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
        return probe.getsockname()[0] == address[0]


def web_address(url: str, refuse: Sequence[str] = ()) -> str:
    """The one spelling of an address that a model named, for a request to the public web; `refuse` as in `is_leak`.

    >>> web_address("HTTP://Example.COM.:80/a?b#c"), web_address("http://0x08080808")
    ('http://example.com/a?b', 'http://8.8.8.8/')

    Raises:
      ToolError: TOOL_ERROR where it is none, or leads to what is not public or to a benchmark's data.
    """
    if len(url) > URL_CHARS:
        raise ToolError(Failure.TOOL_ERROR, f"not an address: longer than {URL_CHARS:,} characters")
    head, mark, query = url.partition("?")
    parts = _URL.fullmatch(head.replace("\\", "/") + mark + query)  # as browsers do
    if parts is None:
        raise ToolError(Failure.TOOL_ERROR, f"not an http or https address: {url}")
    scheme, authority, rest = parts[1].lower(), parts[2], parts[3]
    try:
        address = f"{scheme}://{_authority(authority, scheme)}{rest if rest.startswith('/') else '/' + rest}"
        address.encode()
        if re.search(r"[\x00-\x1f\x7f]", address):
            raise ValueError("it holds control characters")
    except ValueError as error:
        reason = "it holds half a character" if isinstance(error, UnicodeError) else error
        raise ToolError(Failure.TOOL_ERROR, f"not a valid address: {url} ({reason})") from error
    if is_leak(url, refuse) or is_leak(address, refuse):
        raise ToolError(Failure.TOOL_ERROR, f"this address is off limits (benchmark data): {url}")
    return address


def _authority(text: str, scheme: str) -> str:
    """Host and port, canonical. Raises ValueError that says why not."""
    if "@" in text:
        raise ValueError("it holds a user name; write the host alone")
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?", text, re.ASCII)
    if found is None:
        raise ValueError("its host or port is none")
    host, port = _host(found[1]), int(found[2] or 0) if len(found[2] or "") < 7 else -1
    if found[2] and (port in _BAD_PORTS or not 0 < port < 1 << 16):
        raise ValueError(f"port {found[2][:7]} is not one of the web")
    return host if port in (0, {"http": 80, "https": 443}[scheme]) else f"{host}:{port}"


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            host = str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("its host is no IPv6 address") from None
        return f"[{_public(host)}]"
    try:
        host = unquote_to_bytes(text).decode()
        # Only where it is needed: IDNA forbids names that DNS has, with "_" for one.
        host = host.lower() if host.isascii() else _ascii_host(host)
    except UnicodeError:  # idna's errors too
        raise ValueError("its host is none") from None
    labels = host.removesuffix(".").split(".")
    if not all(map(_LABEL.fullmatch, labels)) or sum(map(len, labels)) + len(labels) > 254:
        raise ValueError("its host is none")
    if _NUMBER.fullmatch(labels[-1]):
        return _public(_ipv4(labels))
    if labels[-1] in _LOCAL_NAMES or len(labels) == 1:
        raise ValueError("its host is not on the public web")
    return ".".join(labels)


def _ascii_host(host: str) -> str:
    plain = idna.uts46_remap(host, std3_rules=False, transitional=False)
    return plain if plain.isascii() else idna.encode(plain).decode("ascii")


def _public(address: str) -> str:
    if not is_public(address):
        raise ValueError("its host is not on the public web")
    return address


def _ipv4(labels: list[str]) -> str:
    """Four numbers from one to four labels, each decimal, octal or hexadecimal; the last fills what is left."""
    if len(labels) > 4 or not all(map(_NUMBER.fullmatch, labels)):
        raise ValueError("its host ends in a number and is no IPv4 address")
    try:
        numbers = [
            int(n[2:] or "0", 16) if n.startswith("0x") else int(n, 8 if n.startswith("0") else 10)
            for n in labels
        ]
    except ValueError:  # 08
        raise ValueError("its host ends in a number and is no IPv4 address") from None
    *high, low = numbers
    if any(n > 255 for n in high) or low >= 256 ** (4 - len(high)):
        raise ValueError("its host ends in a number and is no IPv4 address")
    return str(ipaddress.IPv4Address(sum(n << 24 - 8 * i for i, n in enumerate(high)) + low))


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers`, which a model wrote for the page that it asks for, where they are among HEADERS.

    Raises:
      ToolError: TOOL_ERROR for another name, or a value that is no header's.
    """
    allowed = {name.lower() for name in HEADERS}
    for name, value in headers.items():
        if name.lower() not in allowed:
            message = f"custom_headers: {name!r:.80} cannot be set; {', '.join(HEADERS)} can"
            raise ToolError(Failure.TOOL_ERROR, message)
        if not value.isascii() or not value.isprintable() or len(value) > _HEADER_CHARS:
            message = (
                f"custom_headers: the value of {name} is not a header's (ASCII, {_HEADER_CHARS:,} characters)"
            )
            raise ToolError(Failure.TOOL_ERROR, message)
    return headers
