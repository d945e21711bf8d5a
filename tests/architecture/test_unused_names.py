"""No function, class or constant is unused: other code or a framework uses each of them."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.conftest import project_root

FOLDERS = ("services", "shared", "piepowder", "deploy", "tools", "tests")


def test_each_name_of_a_module_is_used() -> None:
    texts = {
        path: path.read_text(encoding="utf-8")
        for folder in FOLDERS
        for path in sorted((project_root() / folder).rglob("*.py"))
    }
    words = Counter(word for text in texts.values() for word in re.findall(r"\w+", text))
    names = {path: set(_names(ast.parse(text))) for path, text in texts.items()}
    unused = [
        f"{path.relative_to(project_root())}: {name}"
        for path, own_names in names.items()
        for name in own_names
        if words[name] == 1
    ]
    assert sum(map(len, names.values())) > 1000
    assert unused == []


def _names(module: ast.Module) -> Iterator[str]:
    """The module's functions, classes and constants, without tests, hooks of pytest and decorated functions."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.decorator_list and not node.name.startswith(("test_", "pytest_")):
                yield node.name
        elif isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
