"""The table of look-alikes, from a checker in place of ICU's."""

from tools.confusables import module, table

_SKELETONS = dict(zip("\u0430\u0410\u0406I\u04cf\u00e1\u05d5\u2228", "aAlllalv", strict=True))


def skeleton(text: str) -> str:
    return _SKELETONS.get(text, text)


def test_a_letter_has_the_lookalikes_of_its_case_without_those_that_decompose() -> None:
    assert table(skeleton) == {"A": "\u0410", "I": "\u0406", "a": "\u0430", "l": "\u04cf"}


def test_the_generated_module_states_its_source() -> None:
    source = module(skeleton, "17.0", "78.3")
    assert "Source: Unicode 17.0, UTS 39 (Unicode Security Mechanisms), through ICU 78.3" in source
    assert r'    "a": "\u0430",' in source
