"""Word lists of a policy set: what they find in a title and a text (docs/architecture/term-lists.md)."""

from services.router.terms.lists import term_lists as term_lists
from services.router.terms.matching import Terms as Terms
