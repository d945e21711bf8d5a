"""Items without the optional fields that intake refused, for `--lenient`."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from piepowder.imports.rows import Listing, OmittedField

_REQUIRED: Final = frozenset({"platform", "kind", "id", "markets"})
_MEMBERS: Final = frozenset({"attributes", "scores", "seller"})
"""Fields of which a single member can be left out."""


def without_faulty_fields(line: Listing, faults: Sequence[Mapping[str, Any]]) -> Listing | None:
    """The item without its faulty fields; None if a fault concerns a required field or the item as a whole."""
    steps = [_steps(str(fault.get("pointer") or "")) for fault in faults]
    if not steps or any(not path or path[0] in _REQUIRED for path in steps):
        return None
    try:
        item = msgspec.json.decode(line.body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    omitted = [
        OmittedField(name, f"{fault['pointer']}: {fault.get('detail', '')}")
        for path, fault in zip(steps, faults, strict=True)
        if (name := _leave_out(item, path)) is not None
    ]
    return Listing(line.number, msgspec.json.encode(item), (*line.omitted, *omitted)) if omitted else None


def _leave_out(item: dict[str, Any], path: list[str]) -> str | None:
    """Delete a field, or a member that can be left out alone; returns its name as the import writes it."""
    name, *rest = path
    members = item.get(name)
    if name in _MEMBERS and rest and isinstance(members, dict):
        is_changed = members.pop(rest[0], None) is not None
        if not members or (name == "seller" and "id" not in members):  # a seller without an id is no seller
            del item[name]
            is_changed = True
        return f"{name}.{rest[0]}" if is_changed else None
    return name if item.pop(name, None) is not None else None


def _steps(pointer: str) -> list[str]:
    """The steps of a JSON pointer (RFC 6901)."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
