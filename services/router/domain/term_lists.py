"""Rules for the word lists of a policy set.

There are rules for every set, and rules for a publication only. A set in force is not checked against its examples
again: a newer version may find more or less, and that must not make a set unusable.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from msgspec.structs import replace

from services.router.domain.routing import PolicySet, TermFault
from shared.contracts.events import PolicySetPublished, TermExamples
from shared.validation.faults import Fault, pointer_to

MAX_WORDS: Final = 20  # of a phrase or an exception
MAX_CHARACTERS: Final = 200  # of a phrase or an exception
MAX_PHRASES: Final = 20_000  # of all lists
MAX_EXCEPTIONS: Final = 5_000  # of all lists
MAX_TOTAL_CHARACTERS: Final = 500_000  # of all phrases and exceptions

_SHOWN: Final = 60  # characters of a text in a message


def term_list_faults(content: PolicySetPublished, pointer: str) -> Iterator[Fault]:
    """Faults that make a set unusable: lists and rows without content, and options without their list."""
    for name, phrases in content.terms.items():
        at = pointer_to(f"{pointer}/terms", name)
        if not name.strip():
            yield Fault(at, "a word list needs a name")
        yield from _empty(phrases, at, f"list {name!r} has an empty phrase: write a word, or remove the line")
    for name, options in content.term_options.items():
        at = pointer_to(f"{pointer}/term_options", name)
        if name not in content.terms:
            yield Fault(at, f"there is no list {name!r}: add it to `terms`, or remove its options")
        empty = f"list {name!r} has an empty exception: write the words in which a phrase does not count, or remove it"
        yield from _empty(options.exceptions, f"{at}/exceptions", empty)


def term_size_faults(content: PolicySetPublished, pointer: str) -> Iterator[Fault]:
    """Faults of word lists that are too large to be published. A set in force may have them.

    The time and the memory of a search depend on these sizes (docs/architecture/term-lists.md).
    """
    rows = [(pointer_to(f"{pointer}/terms", name), "phrase", name, phrases) for name, phrases in content.terms.items()]
    rows += [
        (f"{pointer_to(f'{pointer}/term_options', name)}/exceptions", "exception", name, options.exceptions)
        for name, options in content.term_options.items()
    ]
    for at, kind, name, texts in rows:
        for row, text in enumerate(texts):
            words = len(text.split())
            if words > MAX_WORDS or len(text) > MAX_CHARACTERS:
                yield Fault(
                    f"{at}/{row}",
                    f"list {name!r} has the {kind} {_short(text)} with {words} words and {len(text)} characters; at"
                    f" most {MAX_WORDS} words and {MAX_CHARACTERS} characters are possible: write a shorter part of it",
                )
    for kind, most in (("phrase", MAX_PHRASES), ("exception", MAX_EXCEPTIONS)):
        if (number := sum(len(texts) for _, each, _, texts in rows if each == kind)) > most:
            yield Fault(
                f"{pointer}/terms", f"the word lists have {number} {kind}s; at most {most} are possible: remove some"
            )
    total = sum(len(text) for *_, texts in rows for text in texts)
    if total > MAX_TOTAL_CHARACTERS:
        yield Fault(
            f"{pointer}/terms",
            f"phrases and exceptions of the word lists have {total} characters; at most {MAX_TOTAL_CHARACTERS} are"
            " possible: remove some",
        )


def publication_term_faults(
    policy_set: PolicySet, compile_policy_set: Callable[[PolicySetPublished], PolicySet], pointer: str
) -> Iterator[Fault]:
    """Faults of a compiled set that is published: phrases that are never found, examples with another result, and
    exceptions without effect."""
    yield from term_faults(policy_set.term_faults, pointer)
    without = compile_policy_set(_without_exceptions(policy_set.published))
    for name, options in policy_set.published.term_options.items():
        at = pointer_to(f"{pointer}/term_options", name)
        for row, text in enumerate(options.exceptions):
            if name not in without.find_terms("", text).phrases:
                yield Fault(
                    f"{at}/exceptions/{row}",
                    f"list {name!r} has the exception {_short(text)}, which contains none of its phrases, so it has no"
                    " effect: write it as it is around a phrase, or remove it",
                )
        examples = options.examples or TermExamples()
        for row, text in enumerate(examples.match):
            if name not in policy_set.find_terms("", text).phrases:
                yield Fault(
                    f"{at}/examples/match/{row}",
                    f"list {name!r} does not find its example {_short(text)}: add the phrase as it is written there,"
                    " enable an option of `match`, or remove an exception",
                )
        for row, text in enumerate(examples.no_match):
            if phrase := policy_set.find_terms("", text).phrases.get(name):
                yield Fault(
                    f"{at}/examples/no_match/{row}",
                    f"list {name!r} finds {phrase!r} in {_short(text)}: add an exception, make the phrase longer,"
                    " or disable an option of `match`",
                )


def term_faults(faults: Sequence[TermFault], pointer: str) -> Iterator[Fault]:
    """The faults of lists that cannot be compiled, with their places."""
    for fault in faults:
        if not fault.list:
            yield Fault(f"{pointer}/terms", fault.message)
            continue
        part, _, row = fault.place.partition("/")
        at = pointer_to(f"{pointer}/{'terms' if part == 'phrases' else 'term_options'}", fault.list)
        place = f"{at}/{row}" if part == "phrases" else f"{at}/{fault.place}"
        yield Fault(place, f"list {fault.list!r}: {fault.message}")


def _without_exceptions(published: PolicySetPublished) -> PolicySetPublished:
    """The word lists of a set without their exceptions, and no policies."""
    options = {name: replace(options, exceptions=[]) for name, options in published.term_options.items()}
    return replace(published, term_options=options, policies=[])


def _empty(rows: Sequence[str], pointer: str, detail: str) -> Iterator[Fault]:
    return (Fault(f"{pointer}/{row}", detail) for row, text in enumerate(rows) if not text.strip())


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
