"""Dataclasses in JSON files: their format may grow, and types are checked when they are read."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from runtime import files
from runtime.messages import Refusal


def read_dataclass(kind: type, path: Path, **others: Any) -> Any:
    """Return the dataclass in a JSON file, with `others` not in it; raises Refusal.

    A field that the file lacks takes its default, so that a new one leaves old experiments
    readable; the class lists in RETIRED what only older files hold.
    """
    return _build(kind, files.read_json(path) | others, path)


def _build(kind: type, value: dict[str, Any], path: Path) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    value = {name: value[name] for name in value if name not in getattr(kind, "RETIRED", ())}
    wrong = [f"unknown: {name}" for name in sorted(value.keys() - fields.keys())]
    lacking = [name for name in fields if name not in value and not _has_default(fields[name])]
    wrong += [f"missing: {name}" for name in lacking]
    for name in value.keys() & fields.keys():
        if dataclasses.is_dataclass(fields[name].type) and isinstance(value[name], dict):
            value[name] = _build(fields[name].type, value[name], path)
        elif not _fits(value[name], fields[name].type):
            wrong.append(f"of another type: {name}")
    if wrong:
        reason = f"not in the format of this version ({'; '.join(wrong)})"
        raise Refusal(f"{path} is {reason}; restore it, or start a new experiment")
    return kind(**value)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON has the type that a field is annotated with."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(x, arguments[1]) for x in value.values())
    if kind in (int, float):
        # For JSON 1 is a float too, and for Python True is an int.
        accepted = (int, float) if kind is float else int
        return isinstance(value, accepted) and not isinstance(value, bool)
    return isinstance(value, kind)


def _has_default(field: dataclasses.Field) -> bool:
    return not field.default is field.default_factory is dataclasses.MISSING
