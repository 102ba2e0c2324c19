"""What is wrong with a file, before it has a line and a column: pydantic's errors in our words. For `load`.

A path here leads through what `tomllib` gave, not through the models: where the file has a
shorter form, the steps that only the models have are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rproxy.config.schema import Configuration
from rproxy.config.table import Table
from rproxy.config.values import Wrong, describe, nearest, quoted

Path = tuple[str | int, ...]
Homes = list[tuple[str, dict[str, Any]]]
"""Every table of a file, in words, with the keys it knows."""

MOST_LISTED: Final = 12
"""So many known keys still fit in a hint."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, at a path of the file."""

    path: Path
    message: str
    hint: str = ""
    at_key: bool = False
    """Whether the key is what is wrong, and not its value."""
    meant: Path | None = None
    """The path that was probably meant."""
    other: Path | None = None
    """A second place, whose line ends the message."""


class Spoilt:
    """The paths about which nothing can be said, because there is a mistake in, at or around them."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        places = [place for mistake in mistakes for place in (mistake.path, mistake.meant) if place]
        self._around = {place[:length] for place in places for length in range(1, len(place) + 1)}
        self._places = set(places)

    def __contains__(self, path: Path) -> bool:
        return path in self._around or any(path[:length] in self._places for length in range(1, len(path)))


def mistakes_of(error: ValidationError, table: dict[str, Any]) -> list[Mistake]:
    """Each of pydantic's errors as a mistake."""
    homes = list(_tables(Configuration, ""))
    return [_mistake(detail, table, homes) for detail in error.errors(include_url=False)]


def resolve(table: Any, path: Path) -> Path:
    """The part of a models' path that the file has."""
    found: Path = ()
    for part in path:
        in_list = isinstance(table, list) and isinstance(part, int) and part < len(table)
        if in_list or (isinstance(table, dict) and part in table):
            table, found = table[part], (*found, part)
    return found


def _mistake(detail: ErrorDetails, table: dict[str, Any], homes: Homes) -> Mistake:
    loc = detail["loc"]
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(resolve(table, loc), loc, homes)
        case "missing":
            return Mistake(resolve(table, loc), f'missing key "{loc[-1]}"', at_key=True)
        case "value_error":
            wrong = detail["ctx"]["error"]
            hint = wrong.hint if isinstance(wrong, Wrong) else ""
            return Mistake(resolve(table, loc), str(wrong), hint, at_key=loc[-1:] == ("[key]",))
        case kind:
            wanted = _WANTED.get(kind, "something else")
            return Mistake(resolve(table, loc), f"expected {wanted}, got {describe(detail['input'])}")


_WANTED: Final = {
    "model_type": "a table",
    "model_attributes_type": "a table",
    "mapping_type": "a table",
    "dict_type": "a table",
    "tuple_type": "a list",
}


def _unknown_key(path: Path, loc: Path, homes: Homes) -> Mistake:
    key, model = str(loc[-1]), _model_at(loc[:-1])
    hint, meant = _meaning(key, model, homes)
    message = f"unknown key {quoted(key)}"
    return Mistake(path, message, hint, at_key=True, meant=(*path[:-1], meant) if meant else None)


def _meaning(key: str, model: type[Table], homes: Homes) -> tuple[str, str | None]:
    """A hint for an unknown key, and the known one that it probably stands for."""
    allowed = sorted({*_fields(model), *model.sugar})
    if key in model.renamed:
        return f'it is called "{model.renamed[key]}" now', model.renamed[key]
    belongs = [home for home, known in homes if key in known]
    if belongs:
        return f'"{key}" belongs {" or ".join(belongs[:3])}', None
    near = nearest(key, allowed)
    if near:
        return f'did you mean "{near}"?', near
    return (f"known here: {', '.join(allowed)}" if len(allowed) <= MOST_LISTED else ""), None


def _fields(model: type[Table]) -> dict[str, Any]:
    """The keys of a table as they are written, with the types of their values."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_at(loc: Path) -> type[Table]:
    """The model of the table that a models' path leads to."""
    model: type[Table] = Configuration
    named = False  # the next part is a name that somebody chose, as below `apps`
    for part in loc:
        annotation = None if named or not isinstance(part, str) else _fields(model).get(part)
        named = not named and _is_mapping(annotation)
        model = _model_in(annotation) or model
    return model


def _tables(model: type[Table], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every table of a file, as `in [apps.<name>]`, with the keys it knows."""
    fields = _fields(model)
    yield f"in [{place}]" if place else "at the top of the file, above the first [table]", fields
    for key, annotation in fields.items():
        inner = _model_in(annotation)
        if inner is not None:
            below = f"{key}.<name>" if _is_mapping(annotation) else key
            yield from _tables(inner, f"{place}.{below}" if place else below)


def _model_in(annotation: Any) -> type[Table] | None:
    """The model inside `X | None`, `tuple[X, ...]`, `Mapping[str, X]` or `Annotated[X, …]`."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation if issubclass(annotation, Table) else None
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict
