"""Delimited text is read as RFC 4180 says: a seller's text is the content of a cell, and never a row."""

import csv
import io
import random
from pathlib import Path

import pytest

from piepowder.imports.file_options import FileOptions
from shared.runtime.user_errors import UserError
from tests.support.listing_files import SHOP, imported


def test_a_quoted_cell_of_several_lines_is_one_cell(tmp_path: Path) -> None:
    content = 'id,title,description\n1,"Brass lamp, old\nOak base, nice",Wired for 230 V\n'
    item = imported(tmp_path, content).item
    assert (item["id"], item["title"], item["text"]) == ("1", "Brass lamp, old\nOak base, nice", "Wired for 230 V")


@pytest.mark.parametrize("lines", [2, 250, 5_000])
def test_no_line_of_a_quoted_description_becomes_a_listing(tmp_path: Path, lines: int) -> None:
    text = "\n".join(["x-1,Another title,text,1.00"] * lines)
    found = imported(tmp_path, f'id,title,description,price\n1,Lamp,"{text}",12.00\n2,Cup,Blue,3.00\n')
    if len(text) > 50_000:
        assert [item["id"] for item in found.items] == ["2"]
        assert "at most 50,000" in found.refusals[0].detail
    else:
        assert [item["id"] for item in found.items] == ["1", "2"]
        assert found.items[0]["text"] == text
    assert found.lines[-1].number == lines + 2


def test_random_texts_are_stored_character_by_character(tmp_path: Path) -> None:
    pick = random.Random(7)
    signs = ['"', '""', ",", ";", "\n", "\r\n", "\r", "\t", "|", "#", "x-1", "é", "猫", "'", "=", "\u2028", " "]
    for delimiter in ",;|#\t":
        rows = [
            [str(n), "T" + "".join(pick.choices(signs, k=12)) + "t", "D" + "".join(pick.choices(signs, k=30)) + "d"]
            for n in range(60)
        ]
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["id", "title", "description"], *rows])
        found = imported(tmp_path, text.getvalue())
        assert [[item["id"], item["title"], item["text"]] for item in found.items] == rows
        assert not found.refusals


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('id,title\n1,"open,x\n2,a\n', "row of line 2 is not closed before the end"),
        ('id,title\n1,"Lamp "Brass", old\nx-1,Forged\n"\n', "in line 2 of .* are not those of RFC 4180"),
        ('id,title,text\n1,a\rb,"c\nx-1,Forged,y\n"d"\n2,d,e\n', "are not those of RFC 4180"),
    ],
)
def test_a_file_with_faulty_quotation_marks_is_refused_before_anything_is_sent(
    tmp_path: Path, content: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        imported(tmp_path, content)


def test_a_file_that_does_not_quote_is_read_as_written_on_request(tmp_path: Path) -> None:
    options = FileOptions(platform="shop", quoting="none")
    found = imported(tmp_path, 'id,title\n1,"open\n2,6" pipe\n', options)
    assert [item["title"] for item in found.items] == ['"open', '6" pipe']


@pytest.mark.parametrize("delimiter", [",", ";", "|", "#", "\t"])
def test_the_delimiter_is_detected_even_if_cells_contain_others(tmp_path: Path, delimiter: str) -> None:
    rows = [["id", "title", "price"], ["1", '"a, b; c | d # e"', "2"], ["2", '"f, g"', "3"]]
    content = "\n".join(delimiter.join(row) for row in rows)
    assert [item["title"] for item in imported(tmp_path, content).items] == ["a, b; c | d # e", "f, g"]


def test_a_separator_line_states_the_delimiter(tmp_path: Path) -> None:
    found = imported(tmp_path, "sep=;\r\nid;title\r\n1;a,b\r\n")
    assert found.item["title"] == "a,b"
    assert found.lines[0].number == 3
    assert found.notes["delimiter"] == "semicolon (sep= line)"


def test_lines_before_the_header_are_left_out_and_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, 'Export of "my" shop, 2026\n\nid;title;price\n1;a;2\n')
    assert found.item["id"] == "1"
    assert found.notes["left out"] == """2 lines before the header: 'Export of "my" shop, 2026'"""


def test_a_header_with_one_known_name_is_found_below_titles(tmp_path: Path) -> None:
    item = imported(tmp_path, "My export;;\n;;\nid;foo;bar\n1;2;3\n").item
    assert (item["id"], item["attributes"]) == ("1", {"foo": "2", "bar": "3"})


def test_a_row_that_repeats_the_header_is_left_out_and_reported(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title\n1,a\nid,title\n2,b\n")
    assert [item["id"] for item in found.items] == ["1", "2"]
    assert found.notes["left out"] == "1 rows that repeat the header"


def test_rows_with_the_wrong_number_of_cells_are_refused_with_line_and_reason(tmp_path: Path) -> None:
    found = imported(tmp_path, "id,title\n1,a\n2\n3,b,c\n4,d,\n\n,,\n5,e\n")
    assert [item["id"] for item in found.items] == ["1", "4", "5"]
    assert found.refusals == [
        (3, 0, "the row has 1 cells, the header has 2"),
        (4, 0, "the row has 3 cells, the header has 2"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_end_is_accepted(tmp_path: Path, end: str) -> None:
    found = imported(tmp_path, end.join(["id,title", "1,a", "2,b", ""]))
    assert [(item["id"], item["title"]) for item in found.items] == [("1", "a"), ("2", "b")]


@pytest.mark.parametrize(
    "content",
    [
        "id,title,text\n1,a\rx-1,b,c\n2,d,e\n",
        "id,title,text\r\n1,a\nx-1,b,c\r\n2,d,e\r\n",
        'id,title,text\n1,a\rb,"c\nx-1,Forged,y\n"\n2,d,e\n',
        'id,title,text\r\n1,a\nb,"c\r\nx-1,Forged,y\r\n"\r\n2,d,e\r\n',
    ],
)
def test_a_line_end_of_another_kind_outside_of_quotation_marks_creates_no_row(tmp_path: Path, content: str) -> None:
    found = imported(tmp_path, content)
    assert [item["id"] for item in found.items] == ["2"]
    assert [(refusal.number, refusal.detail[:36]) for refusal in found.refusals] == [
        (2, "the row has a line end of another ki")
    ]


def test_a_lone_carriage_return_in_quotation_marks_is_kept(tmp_path: Path) -> None:
    assert imported(tmp_path, 'id,title\n1,"a\rb"\n').item["title"] == "a\rb"


def test_an_inline_picture_is_named_and_the_next_row_is_read(tmp_path: Path) -> None:
    picture = f'<img src=""data:image/png;base64,{"A" * 150_000}"">'
    found = imported(tmp_path, f'id,title,text\n1,a,"{picture}"\n2,b,c\n')
    assert [item["id"] for item in found.items] == ["2"]
    assert "contains an inline picture (at 10); at most 50,000 are allowed" in found.refusals[0].detail


@pytest.mark.parametrize(
    ("content", "titles"),
    [
        ('id\ttitle\n1\t"GoPro" cable\n2\tx "y\n', ['"GoPro" cable', 'x "y']),
        ('id\ttitle\n1\t"GoPro"\n2\tcable\n', ['"GoPro"', "cable"]),
        ('id\ttitle\n1\t"Lamp, oak"\n2\t"5"" pipe"\n3\tplain\n', ["Lamp, oak", '5" pipe', "plain"]),
        ('"id"\t"title"\n"1"\t"Lamp"\n', ["Lamp"]),
        ('id\ttitle\n1\t"a\nx-1\tForged\nb"\n', ["a\nx-1\tForged\nb"]),
    ],
)
def test_a_tab_separated_file_is_quoted_or_not_as_a_whole(tmp_path: Path, content: str, titles: list[str]) -> None:
    assert [item["title"] for item in imported(tmp_path, content).items] == titles


@pytest.mark.parametrize(
    "content",
    ['id\ttitle\n1\t"15 inch\n2\tcable"\n', 'id\ttitle\n1\t"15 inch\n2\tcable\n', 'id\ttitle\n1\t"a "b" x\n2\tc\n'],
)
def test_uncertain_quotation_marks_of_a_tab_separated_file_must_be_decided(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="--quoting rfc4180 or --quoting none") as refused:
        imported(tmp_path, content)
    assert str(refused.value).endswith(".")
    assert len(imported(tmp_path, content, FileOptions(platform="shop", quoting="none")).items) == 2


def test_a_cell_above_the_limit_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"begins in line 2 has more than 16 MB|Line 2 .* has more than 16 MB"):
        imported(tmp_path, f'id,title\n1,"{"y" * (16 * 2**20 + 5)}"\n')


@pytest.mark.parametrize(("content", "sentence"), [("", "is empty"), ("\n\n", "is empty"), ("id,title\n", "no row")])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        imported(tmp_path, content)


def test_a_stated_delimiter_is_used(tmp_path: Path) -> None:
    assert imported(tmp_path, "id^title\n1^a,b\n", FileOptions(platform="shop", delimiter="^")).item["title"] == "a,b"


def test_a_nul_and_other_control_characters_refuse_only_their_row(tmp_path: Path) -> None:
    rows = "".join(f"{n},a plain title\n" for n in range(50))
    found = imported(tmp_path, f"id,title\n{rows}x,a\x00b\ny,a\x07b\nz,ok\n", SHOP)
    assert len(found.items) == 51
    assert [refusal.detail[24:53] for refusal in found.refusals] == [
        "control character U+0000 at 1",
        "control character U+0007 at 1",
    ]
