"""The page of figures: the results of a stage replace the text between its markers in docs/performance.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench import report
from tests.bench.report import Figure

PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"


def section(machine: Sequence[str], figures: Sequence[Figure]) -> str:
    """The section of a stage: where it was measured, its figures, the cost of an item, its processor time."""
    largest = max((size for figure in figures for size in figure.peak.values()), default=0.0)
    texts = ["  \n".join(machine), report.table(figures)]
    texts.append(f"Largest resident size of a service: {largest:.0f} MB (mark: < 300 MB).")
    if costs := report.costs(figures):
        texts.append(costs)
    for figure in figures:
        if figure.parts:
            texts.append(f"Processor time of *{figure.name}*:")
            texts.append(report.parts(figure))
    return "\n\n".join(texts)


def publish(sections: Mapping[str, str], page: Path = PAGE) -> None:
    """Put each section between the markers of its stage; raises ValueError if the page has no markers for it."""
    text = page.read_text(encoding="utf-8")
    for name, content in sections.items():
        before, begin, rest = text.partition(f"<!-- measured: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"{page.name} has no markers for {name}: <!-- measured: {name} --> ... <!-- end -->")
        text = f"{before}{begin}\n{content}\n\n{end}{after}"
    page.write_text(text, encoding="utf-8")
