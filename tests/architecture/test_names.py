"""A public class name has one meaning in the whole code."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
STANDARD = {"Settings", "Store"}  # the settings and the store of a service or of one of its areas


def nodes(*folders: str) -> Iterator[tuple[ast.AST, str]]:
    """Every syntax node, with its file and line."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield node, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_a_public_class_name_is_defined_once() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for node, place in nodes("services", "shared", "piepowder", "deploy", "tools"):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            defined[node.name].append(place)
    repeated = {name: places for name, places in defined.items() if len(places) > 1}
    assert repeated.keys() - STANDARD == set(), repeated


def test_the_name_of_a_rest_model_ends_in_body_or_view() -> None:
    wrong, documented = [], 0
    for node, place in nodes("services", "shared"):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            kinds = {kind for base in node.bases for kind in ("Body", "View") if ast.unparse(base).endswith(kind)}
            if place.partition(":")[0].endswith("/views.py"):
                kinds.add("View")
            wrong += [f"{node.name}, {place}" for kind in kinds if not node.name.endswith(kind)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("struct", "lines_of"):
            names = [ast.unparse(argument) for argument in node.args if isinstance(argument, ast.Name | ast.Attribute)]
            kinds_of_struct = [name for name in names if not name.isupper() and not name.startswith("_")]
            documented += len(kinds_of_struct)
            wrong += [f"{name}, {place}" for name in kinds_of_struct if not name.endswith(("View", "ProblemDetails"))]
    assert not wrong
    assert documented >= 6


def test_a_problem_type_is_declared_once() -> None:
    declared: dict[str, list[str]] = defaultdict(list)
    for node, place in nodes("services", "shared"):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("ProblemType", "RejectionType"):
            [slug] = [value for argument in node.args[:1] for value in [ast.unparse(argument)]]
            declared[slug].append(place)
    assert len(declared) > 30
    assert {slug: places for slug, places in declared.items() if len(places) > 1} == {}
