"""The table of event types is complete."""

import importlib
import pkgutil
import re

import msgspec

from shared.contracts import events

MODULES = [importlib.import_module(f"{events.__name__}.{name}") for _, name, _ in pkgutil.iter_modules(events.__path__)]


def test_every_event_type_has_a_row() -> None:
    constants = {
        value
        for module in MODULES
        for value in vars(module).values()
        if isinstance(value, str) and re.fullmatch(r"piepowder\.[a-z_.]+\.v\d+", value)
    }
    assert constants == events.TYPES.keys(), "add the type to TYPES of shared/contracts/events/__init__.py"


def test_every_struct_is_an_event_or_a_part_of_one() -> None:
    defined = {
        name
        for module in MODULES
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, events.Struct) and not name.startswith("_")
    }
    defined.remove("Struct")  # the base class
    used = msgspec.json.schema_components(list(events.TYPES.values()))[1].keys()
    assert defined - used == set(), "add the struct to TYPES of shared/contracts/events/__init__.py"
