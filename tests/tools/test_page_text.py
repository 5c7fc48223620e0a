"""Bytes as a web server sends them, over loopback, through the scrape tool, to the line that was asked for."""

import asyncio
from dataclasses import dataclass

import pytest

from mirothinker_jax.config import ToolsConfig
from mirothinker_jax.tools.browse import ScrapePage
from mirothinker_jax.tools.client import WebClient
from mirothinker_jax.tools.encoding import decode_page

HTML = "text/html"


def page(body, head=""):
    return f"<html><head>{head}<title>T</title></head><body>{body}</body></html>"


@dataclass
class Served:
    """A page as bytes; `line` is the first that the tool should show for `wanted`, below the title."""

    body: bytes
    wanted: str
    line: str
    content_type: str | None = HTML
    headers: str = ""


def coded(codec, text, line, head="", content_type: str | None = HTML):
    return Served(page(f"<p>height {text}</p>", head).encode(codec), "height", f"height {line}", content_type)


def utf8(body, wanted, line, head="", headers=""):
    return Served(page(body, head).encode(), wanted, line, f"{HTML}; charset=utf-8", headers)


LONG = "The filler says nothing at all. " * 200
PAGES = {
    # scripts without spaces between words
    "Chinese": utf8(
        "<p>它于1888年建成。</p><p>该塔的总高度为三百三十米。</p>", "高度", "该塔的总高度为三百三十米。"
    ),
    "Chinese, other words": utf8(
        "<p>它于1888年建成。</p><p>总高为三百三十米。</p>", "这座塔有多高？", "总高为三百三十米。"
    ),
    "one character": utf8("<p>它于1888年建成。</p><p>总高为三百米。</p>", "高", "总高为三百米。"),
    "Japanese": utf8(
        "<p>1888年に完成しました。</p><p>この塔の高さは330メートルです。</p>",
        "塔の高さ",
        "この塔の高さは330メートルです。",
    ),
    "full width": utf8("<p>x</p><p>ＨＥＩＧＨＴ：３３０</p>", "height", "ＨＥＩＧＨＴ：３３０"),
    "Thai": utf8("<p>สร้างเสร็จในปี 1888</p><p>หอคอยมีความสูง 330 เมตร</p>", "ความสูง", "หอคอยมีความสูง 330 เมตร"),
    "Korean": utf8(
        "<p>1888년에 완공되었다.</p><p>타워의 높이는 330미터이다.</p>", "높이", "타워의 높이는 330미터이다."
    ),
    "Hindi": utf8("<p>राजा दिन</p><p>दिल्ली की ऊँचाई</p>", "दिल्ली", "दिल्ली की ऊँचाई"),
    "Russian": utf8("<p>В 1888 году.</p><p>Высота башни 330 м.</p>", "высота", "Высота башни 330 м."),
    # what was dropped
    "one form": utf8(
        "<form id=aspnetForm><h1>A</h1><p>It was opened in 1931.</p></form>",
        "opened",
        "It was opened in 1931.",
    ),
    "fields of a form": utf8(
        "<form><select><option>opened</select><button>opened</button>opened: 1931</form>",
        "opened",
        "opened: 1931",
    ),
    "all in an aside": utf8(
        "<aside><p>It was opened in 1931.</p></aside>", "opened", "It was opened in 1931."
    ),
    "all without script": utf8(
        "<script>opened()</script><noscript><p>opened in 1931</p></noscript>", "opened", "opened in 1931"
    ),
    # encodings
    "gb2312 is gb18030": coded("gb18030", "作者 镕基 𠮷", "作者 镕基 𠮷", "<meta charset=gb2312>"),
    "gbk is gb18030": coded("gb18030", "€ 𠮷", "€ 𠮷", content_type="text/html; charset=GBK"),
    "latin-1 is windows-1252": coded(
        "cp1252", "“quoted” – €5", "“quoted” – €5", content_type="text/html; charset=ISO-8859-1"
    ),
    "ascii is windows-1252": coded(
        "cp1252", "café’s", "café’s", content_type='text/html; charset="us-ascii"'
    ),
    "shift_jis is cp932": coded(
        "cp932", "①髙", "①髙", '<meta http-equiv="Content-Type" content="text/html; charset=x-sjis">'
    ),
    "euc-kr is cp949": coded("cp949", "똠방", "똠방", "<meta charset='ks_c_5601-1987'>"),
    "big5 with Hong Kong": coded("big5hkscs", "㗎", "㗎", "<meta charset=big5>"),
    "Thai in cp874": coded("cp874", "สูง …", "สูง …", "<meta charset=tis-620>"),
    "Cyrillic": coded("koi8-r", "высота", "высота", content_type="text/html;charset=KOI8-R"),
    "a BOM outranks the header": coded("utf-8-sig", "é", "é", content_type="text/html; charset=iso-8859-1"),
    "UTF-16 by its BOM": coded("utf-16", "é", "é", content_type="text/html; charset=utf-8"),
    "the header outranks the page": coded(
        "utf-8", "é", "é", "<meta charset=iso-8859-1>", "text/html; charset=utf-8"
    ),
    "an unknown label": coded("utf-8", "é", "é", "<meta charset=utf-8>", "text/html; charset=utf8mb4"),
    "a late declaration": coded(
        "cp1251", "высота", "высота", f"<style>{'x' * 3000}</style><meta charset=windows-1251>"
    ),
    "a declaration in a comment": coded("utf-8", "é", "é", "<!-- <meta charset=koi8-r> -->"),
    "UTF-16 that is none": coded("utf-8", "é", "é", "<meta charset=utf-16>"),
    "nothing declared": coded("utf-8", "é", "é"),
    "nothing declared, not UTF-8": coded("cp1252", "é", "é"),
    "no type": coded("utf-8", "é", "é", content_type=None),
    "plain text": Served(
        "x\nheight é\n".encode("cp1252"), "height", "height é", "text/plain; charset=latin1"
    ),
    "XHTML": Served(
        ('<?xml version="1.0" encoding="euc-jp"?>' + page("<p>height 高</p>")).encode("euc-jp"),
        "height",
        "height 高",
        "application/xhtml+xml",
    ),
    # lines
    "pre": utf8(
        "<pre>" + "".join(f"tower{i} height {i}\n" for i in range(300)) + "</pre>",
        "tower200 height",
        "tower200 height 200",
    ),
    "code in pre": utf8("<pre><code>a\n<span>height</span> 330\nc</code></pre>", "height", "height 330"),
    "not in pre": utf8("<p>tower\nheight\n330</p>", "height", "tower height 330"),
    "a page of one line": utf8(f"<p>{LONG}The height is 330. {LONG}</p>", "height", "The height is 330."),
    "a Chinese page of one line": utf8(
        f"<p>{'它于一八八八年建成。' * 500}总高度为三百米。</p>", "高度", "总高度为三百米。"
    ),
    "JSON of one line": Served(
        ("{" + ",".join(f'"key{i}":{i}' for i in range(3000)) + ',"height":330}').encode(),
        "height",
        '"height":330',
        "application/json",
    ),
    # links
    "base": utf8(
        "<p>height <a href=next.html>next</a></p>",
        "height",
        "height [next](http://docs.test/v2/next.html)",
        "<base href=http://docs.test/v2/>",
    ),
    "relative base": utf8(
        "<p>height <a href=next>next</a></p>",
        "height",
        "height [next](URL/v2/next)",
        "<base target=_top><base href=/v2/>",
    ),
    "no base": utf8(
        "<p>height <a href=next>next</a></p>", "height", "height [next](URL/p/next)", "<base href='http://['>"
    ),
    # headers
    "a header of 9,000 bytes": utf8(
        "<p>height 330</p>", "height", "height 330", headers=f"Content-Security-Policy: {'x' * 9_000}\r\n"
    ),
    "a header of 100,000 bytes": utf8(
        "<p>height 330</p>", "height", "height 330", headers=f"X-A: {'x' * 100_000}\r\n"
    ),
    "many cookies": utf8("<p>height 330</p>", "height", "height 330", headers="Set-Cookie: a=b\r\n" * 90),
}


@pytest.mark.parametrize("reader", ["rules", "trafilatura"])
@pytest.mark.usefixtures("loopback_is_public")
def test_the_line_that_was_asked_for(reader):
    names = list(PAGES)

    async def serve(stream, writer):
        request = await stream.readuntil(b"\r\n\r\n")
        served = PAGES[names[int(request.split()[1].split(b"/")[-1])]]
        kind = f"Content-Type: {served.content_type}\r\n" if served.content_type else ""
        length = f"Content-Length: {len(served.body)}\r\nConnection: close\r\n"
        head = f"HTTP/1.1 200 OK\r\n{kind}{served.headers}{length}\r\n"
        writer.write(head.encode() + served.body)
        await writer.drain()
        writer.close()

    async def main():
        settings = ToolsConfig(reader=reader, scrape_lines=1)
        tool = ScrapePage(WebClient(), settings)
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            shown = {}
            for number, name in enumerate(names):
                arguments = {"url": f"{url}/p/{number}", "info_to_extract": PAGES[name].wanted}
                shown[name] = (await tool.run(arguments, "e:0.0")).partition("\n")[2].replace(url, "URL")
            await tool.aclose()
        return shown

    shown = asyncio.run(main())
    wrong = {name: text for name, text in shown.items() if PAGES[name].line not in text[:2_000]}
    assert wrong == {}


def test_a_body_that_was_cut_in_a_character_is_still_utf8():
    assert decode_page("é".encode() * 3 + b"\xc3", "text/html") == "ééé\ufffd"
