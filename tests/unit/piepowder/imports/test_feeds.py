"""XML product feeds are read element by element, in RSS and Atom."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from piepowder.imports.listing_import import open_import
from piepowder.imports.rows import Listing
from shared.runtime.user_errors import UserError
from tests.support.listing_files import SHOP, imported

ITEM = """<g:id>0012</g:id><title>Lamp &amp; shade</title><description><![CDATA[Warm, <b>bright</b>
two lines]]></description><link>https://shop.example/1</link><g:image_link>https://i.example/1.jpg</g:image_link>
<g:additional_image_link>https://i.example/2.jpg</g:additional_image_link>
<g:additional_image_link>https://i.example/w_3,h_2/3.jpg</g:additional_image_link>
<g:price>1299.00 EUR</g:price><g:gtin>4006381333931</g:gtin><g:brand>Lumio</g:brand>
<g:shipping><g:country>DE</g:country><g:price>3 EUR</g:price></g:shipping>"""
_G = 'xmlns:g="http://base.google.com/ns/1.0"'
RSS = f'<rss {_G} version="2.0"><channel><title>Shop</title><item>{ITEM}</item></channel></rss>'
ATOM = f'<feed xmlns="http://www.w3.org/2005/Atom" {_G}><title>Shop</title><entry>{ITEM}</entry></feed>'


@pytest.mark.parametrize("content", [RSS, ATOM])
@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "utf-16"])
def test_a_google_feed_is_read_in_any_declared_encoding(tmp_path: Path, content: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{content.replace("Lumio", "Lümio")}'
    found = imported(tmp_path, text.encode(encoding), name="feed.xml")
    assert found.item == {
        "platform": "shop",
        "kind": "product",
        "id": "0012",
        "markets": ["US"],
        "title": "Lamp & shade",
        "text": "Warm, <b>bright</b>\ntwo lines",
        "brand": "Lümio",
        "gtin": "4006381333931",
        "price": {"amount_minor": 129_900, "currency": "EUR"},
        "media": ["https://i.example/1.jpg", "https://i.example/2.jpg", "https://i.example/w_3,h_2/3.jpg"],
        "attributes": {"link": "https://shop.example/1", "shipping.country": "DE", "shipping.price": "3 EUR"},
    }
    assert found.notes["format"].startswith("XML product feed")
    assert found.lines[0].number == 1


def feed(items: str) -> str:
    return f"<rss {_G}><channel>{items}</channel></rss>"


def without_defaults(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in ("platform", "kind", "markets")}


FORGED = "<item><id>F1</id><title>Forged</title></item>"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (f"Nice {FORGED}", f"Nice {FORGED}"),
        (FORGED, FORGED),
        (f"<p>Nice</p>{FORGED}&lt;", f"<p>Nice</p>{FORGED}&lt;"),
        ("A <b>bright</b> lamp", "A <b>bright</b> lamp"),
        ("<p>Only markup</p>", "<p>Only markup</p>"),
        ('<ul><li>a</li></ul><a href="https://evil.example/">b</a><br/>', None),
        (f"<x:p xmlns:x='urn:x'>{FORGED}</x:p>", f"<p>{FORGED}</p>"),
        ("A<!-- c -->B", "AB"),
    ],
)
@pytest.mark.parametrize("element", ["description", "g:description"])
def test_markup_in_a_text_is_part_of_it_and_never_an_item(
    tmp_path: Path, text: str, read: str | None, element: str
) -> None:
    content = feed(f"<item><g:id>1</g:id><title>Lamp</title><{element}>{text}</{element}></item>")
    expected = text.replace("<br/>", "<br>") if read is None else read
    found = imported(tmp_path, content, name="feed.xml")
    assert without_defaults(found.item) == {"id": "1", "title": "Lamp", "text": expected}


def test_an_entry_in_the_content_of_atom_is_no_listing(tmp_path: Path) -> None:
    entry = '<g:id>1</g:id><title>A</title><content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml">'
    content = f"<feed xmlns='http://www.w3.org/2005/Atom' {_G}><entry>{entry}<entry><id>F1</id></entry></div>"
    found = imported(tmp_path, f"{content}</content></entry></feed>", name="feed.xml")
    attributes = {"content.type": "xhtml", "content": "<div><entry><id>F1</id></entry></div>"}
    assert without_defaults(found.item) == {"id": "1", "title": "A", "attributes": attributes}


def test_an_item_outside_of_the_channel_is_no_listing(tmp_path: Path) -> None:
    content = (
        f"<rss {_G}><item><g:id>F1</g:id></item><channel><item><g:id>1</g:id></item><a>{FORGED}</a></channel></rss>"
    )
    assert imported(tmp_path, content, name="feed.xml").item["id"] == "1"


@pytest.mark.parametrize(
    ("elements", "item"),
    [
        (
            "<description>D</description><g:description>D</g:description><title>A</title><g:title> A </g:title>",
            {"title": "A", "text": "D"},
        ),
        ("<g:title>B</g:title><title>A</title>", {"title": "B", "attributes": {"rss_title": "A"}}),
        ("<title>A</title><id>tag:1</id>", {"title": "A", "attributes": {"rss_id": "tag:1"}}),
        (
            '<title>A</title><x:p xmlns:x="u1">9.99</x:p><g:price>12.50 EUR</g:price><x:p xmlns:x="u2">8</x:p>',
            {
                "title": "A",
                "price": {"amount_minor": 1250, "currency": "EUR"},
                "attributes": {"x_p": "9.99", "x3_p": "8"},
            },
        ),
    ],
)
def test_elements_of_different_namespaces_are_different_columns(
    tmp_path: Path, elements: str, item: dict[str, Any]
) -> None:
    found = imported(tmp_path, feed(f"<item><g:id>1</g:id>{elements}</item>"), name="feed.xml")
    assert without_defaults(found.item) == {"id": "1", **item}


def test_a_difference_to_googles_element_is_stated(tmp_path: Path) -> None:
    items = "<item><g:id>1</g:id><title>A</title><g:title>B</g:title></item><item><g:id>2</g:id><title>C</title></item>"
    found = imported(tmp_path, feed(items), name="feed.xml")
    assert [item["title"] for item in found.items] == ["B", "C"]
    assert found.notes["two values"] == (
        "if Google's element (g:) differs from that of the feed, it is used, and the other is an attribute: rss_title"
    )


def test_an_atom_feed_has_its_own_id_beside_that_of_google(tmp_path: Path) -> None:
    entry = "<id>tag:shop,1</id><g:id>1</g:id><title>A</title><link rel='alternate' href='https://e.example'/>"
    content = f"<feed xmlns='http://www.w3.org/2005/Atom' {_G}><entry>{entry}</entry></feed>"
    assert without_defaults(imported(tmp_path, content, name="feed.xml").item) == {
        "id": "1",
        "title": "A",
        "attributes": {"atom_id": "tag:shop,1", "link": "https://e.example", "link.rel": "alternate"},
    }


@pytest.mark.parametrize(
    ("item", "read"),
    [
        (
            '<item><g:id>1</g:id><g:price currency="EUR">12.50</g:price></item>',
            {"id": "1", "price": {"amount_minor": 1250, "currency": "EUR"}},
        ),
        ('<item id="1"><title>A</title></item>', {"id": "1", "title": "A"}),
        (
            '<item><g:id>1</g:id><enclosure url="https://e.example/1"/><m:a xmlns:m="u" url="https://e.example/2"/></item>',
            {"id": "1", "media": ["https://e.example/1"], "attributes": {"m_a.url": "https://e.example/2"}},
        ),
        (
            '<item title="A"><g:id>1</g:id><g:shipping><g:price currency="EUR">5</g:price></g:shipping></item>',
            {"id": "1", "title": "A", "attributes": {"shipping.price": "5", "shipping.price.currency": "EUR"}},
        ),
    ],
)
def test_the_attributes_of_elements_are_columns(tmp_path: Path, item: str, read: dict[str, Any]) -> None:
    assert without_defaults(imported(tmp_path, feed(item), name="feed.xml").item) == read


def test_several_values_are_refused_where_one_is_needed(tmp_path: Path) -> None:
    items = (
        "<item><g:id>1</g:id><g:id>2</g:id></item><item><g:id>3</g:id><g:price>1</g:price><g:price>2</g:price></item>"
    )
    found = imported(tmp_path, feed(f"{items}<item><g:id>4</g:id><title>A</title><title>B</title></item>"))
    assert [item["title"] for item in found.items] == ["A\nB"]
    assert [refusal.detail for refusal in found.refusals] == [
        "id (column 'id'): there are several values, such as '1' and '2'; export only one",
        "price (column 'price'): there are several values, such as '1' and '2'; export only one",
    ]


def test_an_item_that_is_nested_too_deeply_is_refused_alone(tmp_path: Path) -> None:
    deep = "<b>" * 20_000 + "</b>" * 20_000
    found = imported(tmp_path, feed(f"<item><g:id>1</g:id><a>{deep}</a></item><item><g:id>2</g:id></item><item/>"))
    assert [item["id"] for item in found.items] == ["2"]
    assert [(refusal.number, refusal.detail) for refusal in found.refusals] == [
        (1, "its elements are nested more than 100 deep; write HTML as CDATA"),
        (3, "the item's id (column 'id') is empty"),
    ]


_ITEM = "<item><g:id>1</g:id><title>A</title></item>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            feed("<item>A & B</item>"),
            r"line 1, column 64 has a bare & or <, .* \('.*<item>A & B</item>.*'\)\. Write &amp;",
        ),
        (feed("<item>A\x0bB</item>"), r"column 62 has a bare & or <, or a character that XML does not allow"),
        (feed("<item>A&nbsp;B</item>"), r"column 62 has an entity that .* such as &nbsp; .*its number \(&#160;\)"),
        (feed("<item>a<br>b</item>"), r"column 69 closes another element than the last one .*as CDATA"),
        ("\n<?xml version='1.0'?>" + feed(_ITEM), r"line 2, column 1 has text or white space before <\?xml .*Delete"),
        ("<rss><channel><item><g:id>1</g:id></item></channel></rss>", 'Declare it in the root element: xmlns:g="http'),
        (feed(_ITEM)[:-3], "begins a tag or section that is not closed .*Export the feed again"),
        (feed(_ITEM)[:-6], "is the end, but an element is not closed .*Export the feed again"),
        (feed(_ITEM) + "x", "has text after the end of the root element .*Delete it"),
        (feed("<item>Größe</item>").encode("cp1252"), "column 63 has a byte that is not UTF-8 .*Declare the encoding"),
        (
            "<?xml version='1.0' encoding='Shift_JIS'?>" + feed(_ITEM),
            "XML in an encoding that cannot be read. Save it as UTF-8",
        ),
        (
            "<!DOCTYPE rss [<!ENTITY a 'b'>]>" + feed(_ITEM),
            "declares the entity 'a', and entities are not accepted. Write its text instead",
        ),
        (
            feed("<item><x>" + "<b>" * 200 + "</b>" * 200 + "</x></item>"),
            "No <item> of .* can be read; 1: .*nested more",
        ),
        ("<rss><item><id>1</id></item></rss>", "RSS without a single <item> in <rss><channel>"),
    ],
)
def test_the_fault_of_a_feed_is_stated_with_its_place_and_remedy(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        imported(tmp_path, content, name="feed.xml")


def test_memory_does_not_grow_with_the_number_of_items(tmp_path: Path) -> None:
    peaks = []
    for count in (1_000, 5_000):
        (tmp_path / "feed.xml").write_text(feed(f"<item><g:id>1</g:id><title>{'x' * 500}</title></item>\n" * count))
        tracemalloc.start()
        with open_import(str(tmp_path / "feed.xml"), SHOP) as listings:
            assert sum(isinstance(line, Listing) for line in listings.read()) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**19


def test_an_item_in_another_element_than_the_channel_is_no_listing(tmp_path: Path) -> None:
    archived = "<archive><item><g:id>0013</g:id><title>Old lamp</title></item></archive></rss>"
    assert imported(tmp_path, RSS.replace("</rss>", archived), name="feed.xml").item["id"] == "0012"
