"""Addresses and headers from a model: what is refused, one attack a test, and what is sent for the rest."""

import socket

import httpx
import pytest
import yarl
from hypothesis import given, settings
from hypothesis import strategies as st

from mirothinker_jax.tools.guard import check_headers, is_public, is_this_machine, web_address
from mirothinker_jax.tools.spec import Failure, ToolError

LOCAL = {
    "loopback": "http://127.0.0.1/",
    "loopback net": "http://127.8.9.1/",
    "this host": "http://0.0.0.0:8080/",
    "this host, short": "http://0/",
    "decimal": "http://2130706433/",
    "octal": "http://0177.0.0.1/",
    "octal, padded": "http://0000177.0.0.01/",
    "hexadecimal": "http://0x7f000001/",
    "hexadecimal parts": "http://0x7F.0x0.0x0.0x1/",
    "hexadecimal nothing": "http://0x7f.0x.0x.1/",
    "two parts": "http://127.1/",
    "three parts": "http://127.0.1/",
    "mixed": "http://0x7f.00.1/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata, decimal": "http://2852039166/",
    "metadata, octal": "http://0251.0376.0251.0376/",
    "metadata of containers": "http://169.254.170.2/",
    "metadata behind a public address": "http://168.63.129.16/",
    "metadata in shared space": "http://100.100.100.200/",
    "private 10": "http://10.0.0.1/",
    "private 172": "http://172.31.255.1/",
    "private 192": "http://192.168.1.1/",
    "CGNAT": "http://100.64.0.1/",
    "benchmarking": "http://198.19.0.1/",
    "multicast": "http://224.0.0.1/",
    "reserved": "http://240.0.0.1/",
    "broadcast": "http://255.255.255.255/",
    "trailing dot": "http://127.0.0.1./",
    "percent-encoded": "http://%31%32%37.0.0.1/",
    "percent-encoded dot": "http://127%2e0%2e0%2e1/",
    "full-width": "http://１２７.０.０.１/",
    "circled": "http://①②⑦.⓪.⓪.①/",
    "ideographic dots": "http://127。0。0。1/",
    "percent-encoded full-width": "http://%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1/",
    "full-width hexadecimal": "http://０ｘ７ｆ.1/",
    "IPv6 loopback": "http://[::1]/",
    "IPv6 loopback, long": "http://[0:0:0:0:0:0:0:1]/",
    "IPv6 nothing": "http://[::]/",
    "IPv4-mapped": "http://[::ffff:127.0.0.1]/",
    "IPv4-mapped, hexadecimal": "http://[::ffff:7f00:1]/",
    "IPv4-mapped, public": "http://[::ffff:8.8.8.8]/",
    "IPv4-compatible": "http://[::127.0.0.1]/",
    "IPv4-translated": "http://[::ffff:0:127.0.0.1]/",
    "NAT64": "http://[64:ff9b::169.254.169.254]/",
    "NAT64, local": "http://[64:ff9b:1::a00:1]/",
    "6to4": "http://[2002:7f00:1::]/",
    "Teredo": "http://[2001:0:7f00:1::]/",
    "ISATAP": "http://[2a00:1450::5efe:10.0.0.1]/",
    "unique local": "http://[fd00:ec2::254]/",
    "metadata, IPv6": "http://[fd20:ce::254]/",
    "link-local": "http://[fe80::1]/",
    "site-local": "http://[fec0::1]/",
    "IPv6 multicast": "http://[ff02::1]/",
    "documentation": "http://[2001:db8::1]/",
    "localhost": "http://localhost:8080/",
    "localhost, capitals": "http://LOCALHOST/",
    "localhost, dot": "http://localhost./",
    "localhost, full-width": "http://ｌｏｃａｌｈｏｓｔ/",
    "localhost, script letter": "http://ℓocalhost/",
    "localhost, soft hyphen": "http://lo\u00adcalhost/",
    "localhost, percent-encoded": "http://%6cocalhost/",
    "below localhost": "http://x.localhost/",
    "metadata by name": "http://metadata.google.internal/computeMetadata/v1/",
    "metadata by short name": "http://metadata/computeMetadata/v1/",
    "single label": "http://intranet/",
    "printer": "http://printer.local/",
    "router": "http://router.home.arpa/",
}
MALFORMED = {
    "zone": "http://[fe80::1%eth0]/",
    "zone, encoded": "http://[2a00:1450::1%25lo]/",
    "user name": "http://example.com@127.0.0.1/",
    "user name of a public host": "http://user:pw@example.com/",
    "user name, encoded host": "http://example.com%40127.0.0.1/",
    "hash in host": "http://127.0.0.1#@example.com/",
    "no IPv4 address": "http://1.2.3.4.5/",
    "too large": "http://256.1.1.1/",
    "too large, decimal": "http://4294967296/",
    "bad octal": "http://08.8.8.8/",
    "ends in a number": "http://example.1/",
    "no IPv6 address": "http://[::1/",
    "IPv6 and more": "http://[2a00:1450::1].example.com/",
    "empty label": "http://a..example.com/",
    "encoded slash": "http://127.0.0.1%2f.example.com/",
    "encoded null": "http://127.0.0.1%00.example.com/",
    "port 0": "http://example.com:0/",
    "port of mail": "http://example.com:25/",
    "port of shells": "http://example.com:22/",
    "port too large": "http://example.com:65536/",
    "port no number": "http://example.com:80a/",
    "port, other digits": "http://example.com:８０/",
    "port, endless": "http://example.com:" + "9" * 5000 + "/",
    "null byte": "http://example.com/\x00",
    "line feed": "http://example.com/\r\nHost: 127.0.0.1",
    "tab": "http://example.com/\t",
    "lone surrogate": "http://example.com/\ud800",
    "lone surrogate in host": "http://\udc00.example.com/",
    "host not UTF-8": "http://%ff.example.com/",
    "long label": "http://" + "a" * 64 + ".com/",
    "long name": "http://" + "a." * 127 + "com/",
}
NOT_WEB = {
    "file": "file:///etc/passwd",
    "file with host": "file://localhost/etc/passwd",
    "ftp": "ftp://example.com/",
    "gopher": "gopher://127.0.0.1:6379/_FLUSHALL",
    "data": "data:text/html,<h1>x</h1>",
    "javascript": "javascript:alert(1)",
    "dict": "dict://127.0.0.1:11211/stats",
    "unix": "unix:///var/run/docker.sock",
    "web socket": "ws://example.com/",
    "view-source": "view-source:http://example.com/",
    "no scheme": "//example.com/",
    "empty host": "http:///etc/passwd",
    "empty": "http://",
    "line feed in host": "http://exam\nple.com/",
    "space in host": "http://127.0.0.1 .example.com/",
}
HUB = {
    "plain": "https://huggingface.co/datasets/a/b",
    "capitals": "HTTPS://HuggingFace.CO/Datasets/a",
    "full-width": "https://ｈｕｇｇｉｎｇｆａｃｅ.co/datasets/a",
    "ideographic dot": "https://huggingface。co/datasets/a",
    "soft hyphen": "https://hugging\u00adface.co/datasets/a",
    "host percent-encoded": "https://%68uggingface.co/datasets/a",
    "trailing dot and port": "https://huggingface.co.:443/datasets/a",
    "backslashes": "https://huggingface.co\\datasets\\a",
}


def refusal(url):
    with pytest.raises(ToolError) as caught:
        web_address(url)
    assert caught.value.failure is Failure.TOOL_ERROR and not caught.value.failure.infrastructure
    return str(caught.value)


@pytest.mark.parametrize("url", LOCAL.values(), ids=LOCAL)
def test_no_spelling_of_a_local_host_is_an_address_of_the_web(url):
    assert refusal(url) == f"not a valid address: {url} (its host is not on the public web)"


@pytest.mark.parametrize("url", MALFORMED.values(), ids=MALFORMED)
def test_what_two_readers_could_read_differently_is_refused(url):
    assert refusal(url).startswith("not a valid address: ")


@pytest.mark.parametrize("url", NOT_WEB.values(), ids=NOT_WEB)
def test_other_schemes_are_refused(url):
    assert refusal(url) == f"not an http or https address: {url}"


@pytest.mark.parametrize("url", HUB.values(), ids=HUB)
def test_benchmark_hubs_are_refused_in_every_spelling(url):
    assert "off limits (benchmark data)" in refusal(url)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://EXAMPLE.COM.:443/A%20b?C=/d#e", "https://example.com/A%20b?C=/d"),
        ("http://example.com:8080?q", "http://example.com:8080/?q"),
        ("http://example.com:/", "http://example.com/"),
        ("http://bücher.example.com/ü", "http://xn--bcher-kva.example.com/ü"),
        ("http://日本語。jp/", "http://xn--wgv71a119e.jp/"),
        ("http://a_b.example.com/@c", "http://a_b.example.com/@c"),
        ("http://134744072/", "http://8.8.8.8/"),
        ("http://0x08.8.2056/", "http://8.8.8.8/"),
        ("http://[2A00:1450:0::1]:8080/", "http://[2a00:1450::1]:8080/"),
        ("http://[64:ff9b::8.8.8.8]/", "http://[64:ff9b::808:808]/"),
        ("http://example.com\\a\\b?c\\d", "http://example.com/a/b?c\\d"),
        ("http://example.com\\@127.0.0.1/", "http://example.com/@127.0.0.1/"),
        ("http://airports.test/KTM", "http://airports.test/KTM"),
        ("http://123.example.com/", "http://123.example.com/"),
    ],
)
def test_public_addresses_have_one_spelling(url, sent):
    assert web_address(url) == sent == web_address(sent)


@pytest.mark.parametrize("address", ["fe80::1%2", "2a00:1450::1%2", "localhost", "", "127.1", "010.0.0.1"])
def test_what_a_resolver_says_is_public_only_where_it_surely_is(address):
    assert not is_public(address)


def test_this_machines_own_addresses_are_known():
    assert is_this_machine(socket.AF_INET, ("127.0.0.1", 80))
    assert not is_this_machine(socket.AF_INET, ("192.0.2.1", 80))  # with or without a route there


PIECES = [
    *(
        "http://",
        "HTTPS:",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "?",
        "#",
        "[",
        "]",
        "%",
        "%2f",
        "%40",
        "%00",
        ".",
        "..",
        " ",
    ),
    *(
        "127.0.0.1",
        "0x7f",
        "017",
        "::1",
        "::ffff:",
        "80",
        "example.com",
        "localhost",
        "a",
        "-",
        "_",
        "xn--",
        "é",
    ),
    *(
        "\n",
        "\0",
        "\ud800",
        "\u00ad",
        "\u3002",
        "\uff0e",
        "\u200d",
        "١",
        "１",
        "Å",
        "ß",
        "\u0130",
        "huggingface.co",
    ),
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.booleans())
def test_all_readers_of_what_is_sent_read_the_same_host(text, bare):
    """httpx and yarl read it again after the guard; neither may find another host, user or port in it."""
    try:
        sent = web_address(text if bare else f"http://{text}")
    except ToolError as error:
        assert error.failure is Failure.TOOL_ERROR
        return
    try:
        url = httpx.URL(sent)
    except httpx.InvalidURL:
        return  # WebClient reports it as no address
    again = yarl.URL(str(url), encoded=True)
    host = sent.split("/")[2]
    assert (
        url.netloc.decode() == again.host_port_subcomponent == host and again.user is None and "@" not in host
    )
    assert web_address(sent) == sent


def test_headers_that_a_reader_would_send():
    headers = {"accept": "text/html", "User-Agent": "x", "Cookie": "consent=yes", "Referer": "http://a.test/"}
    assert check_headers(headers) == headers


HEADERS = {
    "metadata of Google": ("Metadata-Flavor", "Google"),
    "metadata of Google, old": ("X-Google-Metadata-Request", "True"),
    "metadata of AWS": ("X-aws-ec2-metadata-token", "t"),
    "metadata of Azure": ("Metadata", "true"),
    "credentials": ("Authorization", "Bearer t"),
    "credentials for a proxy": ("Proxy-Authorization", "Basic t"),
    "another host": ("Host", "127.0.0.1"),
    "forwarded": ("X-Forwarded-For", "127.0.0.1"),
    "our own id": ("X-Request-Id", "e:0.0"),
    "another method": ("X-HTTP-Method-Override", "PUT"),
    "framing": ("Transfer-Encoding", "chunked"),
    "length": ("Content-Length", "0"),
    "compression": ("Accept-Encoding", "br"),
    "name with a line": ("Accept\r\nHost", "x"),
    "name with a space": ("Accept ", "x"),
    "no name": ("", "x"),
    "long name": ("A" * 100_000, "x"),
    "line in the value": ("Accept", "x\r\nHost: 127.0.0.1"),
    "null byte in the value": ("Accept", "x\0"),
    "lone surrogate in the value": ("Accept", "\ud800"),
    "long value": ("Cookie", "x" * 100_000),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_are_not_the_models(header):
    with pytest.raises(ToolError, match=r"^custom_headers: ") as caught:
        check_headers(dict([header]))
    assert caught.value.failure is Failure.TOOL_ERROR and len(str(caught.value)) < 250
