"""Personal data in a text: only valid numbers and addresses."""

import pytest

from tests.support.term_samples import marked, one_list


def parts(text: str, *patterns: str) -> list[str]:
    return marked(one_list(patterns=patterns or ("email", "phone", "iban")).find("", text), text=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to Jo.Doe+x@Example.co.uk!", ["Jo.Doe+x@Example.co.uk"]),
        ("jo (at) example (dot) com", ["jo (at) example (dot) com"]),
        ("jo [at] beispiel [punkt] de", ["jo [at] beispiel [punkt] de"]),
        ("jürgen@müller.de", ["jürgen@müller.de"]),
        ("jo {at} example {dot} com", ["jo {at} example {dot} com"]),
        ("jo@163.com, x@1und1.de, a@3m.com, jo@o2.co.uk", ["jo@163.com", "x@1und1.de", "a@3m.com", "jo@o2.co.uk"]),
        ("4K@60Hz.HDMI 12V@3A.Includes plug 1080p@60.fps meet@12.pm 70-200 @ f2.8.Sharp", []),
        ("3 @ $5.99 each, size@m", []),
        ("@brand on our site.com", []),
        ("call +49 30 901820 now", ["+49 30 901820"]),
        ("+1 (212) 555-0123 or 0044 20 7946 0958", ["+1 (212) 555-0123", "0044 20 7946 0958"]),
        ("＋４９ ３０ ９０１８２０", ["＋４９ ３０ ９０１８２０"]),
        ("Call +1 212 555 2368 24/7", ["+1 212 555 2368"]),
        ("+34 612 345 678 3 uds", ["+34 612 345 678"]),
        ("+49\t30\t901820", ["+49\t30\t901820"]),
        ("+999 123 456 789", []),  # no such country
        ("+49 30", []),
        ("UPC 0012345678905, 40063813339310", []),
        ("+4.5 stars, +100 offers, 2+2", []),
        ("DE89 3704 0044 0532 0130 00 bitte", ["DE89 3704 0044 0532 0130 00"]),
        ("no12 DE89 3704 0044 0532 0130 00", ["DE89 3704 0044 0532 0130 00"]),
        ("DE89  3704\t0044 0532 0130 00", ["DE89  3704\t0044 0532 0130 00"]),
        ("de89370400440532013000", ["de89370400440532013000"]),
        ("GB29 NWBK 6016 1331 9268 19 BIC NWBK", ["GB29 NWBK 6016 1331 9268 19"]),
        ("DE88 3704 0044 0532 0130 00", []),  # wrong check number
        ("model XX12 3456 7890 1234 5678", []),
    ],
)
def test_only_valid_data_is_found(text: str, expected: list[str]) -> None:
    assert parts(text) == expected


def test_a_list_finds_only_its_own_patterns_and_names_the_kind() -> None:
    text = "a@b.de DE89370400440532013000 +4930901820"
    assert parts(text, "iban") == ["DE89370400440532013000"]
    found = one_list("gun", patterns=["phone", "email"]).find(text, "gun")
    assert found.phrases == {"list": "gun"}
    assert [hit.phrase for hit in found.hits] == ["email", "phone", "gun"]
