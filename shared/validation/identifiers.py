"""The rule for ids that callers choose: one id has one spelling, so that a person can tell two ids apart.

The rule applies where an id is created. A reference to an existing object is compared as it is, because ids that were
accepted before this rule stay valid. Nothing is normalized silently: the caller must find its id unchanged in events.
"""

from unicodedata import is_normalized


def identifier_problem(text: str) -> str | None:
    """The fault of a new id, None for a valid one."""
    if not text.isprintable():
        return "expected printable characters only"
    if text[:1] == " " or text[-1:] == " ":  # other white space is not printable
        return "begins or ends with a space; leave the space out"
    if not text.isascii() and not is_normalized("NFC", text):
        return "not in Unicode normalization form C (NFC); normalize it, so that 'é' is one character and not two"
    return None
