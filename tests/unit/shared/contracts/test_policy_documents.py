"""A policy set as its owner writes it has the same meaning in its published form."""

from typing import Any

import pytest

from shared.contracts.policy_documents import published_form


@pytest.mark.parametrize(
    ("document", "published"),
    [
        ({"terms": {"a": ["x"]}, "policies": []}, {"terms": {"a": ["x"]}, "policies": []}),
        (
            {"terms": {"a": {"phrases": ["x"], "match": ["leet"], "exceptions": []}, "b": ["y"]}},
            {
                "terms": {"a": ["x"], "b": ["y"]},
                "term_options": {"a": {"match": ["leet"], "exceptions": []}},
            },
        ),
        ({"terms": {"a": {"phrases": ["x"], "examples": None}}}, {"terms": {"a": ["x"]}}),
        (
            {"terms": {"a": ["x"]}, "term_options": {"a": {"match": ["leet"]}}},
            {"terms": {"a": ["x"]}, "term_options": {"a": {"match": ["leet"]}}},
        ),
        ({"terms": "wrong"}, {"terms": "wrong"}),
        ({}, {}),
    ],
)
def test_the_published_form_of_a_document(document: dict[str, Any], published: dict[str, Any]) -> None:
    assert published_form(document) == published
    assert published_form(published) == published, "a published set is its own published form"
