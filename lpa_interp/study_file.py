"""Reading a study file: TOML and dotted overrides to a `Study`, mistakes in one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lpa_interp.config import Study
from lpa_interp.errors import InputError


def load_study(path: Path | None, overrides: dict[str, Any] | None = None) -> Study:
    """Reads a study file and applies dotted overrides.

    Args:
        path: A TOML file, or None for the defaults.
        overrides: Dotted keys to values, such as ``{"train.steps": 5}``.

    Raises:
        InputError: The file is missing or not TOML, a key is unknown, a value not allowed.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(path, f"is not TOML: {error}") from None
    for key, value in (overrides or {}).items():
        _set_dotted(tree, key, value)
    try:
        return Study.model_validate(tree)
    except ValidationError as error:
        raise InputError(path or "study", _first_mistake(error)) from None


def setting_lines() -> list[str]:
    """Every setting of a study as ``table.key = default``, with its meaning below it."""
    lines = []
    for table, field in Study.model_fields.items():
        part = field.annotation
        if not (isinstance(part, type) and issubclass(part, BaseModel)):
            lines.append(f"{table} = {field.default!r}")
            continue
        defaults = part()
        for key, inner in part.model_fields.items():
            lines.append(f"{table}.{key} = {getattr(defaults, key)!r}")
            if inner.description:
                lines += [f"    {line}" for line in inner.description.splitlines()]
    return lines


def _set_dotted(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InputError(key, f"{parent!r} is a value, not a table")
    tree[last] = value


def _first_mistake(error: ValidationError) -> str:
    """One line for the first mistake: the key, what was wrong and what is allowed."""
    detail = error.errors()[0]
    key = ".".join(str(part) for part in detail["loc"]) or "study"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key (allowed here: {', '.join(_keys_beside(detail['loc']))})"
    shown = detail["type"] != "missing" and not isinstance(detail["input"], dict)
    given = f" {detail['input']!r} is not allowed:" if shown else ""
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}:{given} {message[0].lower()}{message[1:]}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    part: type[BaseModel] = Study
    for name in location[:-1]:
        annotation = part.model_fields[str(name)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            part = annotation
    return sorted(part.model_fields)
