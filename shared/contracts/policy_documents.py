"""The policy set as its owner writes it, and as it is published.

In the document, a word list is a list of phrases, or an object with its phrases and options. In a published set, all
lists have phrases only, and the options are beside them, so that a reader that does not know options reads the phrases.
"""

from collections.abc import Mapping
from typing import Any


def published_form(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `PolicySetPublished` for a document of built-in types; anything unexpected stays as it is."""
    terms, options = document.get("terms"), document.get("term_options", {})
    if not isinstance(terms, Mapping) or not isinstance(options, Mapping):
        return dict(document)
    beside = {
        name: {key: value for key, value in given.items() if key != "phrases"}
        for name, given in terms.items()
        if isinstance(given, Mapping)
    }
    phrases = {name: given.get("phrases", []) if isinstance(given, Mapping) else given for name, given in terms.items()}
    stated = {name: own for name, own in beside.items() if any(own.values())}
    published = {**document, "terms": phrases}
    return {**published, "term_options": {**options, **stated}} if options or stated else published
