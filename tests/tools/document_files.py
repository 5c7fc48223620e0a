"""Tiny documents for tests, made by the libraries that read them; a PDF by hand, as none of them writes one."""

import io
import zipfile


def pdf(*pages, title=""):
    """A PDF of pages, each a list of lines of ASCII text."""
    objects = [b"", b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"]
    kids = []
    for lines in pages:
        drawn = "".join(f"1 0 0 1 50 {780 - 14 * i} Tm ({line}) Tj " for i, line in enumerate(lines))
        stream = f"BT /F1 10 Tf {drawn}ET".encode()
        objects.append(b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream))
        objects.append(
            b"<</Type/Page/Parent 1 0 R/MediaBox[0 0 600 800]/Contents %d 0 R"
            b"/Resources<</Font<</F1 2 0 R>>>>>>" % len(objects)
        )
        kids.append(b"%d 0 R" % len(objects))
    objects[0] = b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(kids), b" ".join(kids))
    objects.append(b"<</Type/Catalog/Pages 1 0 R>>")
    objects.append(b"<</Title(%s)>>" % title.encode())
    out, places = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, 2)
    for number, text in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj%s endobj\n" % (number, text))
    start, count = out.tell(), len(objects)
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (count + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer<</Size %d/Root %d 0 R/Info %d 0 R>>\n" % (count + 1, count - 1, count))
    out.write(b"startxref\n%d\n%%%%EOF" % start)
    return out.getvalue()


def docx_file(title=""):
    import docx

    document = docx.Document()
    document.core_properties.title = title
    document.add_heading("Of towers", 1)
    document.add_paragraph("The tower is 330 m high.")
    table = document.add_table(2, 2)
    for cell, text in zip(
        [c for row in table.rows for c in row.cells], ("city", "height", "Paris", "330"), strict=True
    ):
        cell.text = text
    return saved(document)


def xlsx_file(rows, *more):
    import openpyxl

    book = openpyxl.Workbook()
    sheets = [book.active, *(book.create_sheet() for _ in more)]
    for sheet, content in zip(sheets, (rows, *more), strict=True):
        for row in content:
            sheet.append(row)
    return saved(book)


def pptx_file():
    import pptx
    from pptx.util import Inches

    show = pptx.Presentation()
    slide = show.slides.add_slide(show.slide_layouts[5])
    slide.shapes.title.text = "Of towers"
    cells = slide.shapes.add_table(2, 2, *[Inches(1)] * 4).table
    for i, text in enumerate(("city", "height", "Paris", "330")):
        cells.cell(i // 2, i % 2).text = text
    slide.notes_slide.notes_text_frame.text = "Say that it was built in 1889."
    return saved(show)


def saved(document):
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def rezipped(body, replace=None, add=None, compression=zipfile.ZIP_DEFLATED):
    """The archive with members replaced (name → change of its bytes) and added (name → bytes)."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            change = (replace or {}).get(name, lambda content: content)
            new.writestr(name, change(old.read(name)))
        for name, content in (add or {}).items():
            new.writestr(name, content)
    return out.getvalue()
