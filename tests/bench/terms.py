"""`python -m tests.bench.terms`: processor time of the search for terms, for each item, by script; no servers.

The texts are synthetic: 700 characters of words from a vocabulary of 50,000 words with Zipf's distribution, so that
words repeat as in real texts; scripts without spaces have sentences that never repeat. No text of one measurement
occurs in another. The floor is the matcher before word lists had options: NFKC, case folding and one RE2 pass over four
short lists.
"""

import gc
import itertools
import random
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import re2

from deploy.initial import CONTROL
from services.router.policies import compile_policy_set
from services.router.terms import Terms
from services.router.terms.lists import TermList
from shared.contracts.events import PolicySetPublished
from shared.contracts.policy_documents import published_form
from tests.bench import machine
from tests.bench.data import POLICY_SET

import msgspec  # isort: skip

LETTERS: Final = {
    "ASCII": "etaoinshrdlucmfwypvbgkjqxz",
    "Latin with accents": "eèéêaàâäoôöiîïntrsldçuùûümpßgvbfhq",
    "Cyrillic": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэф",
    "Greek": "αοιετσνηυρπκμλωςθγβδχάίόέήύώφξζψ",
    "Arabic": "اليمنوتبردعسهفحقكجشطصخثذضظغزء",
    "Devanagari": "कनतरमसलपहयवगदजबचथशखधािीुूेैो्ं",
    "Hangul": "가나다라마바사아자차카타파하거너더러머버서어저처고노도로모보소오조",
    "Han": "的一是不了在人有我他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去",
    "Kana and Han": "のにはをたがでてとしれさあるいかなもこれクラスルント品日本商質新用",
    "Thai": "กนรมาอเงดบปสหลวยตคทชพจแไใโ",
}
WITHOUT_SPACES: Final = ("Han", "Kana and Han", "Thai")
_CHARACTERS: Final = 700
_VOCABULARY: Final = 50_000
_ITEMS: Final = 1_000
_ROUNDS: Final = 4


class Texts:
    """Endless texts of a script."""

    def __init__(self, script: str, seed: int) -> None:
        self._random = random.Random(seed)
        self._letters = LETTERS[script]
        self._spaced = script not in WITHOUT_SPACES
        self.words = [self._word() for _ in range(_VOCABULARY)]
        self._weights = list(itertools.accumulate(1 / rank for rank in range(1, _VOCABULARY + 1)))

    def make(self, count: int) -> list[tuple[str, str]]:
        return [(self._text(60), self._text(_CHARACTERS)) for _ in range(count)]

    def _text(self, characters: int) -> str:
        if not self._spaced:
            return " ".join(self._word(15, 25) for _ in range(characters // 20))
        words = self._random.choices(self.words, cum_weights=self._weights, k=characters // 6)
        return " ".join(words).capitalize()[:characters] + "."

    def _word(self, least: int = 2, most: int = 10) -> str:
        return "".join(self._random.choices(self._letters, k=self._random.randint(least, most)))


def before(lists: Sequence[Sequence[str]]) -> Callable[[str, str], object]:
    """The floor: the fold and the RE2 pass of the earlier matcher; no candidate is confirmed."""
    options = re2.Options()
    options.never_capture = True
    searched = re2.Set.SearchSet(options)
    for phrase in itertools.chain.from_iterable(lists):
        searched.Add(r"\b" + str(re2.escape(phrase.casefold())) + r"\b")
    searched.Compile()

    def find(title: str, text: str) -> object:
        whole = f"{title}\n{text}"
        if not whole.isascii():
            whole = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", whole).casefold())
        return searched.Match(whole.lower())

    return find


def matchers(texts: Texts) -> Iterator[tuple[str, Callable[[str, str], object]]]:
    """The measured searches; 5,000 phrases of two rare words of five letters or more, so that almost no
    text has one."""
    long = [word for word in texts.words[10_000:] if len(word) > 4]
    rare = random.Random(1).sample(long, 10_000)
    phrases = [f"{first} {second}" for first, second in zip(rare[::2], rare[1::2], strict=True)]
    enabled = frozenset({"inflection", "joined", "spaced", "leet", "prefixes"})
    yield "floor: four lists, before", before([*POLICY_SET["terms"].values()])
    yield "four plain lists", Terms([TermList(name, terms) for name, terms in POLICY_SET["terms"].items()]).find
    yield "5,000 terms, plain", Terms([TermList("l", phrases)]).find
    yield "5,000 terms, all options", Terms([TermList("l", phrases, options=enabled)]).find
    document = published_form(msgspec.yaml.decode((CONTROL / "policies.yaml").read_bytes()))
    sample = msgspec.convert({"id": "s", "number": 1, "published_by": "bench", **document}, PolicySetPublished)
    yield "the sample's lists", compile_policy_set(sample).find_terms


def cost(find: Callable[[str, str], object], texts: Texts) -> float:
    """Processor time in µs for an item: the least of the rounds, each with new texts."""
    measured = []
    for _ in range(_ROUNDS + 1):
        items = texts.make(_ITEMS)
        gc.collect()
        began = time.process_time()
        for title, text in items:
            find(title, text)
        measured.append((time.process_time() - began) / _ITEMS * 1e6)
    return min(measured[1:])


def main() -> None:
    names: list[str] = []
    rows: list[str] = []
    for script in LETTERS:
        texts = Texts(script, seed=7)
        costs = {name: cost(find, texts) for name, find in matchers(texts)}
        names = [*costs]
        rows.append(f"| {script} | {' | '.join(f'{value:.1f}' for value in costs.values())} |")
        print(rows[-1], flush=True)
    print(
        "\n".join(
            [*machine.describe(), "", f"| script | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}", *rows]
        )
    )


if __name__ == "__main__":
    main()
