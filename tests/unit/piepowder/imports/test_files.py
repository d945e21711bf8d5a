"""A file that cannot be read is identified in one sentence, with the remedy."""

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from shared.runtime.user_errors import UserError
from tests.support.listing_files import imported, workbook


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        for name in names:
            opened.writestr(name, "x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"%PDF-1.7 ...", "is a PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1....", "old Office file"),
        (b"PK\x03\x04junk", "damaged ZIP"),
        (archive("a.csv", "b.csv"), "ZIP archive with a.csv, b.csv"),
        (archive("word/document.xml"), "a Word document"),
        (archive("mimetype", "content.xml"), "OpenDocument"),
        (archive("xl/workbook.bin"), "XLSB"),
        (archive("Index/Document.iwa"), "Numbers"),
        (b"\x28\xb5\x2f\xfd....", "zstd"),
        (b"BZh9....", "bzip2"),
        (b"SQLite format 3\x00....", "SQLite"),
        (b"PAR1....", "Parquet"),
        (b"\xff\xd8\xff\xe0....", "JPEG"),
        (b"ab\x00\x01\x02", "contains NUL bytes"),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b'<?xml version="1.0"?><catalog><p/></catalog>', "root element <catalog>"),
        (b'<?xml version="1.0"?><urlset/>', "a sitemap"),
        (b'<?xml version="1.0"?><rss><item>', "not well-formed XML"),
        (b'<?xml version="1.0"?><rss><channel/></rss>', "without a single <item>"),
        (
            b'<!DOCTYPE r [<!ENTITY a "b">]><rss><channel><item><id>&a;</id></item></channel></rss>',
            "entity",
        ),
        (compressed(b"id,title\n1,a\n" * 500)[:-20], "cannot be decompressed"),
        ("[{}]".encode("utf-16"), "JSON in UTF-16"),
        ('{"id": 1}\n{"id": 2}\n'.encode("utf-16"), "JSON in UTF-16"),
        (b"[1, 2]", "not a JSON object"),
        (b"[]", "empty JSON array"),
        (b'[{"platform": "a"},', "not valid JSON"),
        (b'{"products": [{"id": 1}]}', r"jq -c '\.products\[\]' FILE"),
        (b'{\n  "products": [\n    {"id": 1}\n  ]\n}\n', r"jq -c '\.products\[\]' FILE"),
        (b"title,price\na,1\n", r"--map id=COLUMN.*--id row, or correct the --delimiter\.$"),
        (workbook({"A": [["title", "price"], ["a", 1]]}), r"--map id=COLUMN.*--id row\.$"),
        (b"<rss><channel><item><title>a</title></item></channel></rss>", r"--map id=COLUMN.*--id row\.$"),
        ('<?xml version="1.0"?><rss/>'.encode("utf-32"), r"is XML in UTF-32\. Save it as UTF-8"),
    ],
)
def test_an_unusable_file_is_identified_with_its_remedy(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        imported(tmp_path, content)
    assert str(refused.value).endswith(".")
    assert refused.value.what.endswith(".")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (compressed(b"id,title\n1,a\n"), "f.csv.gz"),
        (compressed(b"id,title\n1,a\n"), "without-suffix"),
        (compressed(workbook({"A": [["id", "title"], [1, "a"]]})), "f.xlsx.gz"),
        (workbook({"A": [["id", "title"], [1, "a"]]}), "named-wrongly.csv"),
        (b"\xef\xbb\xbfid,title\n1,a\n", "f.txt"),
        (b'[{"sku": 1, "name": "a"}]', "f.json"),
        (b'\n[ {"sku": 1, "name": "a"}]', "f.ndjson"),
        (b"[id],title\n1,a\n", "f.csv"),
    ],
)
def test_the_content_decides_and_not_the_name(tmp_path: Path, content: bytes, name: str) -> None:
    item = imported(tmp_path, content, name=name).item
    assert (item["id"], item["title"]) == ("1", "a")
