"""The encoding is known, or it is a guess that nothing uses without a confirmation."""

from pathlib import Path

import pytest

from piepowder.imports.file_options import FileOptions
from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing, Refusal
from shared.runtime.user_errors import UserError
from tests.support.listing_files import imported

TEXTS = {
    "cp1250": "Nóż sprężynowy, długość żądła: 9 cm",
    "cp1251": "Складной нож с чехлом",
    "shift_jis": "折りたたみナイフと砥石",
    "gb18030": "折叠刀和磨刀石，带皮套",
    "koi8-r": "Складной нож с чехлом из кожи",
    "cp1253": "Αναδιπλούμενο μαχαίρι με θήκη",
    "gbk": "折叠刀",
    "iso8859-2": "Příliš žluťoučký kůň úpěl ďábelské ódy",
    "mac_roman": "Küche à la carte, crème brûlée",
    "big5": "摺疊刀與磨刀石",
    "euc_kr": "접이식 칼과 숫돌",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("text", ["Küche – 5 €", *TEXTS.values()])
def test_unicode_is_read_without_a_guess(tmp_path: Path, encoding: str, text: str) -> None:
    found = imported(tmp_path, f"id;title\r\n1;{text}\r\n".encode(encoding))
    assert found.item["title"] == text
    assert found.guess is None


@pytest.mark.parametrize(("encoding", "text"), TEXTS.items())
def test_another_encoding_is_a_guess_without_an_option_and_exact_with_it(
    tmp_path: Path, encoding: str, text: str
) -> None:
    content = b"id;title\n" + "".join(f"{n};{text}\n" for n in range(5)).encode(encoding)

    guessed = imported(tmp_path, content)
    stated = imported(tmp_path, content, FileOptions(platform="shop", encoding=encoding))

    assert guessed.guess is not None
    assert not guessed.guess.startswith("utf")
    assert guessed.notes["encoding"].endswith("(a guess)")
    assert stated.guess is None
    assert [item["title"] for item in stated.items] == [text] * 5


def test_the_lines_that_show_a_guess_have_different_characters(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    lines = ["id;title", *(f"{n};Küche" for n in range(50)), "50;Café", "51;Größe"]
    path.write_bytes("\n".join(lines).encode("cp1252"))
    with open_import(str(path), FileOptions(platform="shop", markets=["DE"])) as listings:
        assert listings.guess is not None
        assert listings.guess.name == "cp1252"
        assert [sample.partition(":")[0] for sample in listings.guess.samples] == ["line 2", "line 52", "line 53"]


def test_utf_16_without_a_mark_is_identified_and_read_with_the_option_that_the_message_names(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        content = "id,title\n1,Küche\n".encode(encoding)
        with pytest.raises(UserError, match=f"no byte order mark.*--encoding {encoding}, or save it as UTF-8"):
            imported(tmp_path, content)
        assert imported(tmp_path, content, FileOptions(platform="s", encoding=encoding)).item["title"] == "Küche"


def test_a_few_lines_that_are_not_utf_8_are_refused_and_the_others_are_read(tmp_path: Path) -> None:
    content = "id,title\n1,Küche\n2,Töpfe\n".encode() + b"3,K\xfcche\n" + "4,Öl\n".encode()
    found = imported(tmp_path, content)

    assert [item["title"] for item in found.items] == ["Küche", "Töpfe", "Öl"]
    assert found.refusals == [(4, 0, "title (column 'title'): the byte 0xFC is not valid in the encoding of the file")]
    assert found.notes["encoding"] == "UTF-8; the bytes of line 4 are not, so these are refused"


def test_a_character_that_a_stated_encoding_does_not_have_refuses_its_row(tmp_path: Path) -> None:
    content = b"id,title\n1,K\xfcche \x80 5\n2,\x81\n"
    found = imported(tmp_path, content, FileOptions(platform="shop", encoding="windows-1252"))
    latin = imported(tmp_path, content, FileOptions(platform="shop", encoding="latin-1"))

    assert [item["title"] for item in found.items] == ["Küche € 5"]
    assert "0x81" in found.refusals[0].detail
    assert [refusal.detail.partition(";")[0] for refusal in latin.refusals] == [
        "title (column 'title'): control character U+0080 at 6",
        "title (column 'title'): control character U+0081 at 0",
    ]


def test_a_byte_that_the_encoding_does_not_have_is_omitted_if_lenient(tmp_path: Path) -> None:
    content = "id,title,image,price,note,seller_name\n1,Küche,,5,,\n2,Öl,,5,".encode() + b"\xff,\xfe\n"
    content += b"3,K\xfc,https://e.example/\xfc.jpg,\xfc5,x,\n" + "4,Öl,,5,,\n".encode() * 2
    found = imported(tmp_path, content, FileOptions(platform="shop", lenient=True))
    assert [item.get("title") for item in found.items] == ["Küche", "Öl", None, "Öl", "Öl"]
    assert [[one.field for one in line.omitted] for line in found.lines if isinstance(line, Listing)] == [
        [],
        ["attributes.note", "attributes.seller_name"],
        ["title", "price", "media"],
        [],
        [],
    ]
    refused = imported(tmp_path, content)
    assert [refusal.detail for refusal in refused.refusals] == [
        "attribute note: the byte 0xFF is not valid in the encoding of the file",
        "title (column 'title'): the byte 0xFC is not valid in the encoding of the file",
    ]


@pytest.mark.parametrize(
    "encoding", ["punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "hz", "undefined", "rot13"]
)
def test_an_encoding_in_which_a_text_can_contain_a_line_end_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(UserError, match=r"is not an encoding\. Give one such as utf-8"):
        imported(tmp_path, "id,title\n1,a\\n9\\u000a\n", FileOptions(platform="shop", encoding=encoding))


def test_a_fault_of_the_mapping_names_a_guessed_encoding_as_a_possible_cause(tmp_path: Path) -> None:
    content = "コントロールカラム,商品名,価格\n1,包丁,1980\n".encode("shift_jis")
    with pytest.raises(
        UserError, match=r"encoding is a guess: \w+\..* the text below is wrong, give .* --encoding\."
    ) as raised:
        imported(tmp_path, content)
    assert raised.value.what.startswith("No column of")
    assert raised.value.lines


def test_a_guess_shows_a_line_that_it_spoils(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_bytes("id,title\n1,Ü\n".encode() + "2,Größe\n".encode("cp1252"))
    with open_import(str(path), FileOptions(platform="shop")) as listings:
        assert listings.guess is not None
        assert listings.guess.samples == ("line 3: 2,Größe", "line 2: 1,Ăś (valid UTF-8: 1,Ü)")


def test_a_truncated_utf_16_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not valid UTF-16"):
        imported(tmp_path, "id,title\n1,Küche\n".encode("utf-16")[:-1])


def test_most_lines_decide_for_utf_8_and_a_guess_shows_also_a_line_that_is_valid_utf_8(tmp_path: Path) -> None:
    utf_8 = [f"{n};Küche".encode() for n in range(3)]
    other = [f"{n};Größe".encode("cp1252") for n in range(3, 5)]
    path = tmp_path / "f.csv"
    path.write_bytes(b"\n".join([b"id;title", *utf_8, *other]))
    with open_import(str(path), FileOptions(platform="shop")) as listings:
        assert listings.guess is None
        assert [line.number for line in listings.read() if isinstance(line, Refusal)] == [5, 6]
    path.write_bytes(b"\n".join([b"id;title", *utf_8[:2], *other]))
    with open_import(str(path), FileOptions(platform="shop")) as listings:
        assert listings.guess is not None
        assert listings.guess.samples == ("line 4: 3;Größe", "line 2: 0;KĂĽche (valid UTF-8: 0;Küche)")
