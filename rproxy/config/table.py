"""What every table of a config file is. The base of all models in `schema`, `apps` and `http`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the file: frozen, compared by value, and with no other keys than its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    sugar: ClassVar[frozenset[str]] = frozenset()
    """Keys that may be written here although they are no fields: a shorter form of something below."""
    renamed: ClassVar[dict[str, str]] = {}
    """Names that keys had in rpxy once, with what they are called now."""
