"""A public name of a class or of a type has one meaning in the whole code."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
STANDARD = {"Settings", "Store"}  # the settings and the store of a service or of one of its areas


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("services", "shared", "piepowder", "deploy", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def classes() -> dict[str, list[str]]:
    defined: dict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                defined[node.name].append(f"{path}:{node.lineno}")
    return defined


def aliases() -> Iterator[tuple[str, str, str]]:
    """The name, the definition and the place of each public name in CamelCase at the top of a module."""
    for path, tree in modules():
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    pass
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    pass
                case _:
                    continue
            if name[0].isupper() and not name.isupper():
                yield name, ast.unparse(value), f"{path}:{node.lineno}"


def nodes(*folders: str) -> Iterator[tuple[ast.AST, str]]:
    """Every syntax node, with its file and line."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield node, f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def test_a_public_class_name_is_defined_once() -> None:
    repeated = {name: places for name, places in classes().items() if len(places) > 1}
    assert repeated.keys() - STANDARD == set(), repeated


def test_no_alias_has_the_name_of_a_class() -> None:
    defined = classes()
    repeated = {name: [place, *defined[name]] for name, _, place in aliases() if name in defined}
    assert not repeated


def test_an_alias_has_one_definition() -> None:
    """Except a parameter, `Annotated[…]`: its module describes it for its own API or command."""
    definitions: dict[str, dict[str, str]] = defaultdict(dict)
    for name, definition, place in aliases():
        if not definition.startswith("Annotated["):
            definitions[name][definition] = place
    repeated = {name: found for name, found in definitions.items() if len(found) > 1}
    assert repeated == {}


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
