"""XML product feeds are read element by element, in RSS and Atom."""

from pathlib import Path

import pytest

from tests.support.listing_files import imported

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


def test_text_with_markup_inside_is_kept_whole(tmp_path: Path) -> None:
    content = f"<rss {_G}><channel><item><g:id>1</g:id><title>A <b>bright</b> lamp</title></item></channel></rss>"
    assert imported(tmp_path, content, name="feed.xml").item["title"] == "A bright lamp"
