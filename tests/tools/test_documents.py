"""Documents to lines: what each kind gives, what a server calls it, and what is refused in which words."""

import datetime
import io
import random
import zipfile

import pytest
from document_files import docx_file, pdf, pptx_file, rezipped, saved, xlsx_file

from mirothinker_jax.tools import archive, documents, table_lines
from mirothinker_jax.tools import pdf as pdf_module
from mirothinker_jax.tools.documents import Source, choose_lines, missing_libraries, read_page
from mirothinker_jax.tools.page_kind import Unreadable

URL = "http://a.test/x"
TABLE = ("city | height", "city: Paris | height: 330")
PDF, DOCX, PPTX = pdf(["The tower is 330 m high."], title="Towers"), docx_file(), pptx_file()
XLSX = xlsx_file([["city", "height"], ["Paris", 330.0]])
LOGIN = b"<!DOCTYPE html><title>Sign in</title><p>You must sign in to see the file.</p>"


def read(body, kind="", url=URL):
    page = read_page(Source(body, kind, url), 5.0)
    return page.title, page.lines


def refusal(body, kind="", url=URL):
    with pytest.raises(Unreadable) as caught:
        read(body, kind, url)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "kind", "title", "lines"),
    [
        (PDF, "application/pdf", "Towers", ("The tower is 330 m high.",)),
        (DOCX, "application/msword", "Of towers", ("Of towers", "The tower is 330 m high.", *TABLE)),
        (docx_file("Named"), "", "Named", ("Of towers", "The tower is 330 m high.", *TABLE)),
        (XLSX, "", f"{URL} (sheets: Sheet)", TABLE),
        (
            PPTX,
            "",
            "Slide 1: Of towers",
            ("Slide 1: Of towers", *TABLE, "Say that it was built in 1889."),
        ),
        (b"city;height\nParis;330\n", "text/csv", URL, TABLE),
        (b"city\theight\nParis\t330\n", "text/tab-separated-values", URL, TABLE),
        ("# Türme\n\n* 330 m".encode(), "text/markdown", "Türme", ("# Türme", "* 330 m")),
        (b'{"height":\n330}', "application/json", URL, ('{"height":', "330}")),
    ],
)
def test_each_kind(body, kind, title, lines):
    assert read(body, kind) == (title, lines)


@pytest.mark.parametrize(
    "kind", ["", "application/octet-stream", "text/html", "text/plain", "image/png", "x"]
)
@pytest.mark.parametrize("body", [PDF, DOCX, XLSX, PPTX, b"\n\n" + PDF, b"junk\n" + PDF])
def test_bytes_decide_whatever_the_server_calls_them(kind, body):
    assert any("330" in line for line in read(body, kind)[1])


@pytest.mark.parametrize(
    ("body", "kind", "url", "title"),
    [
        (LOGIN, "application/pdf", "http://a.test/x.pdf", "Sign in"),
        (LOGIN, "application/octet-stream", URL, "Sign in"),
        (LOGIN, "", URL, "Sign in"),
        (LOGIN, "text/plain", URL, URL),  # as its server wants it shown
        (b"a,b\n1,2", "", "http://a.test/x.CSV?y=1", "http://a.test/x.CSV?y=1"),
        ("\ufefftitle\n".encode("utf-16-le"), "application/octet-stream", URL, URL),
    ],
)
def test_what_is_no_document(body, kind, url, title):
    assert read(body, kind, url)[0] == title


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            "an old Office file (.doc, .xls, .ppt) or one with a password",
        ),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image"),
        (b"\x00\x00\x00\x20ftypmp42", "a video or an image (MP4, HEIC)"),
        (bytes(range(256)), "bytes that are no text"),
        (b"{\\rtf1 x}", "RTF"),
        (b"PK\x03\x04" + bytes(30), "a damaged ZIP archive or Office file (File is not a zip file)"),
        (pdf([]), "a PDF without text (1 pages, perhaps scanned)"),
        (b"%PDF-1.7\n%%EOF", "a damaged PDF (Failed to load document (PDFium: Data format error).)"),
        (rezipped(b"PK\x05\x06" + bytes(18), add={"a.txt": b"x"}), "a ZIP archive"),
        (rezipped(b"PK\x05\x06" + bytes(18), add={"META-INF/container.xml": b"x"}), "an EPUB book"),
        (xlsx_file([]), "an Office file without text"),
        (
            rezipped(
                DOCX, {"[Content_Types].xml": lambda old: old.replace(b"document.main", b"template.main")}
            ),
            "an Office file that is no document, sheet or presentation (a template, a macro, XLSB)",
        ),
        (
            rezipped(DOCX, {"word/document.xml": lambda old: b"<!DOCTYPE a [<!ENTITY b 'c'>]>" + old}),
            "an Office file whose XML declares entities",
        ),
        (
            rezipped(XLSX, {"xl/workbook.xml": lambda old: "<!DOCTYPE a []>".encode("utf-16")}),
            "an Office file whose XML declares entities",
        ),
        (
            rezipped(DOCX, compression=zipfile.ZIP_LZMA),
            "an Office file with a compression that Office does not use",
        ),
        (
            rezipped(DOCX, {"word/document.xml": lambda old: b"<a>" * 5_000}),
            "a damaged DOCX file (XMLSyntaxError: Excessive depth in document",
        ),
    ],
)
def test_refusals_say_what_it_is(body, message):
    assert refusal(body).startswith(message)


def test_bombs_stop_at_the_limit_by_the_directory_and_while_reading(monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", dict.fromkeys(archive.MAX_BYTES, 1 << 20))
    monkeypatch.setattr(archive, "MAX_MEMBERS", 50)
    bomb = rezipped(DOCX, add={"word/bomb.xml": bytes(2 << 20)})
    assert len(bomb) < 50_000 and refusal(bomb) == "an Office file that unpacks to more than 1 MiB"
    size = (2 << 20).to_bytes(4, "little")
    assert bomb.count(size) == 2  # in the member's own header and in the directory
    liar = bomb.replace(size, (1_000).to_bytes(4, "little"))
    assert "Bad CRC-32" in refusal(liar)
    many = rezipped(DOCX, add={f"x{i}.xml": b"" for i in range(50)})
    assert refusal(many) == "an Office file of more than 50 parts"
    # What is not XML is never unpacked.
    assert read(rezipped(DOCX, add={"word/media/image.png": bytes(4 << 20)}))[0] == "Of towers"


@pytest.mark.parametrize("body", [PDF, DOCX, XLSX, PPTX])
def test_damaged_files_are_refused_in_one_line_or_read_in_part(body):
    random_bytes = random.Random(0)
    for _ in range(30):
        damaged = bytearray(body)
        for _ in range(random_bytes.choice((1, 8, 64))):
            damaged[random_bytes.randrange(8, len(body))] = random_bytes.randrange(256)
        cut = body[: random_bytes.randrange(8, len(body))]
        for wrong in (bytes(damaged), cut):
            try:
                read(wrong)
            except Unreadable as error:
                assert "\n" not in str(error) and len(str(error)) < 300


def test_damaged_xml_behind_an_honest_archive():
    """What the libraries stumble over: parts without what they need, of another kind, or missing."""
    for body in (DOCX, XLSX, PPTX):
        for i, name in enumerate(zipfile.ZipFile(io.BytesIO(body)).namelist()):
            wrong = (b"<a/>", b"", b"\x00")[i % 3]
            try:
                read(rezipped(body, {name: lambda old, wrong=wrong: wrong}))
            except Unreadable as error:
                assert "\n" not in str(error)


def test_long_documents_are_read_in_part_and_say_so(monkeypatch):
    monkeypatch.setattr(pdf_module, "MAX_PAGES", 2)
    monkeypatch.setattr(table_lines, "MAX_ROWS", 3)
    assert read(pdf(["a."], ["b."], ["c."])) == ("a. (pages 1–2 of 3 read)", ("a.", "b."))
    assert read(b"a,b\n" * 5, "text/csv")[0] == f"{URL} (first 3 rows read)"
    monkeypatch.setattr(documents, "PAGE_CHARS", 10)
    for body in (DOCX, XLSX, PPTX):
        title, lines = read(body)
        assert title.endswith("(only its beginning was read)") and len(lines) >= 1
    assert read_page(Source(pdf(["a."], ["b."]), "", URL), 0.0).title == "a. (pages 1–1 of 2 read)"


def test_a_pdf_that_lies_about_its_pages():
    liar = PDF.replace(b"/Count 1", b"/Count 9")
    assert "The tower is 330 m high." in read(liar)[1]


def test_lines_of_a_pdf_run_on_to_the_end_of_a_sentence():
    text = [
        "The tower was built for a fair of that year, and",
        "is as tall as a house of 81 floors.",
        "Height",
        "330 m",
    ]
    assert read(pdf(text))[1] == (" ".join(text[:2]), *text[2:])


def test_sheets_values_and_gaps():
    rows = [["day", "n", "ok"], [datetime.datetime(2024, 1, 2), 1.5, True], [None, None, "x"]]
    assert read(xlsx_file(rows, [], [["k", "v"]]))[1] == (
        "[Sheet] day | n | ok",
        "[Sheet] day: 2024-01-02 | n: 1.5 | ok: True",
        "[Sheet] ok: x",
        "[Sheet2] k | v",
    )
    # A sheet that claims the largest size, and a cell in the last row, cost nothing.
    far = rezipped(
        XLSX,
        {
            "xl/worksheets/sheet1.xml": lambda old: old.replace(
                b'ref="A1:B2"', b'ref="A1:XFD1048576"'
            ).replace(
                b"</sheetData>",
                b'<row r="1048576"><c r="XFD1048576" t="str"><v>far</v></c></row></sheetData>',
            )
        },
    )
    assert read(far)[1] == (*TABLE, "(only the first 20,000 rows were read)")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a,b\n1,2", ("a | b", "a: 1 | b: 2")),
        (
            'name|text\nx|"1, 2, 3"\ny|4, 5',
            ("name | text", "name: x | text: 1, 2, 3", "name: y | text: 4, 5"),
        ),
        ("1.5;2\n3;4", ("1.5: 2", "3: 4")),
        ("just words\nand more", ("just words", "and more")),
        ("a,b\n1,2,3\n\n4", ("a | b", "a: 1 | b: 2 | 3", "a: 4")),
        ('a,b\n"1\n2",3', ("a | b", "a: 1 2 | b: 3")),
        ('a,b\n"unclosed,3', ("a | b", "a: unclosed,3")),
        ("a,b\n\x00,é", ("a | b", "b: é")),
    ],
)
def test_tables(text, lines):
    assert read(text.encode(), "text/csv")[1] == lines


def test_a_quote_that_nobody_closes_leaves_lines():
    assert read(b'a,"b\n' + b"1,2\n" * 40_000, "text/csv")[1][:3] == ('a,"b', "1,2", "1,2")


def test_word_text_that_python_docx_leaves_out():
    """Content controls, inserted text, links; but no deleted text."""
    namespace = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    body = (
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>controlled</w:t></w:r></w:p></w:sdtContent></w:sdt>"
        "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        "<w:r><w:tab/><w:t>x</w:t><w:br/><w:t>y</w:t></w:r></w:p>"
    )
    document = f"<w:document {namespace}><w:body>{body}</w:body></w:document>".encode()
    assert read(rezipped(DOCX, {"word/document.xml": lambda old: document}))[1] == (
        "controlled",
        "new x",
        "y",
    )


def test_a_link_in_a_document():
    import docx
    from docx.opc.constants import RELATIONSHIP_TYPE
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    document = docx.Document()
    paragraph = document.add_paragraph("see ")
    link = OxmlElement("w:hyperlink")
    link.set(
        qn("r:id"), document.part.relate_to("http://b.test/", RELATIONSHIP_TYPE.HYPERLINK, is_external=True)
    )
    paragraph._p.append(link)
    link.append(paragraph.add_run("there")._r)
    assert read(saved(document))[1] == ("see [there](http://b.test/)",)


def test_lines_are_chosen_and_a_missing_library_is_named(monkeypatch):
    page = read_page(Source(DOCX, "", URL), 5.0)
    assert choose_lines(page, "height in Paris", 1).lines == ("city: Paris | height: 330",)
    assert choose_lines(page, "anything", 0) == page
    assert missing_libraries() == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing_libraries() == ["PDF", "DOCX", "XLSX", "PPTX"]
    assert refusal(PDF) == "PDF, for which no reader is installed here"
