"""Documents from JSON text, as `StrictRoute` reads them."""

from typing import TypeVar

import msgspec

from shared.http.documents import Document, DocumentBody, decode
from shared.validation.documents import ParsedDocument

S = TypeVar("S", bound=msgspec.Struct)


def parsed(model: type[DocumentBody], kind: type[S], text: bytes) -> ParsedDocument[S]:
    """The document in a JSON text; raises InputRejected for malformed JSON."""
    return Document.parse(model, decode(text)).parsed(kind)
