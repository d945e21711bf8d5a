"""A public class name has one meaning in the whole code."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
STANDARD = {"Settings", "Store"}  # the settings and the store of a service or of one of its areas


def test_a_public_class_name_is_defined_once() -> None:
    defined: dict[str, list[str]] = defaultdict(list)
    for folder in ("services", "shared", "piepowder", "deploy", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    defined[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    repeated = {name: places for name, places in defined.items() if len(places) > 1}
    assert repeated.keys() - STANDARD == set(), repeated
