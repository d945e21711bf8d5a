"""Checks that old readers can read new events, and that new readers can read old events.

`docs/contracts/v1.json` holds the schemas of all published events. `python -m tools.compatibility` adds new ones, and
fails with a sentence for each incompatible change; a test checks the same.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from shared.contracts import events
from tools.asyncapi import schemas

SNAPSHOT: Final = Path(__file__).parents[1] / "docs" / "contracts" / "v1.json"

Json = dict[str, Any]
_ANNOTATIONS: Final = frozenset({"title", "description", "examples", "default"})


def snapshot() -> Json:
    """The current contract: the struct of each event type, and the schema of each struct."""
    return {"events": {name: kind.__name__ for name, kind in events.TYPES.items()}, "structs": schemas()}


def breaks(before: Json, now: Json) -> list[str]:
    """A sentence for each incompatible change from `before` to `now`."""
    found = []
    for name, struct in before["events"].items():
        if name not in now["events"]:
            found.append(f"event {name} was removed: its readers expect it; add a .v2 beside it instead")
        elif now["events"][name] != struct:
            found.append(f"event {name} was {struct} and is now {now['events'][name]}: keep the name of its struct")
    for struct, schema in before["structs"].items():
        if struct not in now["structs"]:
            found.append(f"{struct} was removed or renamed")
        else:
            found += _breaks_of_struct(struct, schema, now["structs"][struct])
    return found


def _breaks_of_struct(struct: str, before: Json, now: Json) -> list[str]:
    found = []
    fields, new_fields = before.get("properties", {}), now.get("properties", {})
    required, now_required = set(before.get("required", ())), set(now.get("required", ()))
    for field, schema in fields.items():
        name = f"{struct}.{field}"
        if field not in new_fields:
            found.append(f"{name} was removed or renamed: its readers expect it")
            continue
        new = new_fields[field]
        if _meaning(schema) != _meaning(new):
            found.append(f"{name} was retyped: it was {_shown(schema)} and is now {_shown(new)}")
        if field in required and field not in now_required:
            found.append(f"{name} was given a default, so an event may omit it: older readers require it")
        elif field not in required and field in now_required:
            found.append(f"{name} lost its default: older events may omit it")
        elif schema.get("default") != new.get("default"):
            found.append(
                f"{name} had the default {schema.get('default')!r} and now has {new.get('default')!r}: an omitted"
                " field would get another value"
            )
    found += [
        f"{struct}.{field} was added without a default: older events do not have it"
        for field in sorted(now_required - fields.keys())
    ]
    return found


def _meaning(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _meaning(part) for name, part in schema.items() if name not in _ANNOTATIONS}
    return [_meaning(part) for part in schema] if isinstance(schema, list) else schema


def _shown(schema: Any) -> str:
    return json.dumps(_meaning(schema))


def main() -> None:
    """Update the committed snapshot, unless there is an incompatible change."""
    now = snapshot()
    if SNAPSHOT.exists() and (found := breaks(json.loads(SNAPSHOT.read_text()), now)):
        sys.exit("\n".join(found))
    SNAPSHOT.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
