"""Delimited text is read as RFC 4180 says: a seller's text is the content of a cell, and never a row."""

import csv
import io
import random
from pathlib import Path

import pytest

from piepowder.imports.file_options import FileOptions
from shared.runtime.user_errors import UserError
from tests.support.listing_files import GERMAN, SHOP, imported


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


FORGED_HEADERS = ["id;sku;title;text", "id|sku|title|text", "id#sku#title#text", "id\tsku\ttitle\ttext"]


@pytest.mark.parametrize("forged", FORGED_HEADERS)
def test_no_cell_is_evidence_for_the_header_or_the_delimiter(tmp_path: Path, forged: str) -> None:
    row = forged.replace("id", "F1").replace("text", "y")
    one_line = imported(tmp_path, f"id,title\n1,{forged}\n2,{row}\n3,Vase\n")
    assert [(item["id"], item["title"]) for item in one_line.items] == [("1", forged), ("2", row), ("3", "Vase")]
    quoted = imported(tmp_path, f'id,title,description\n1,Lamp,"x\n{forged}\n{row}"\n2,Vase,z\n')
    assert [(item["id"], item["text"]) for item in quoted.items] == [("1", f"x\n{forged}\n{row}"), ("2", "z")]
    assert not [*one_line.refusals, *quoted.refusals]


def test_a_comma_in_a_cell_of_a_semicolon_file_is_no_evidence(tmp_path: Path) -> None:
    found = imported(tmp_path, "id;title\n1;id,sku,title,text,price\n2;F1,s,Forged,y,5\n")
    assert [item["title"] for item in found.items] == ["id,sku,title,text,price", "F1,s,Forged,y,5"]


@pytest.mark.parametrize("known", ["SKU;Nombre;Titel", "Código;Nombre;Precio"])
def test_a_row_that_looks_like_a_header_is_not_one(tmp_path: Path, known: str) -> None:
    first = known.split(";")
    options = FileOptions(platform="shop", mapping={"id": first[0], "title": "Nombre"})
    found = imported(tmp_path, f"{known}\nA0;Silla;4\nid;title;price\nA1;Lampara;5\n", options)
    assert [(item["id"], item["title"]) for item in found.items] == [
        ("A0", "Silla"),
        ("id", "title"),
        ("A1", "Lampara"),
    ]
    assert "left out" not in found.notes


def test_a_header_without_a_known_name_is_not_replaced_by_a_later_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its columns are Código, Nombre, Precio"):
        imported(tmp_path, "Código;Nombre;Precio\nA0;Silla;4,00\nid;title;price\nA1;Lampara;5,00\n")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("title;price,id\n1;2,3\n", r"comma, semicolon"),
        ("title\nLamp\nid;title;text\nF1;Forged;y\n", r"comma, semicolon, pipe, number sign, tab"),
        ("Artikel\nid;title;price\n1;Lamp;5\n", r"comma, semicolon, pipe, number sign, tab"),
    ],
)
def test_a_first_row_with_several_readings_is_refused_with_the_option_that_decides(
    tmp_path: Path, content: str, names: str
) -> None:
    with pytest.raises(UserError, match=rf"line 1\) can be read with several delimiters \({names}\)\. Give the --deli"):
        imported(tmp_path, content, FileOptions(platform="shop", number_rows=True))


def test_a_table_of_one_column_is_read_if_no_row_has_a_delimiter_or_it_is_stated(tmp_path: Path) -> None:
    options = FileOptions(platform="shop", number_rows=True, delimiter=";")
    assert [item["title"] for item in imported(tmp_path, "title\nLamp, red\n", options).items] == ["Lamp, red"]
    assert imported(tmp_path, "id\n1\n").item["id"] == "1"


@pytest.mark.parametrize(
    "before",
    [
        "Export of my shop, 2026\n",
        "Shop export;;\nGenerated;2026-01-01;\n",
        "Shop;North\n\nExport, 2026\n",
        "#INFO;Version=0.0.2;\n#INFO;x;\n",
    ],
)
def test_narrower_rows_before_the_header_are_left_out(tmp_path: Path, before: str) -> None:
    assert imported(tmp_path, f"{before}id;title;price\n1;Lamp;2,50\n", GERMAN).item["title"] == "Lamp"


def test_a_row_before_a_quoted_header_is_left_out(tmp_path: Path) -> None:
    item = imported(tmp_path, 'Shop export, 2026\n"id"#"title"\n"1"#"a, b"\n').item
    assert (item["id"], item["title"]) == ("1", "a, b")


def test_a_table_drawn_with_characters_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a table drawn with characters: line 2 is a rule\. Export"):
        imported(tmp_path, "| id | title |\n| --- | :---: |\n| 1 | a |\n")


def test_a_header_with_another_line_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Line 1 .* line end of another kind"):
        imported(tmp_path, "id,ti\rtle\n1,a\nid,title\n2,b\n")


def test_a_line_end_of_another_kind_beside_a_quoted_cell_is_named_as_the_fault(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row of line 2 .*than the file \(CR LF\).*Save the file with one kind"):
        imported(tmp_path, 'id,title\r\n1,"a"\n2,"b"\r\n')


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
        ('id,title,text\n1,a\rb,"c\nx-1,Forged,y\n"d"\n2,d,e\n', "start of the next row is therefore uncertain"),
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
    item = imported(tmp_path, "My export;;;\n;;;\nid;foo;bar;image\n1;2;3;\n").item
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
        ('id\ttitle\n1\t5" pipe\n2\t"6 inch"\n', ['5" pipe', '"6 inch"']),
        ('id\ttitle\tbrand\n1\t"Lamp"\tx\n2\t"Cup"\ty\n', ["Lamp", "Cup"]),
        ('id\ttitle\n1\t""\n2\tb\n', [None, "b"]),
    ],
)
def test_a_tab_separated_file_is_quoted_or_not_as_a_whole(
    tmp_path: Path, content: str, titles: list[str | None]
) -> None:
    assert [item.get("title") for item in imported(tmp_path, content).items] == titles


@pytest.mark.parametrize(
    "content",
    [
        'id\ttitle\n1\t"15 inch\n2\tcable"\n',
        'id\ttitle\n1\t"15 inch\n2\tcable\n',
        'id\ttitle\n1\t"a "b" x\n2\tc\n',
        'id\ttitle\n1\t5" pipe\n2\t"6"" pipe"\n',
        'item-name\tseller-sku\tprice\n"19"" screen, black"\tS1\t1\nLamp\tS2\t2\n',
        'item-name\tseller-sku\tprice\n"Lamp, red"\tS1\t1\nLamp\tS2\t2\n',
        'item-name\tseller-sku\tprice\n"a\tS1\t1\nb"\tS2\t2\n',
        'id\ttitle\tbrand\n1\t"Best"\tx\n2\t"Cup"\t"y"\n',
    ],
)
def test_uncertain_quotation_marks_of_a_tab_separated_file_must_be_decided(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match="--quoting rfc4180 or --quoting none") as refused:
        imported(tmp_path, content)
    assert str(refused.value).endswith(".")
    assert len(imported(tmp_path, content, FileOptions(platform="shop", quoting="none")).items) == 2


def test_one_enclosed_cell_in_the_only_row_decides_no_quoting_of_tabs(tmp_path: Path) -> None:
    content = 'id\ttitle\n1\t"Best phone"\n'
    with pytest.raises(UserError, match="Give --quoting rfc4180 or --quoting none"):
        imported(tmp_path, content)
    decided = {
        how: imported(tmp_path, content, FileOptions(platform="shop", quoting=how)).item["title"]
        for how in ("rfc4180", "none")
    }
    assert decided == {"rfc4180": "Best phone", "none": '"Best phone"'}


def test_a_row_before_the_header_is_no_evidence_for_the_quoting_of_tabs(tmp_path: Path) -> None:
    content = 'Export of my shop\nid\ttitle\n1\t"Lamp\nx-1\tForged"\n2\t"GoPro"\n'
    with pytest.raises(UserError, match="Give --quoting"):
        imported(tmp_path, content)
    assert len(imported(tmp_path, content.replace("\tForged", ",Forged")).items) == 2


def test_a_report_of_a_format_without_quoting_that_was_saved_again_creates_no_row(tmp_path: Path) -> None:
    content = 'item-name\titem-description\tseller-sku\tprice\nLamp\t"a\nForged\tx\tF1\t1.00\nb"\tS1\t2.00\n'
    item = imported(tmp_path, content).item
    assert (item["id"], item["title"], item["text"]) == ("S1", "Lamp", "a\nForged\tx\tF1\t1.00\nb")


@pytest.mark.parametrize("blank", [" ", "\t", "  ", "\u00a0"])
@pytest.mark.parametrize(
    "row", ['1,{}"Lamp\n9,Forged,x\nend",y', '1,{}"""Lamp\n9,Forged,x\n""",y', '1,a\rb,{}"c\n9,F,x\nend"']
)
def test_white_space_before_a_quotation_mark_creates_no_row(tmp_path: Path, blank: str, row: str) -> None:
    with pytest.raises(UserError, match=r"row of line 2 .*white space is before the quotation mark.*--quoting none"):
        imported(tmp_path, f"id,title,description\n{row.format(blank)}\n2,Vase,z\n")


def test_white_space_and_marks_inside_a_quoted_cell_are_its_text(tmp_path: Path) -> None:
    item = imported(tmp_path, 'id,title,text\n1," ""Lamp""","a, ""b"", c, "\n').item
    assert (item["title"], item["text"]) == ('"Lamp"', 'a, "b", c,')


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
