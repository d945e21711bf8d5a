"""Markup that a seller writes into a text never creates, deletes or relabels a listing of a feed."""

import tempfile
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from hypothesis import given
from hypothesis import strategies as st

from tests.support.listing_files import imported

_G = "http://base.google.com/ns/1.0"
_NAMES = ["item", "entry", "channel", "rss", "feed", "id", "g:id", "title", "g:title", "description", "p", "a", "x:id"]
_TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Z"]), max_size=4).map(escape)
_MARKUP = st.recursive(
    _TEXT,
    lambda inner: st.builds(
        lambda name, value, parts: f"<{name} id={quoteattr(value)}>{''.join(parts)}</{name}>",
        st.sampled_from(_NAMES),
        st.sampled_from(["F1", "", "https://evil.example/"]),
        st.lists(inner, max_size=3),
    ),
    max_leaves=8,
)
_ELEMENTS = ["description", "g:description", "title", "g:color", "content", "summary", "x:text", "brand"]
_SHAPES = [
    '<rss xmlns:g="{g}" xmlns:x="urn:x"><channel>{items}</channel></rss>',
    '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="{g}" xmlns:x="urn:x">{items}</feed>',
]


@given(st.lists(_MARKUP, min_size=1, max_size=4), st.sampled_from(_ELEMENTS), st.sampled_from(_SHAPES))
def test_markup_in_a_text_changes_no_listing(texts: list[str], element: str, shape: str) -> None:
    name = "entry" if shape.startswith("<feed") else "item"
    items = f"<{name}><g:id>0</g:id><g:title>A</g:title></{name}>" + "".join(
        f"<{name}><g:id>{number}</g:id><{element}>{text}</{element}></{name}>" for number, text in enumerate(texts, 1)
    )
    with tempfile.TemporaryDirectory() as folder:
        found = imported(Path(folder), shape.format(g=_G, items=items), name="feed.xml")
    assert [(item["id"], line.number) for item, line in zip(found.items, found.lines, strict=True)] == [
        (str(number), number + 1) for number in range(len(texts) + 1)
    ]
    assert all(item.get("price") is None and item.get("seller") is None for item in found.items)
