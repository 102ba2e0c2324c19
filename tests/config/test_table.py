"""What holds for every table of a config file, whatever keys it has."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from rproxy.config import schema
from rproxy.config.table import Table


class Lamp(Table):
    watts: int = 40
    colour: str = "white"
    on: bool = False


def mistakes(**keys: object) -> list[tuple[str, str]]:
    """The kind of each mistake, and the key it is about."""
    with pytest.raises(ValidationError) as told:
        Lamp.model_validate(keys)
    return [(error["type"], str(error["loc"][-1])) for error in told.value.errors()]


def test_a_table_never_changes() -> None:
    lamp = Lamp()
    with pytest.raises(ValidationError, match="frozen"):
        lamp.watts = 60
    assert lamp.watts == 40


def test_tables_are_compared_by_what_they_say() -> None:
    """A peer outlives a reload when its table is the same: it is part of a key."""
    assert Lamp(watts=60) == Lamp(watts=60)
    assert len({Lamp(watts=60), Lamp(watts=60), Lamp()}) == 2


def test_what_a_table_was_given_is_told_from_its_defaults() -> None:
    assert Lamp(watts=40).model_fields_set == {"watts"}


def test_all_unknown_keys_are_mistakes() -> None:
    assert mistakes(wats=60, color="red") == [("extra_forbidden", "wats"), ("extra_forbidden", "color")]


@pytest.mark.parametrize(
    ("key", "value"),
    [("watts", "60"), ("watts", 60.0), ("watts", True), ("colour", 1), ("on", 1), ("on", "yes")],
)
def test_nothing_is_made_of_another_type(key: str, value: object) -> None:
    [(kind, where)] = mistakes(**{key: value})
    assert (kind.endswith("_type"), where) == (True, key)


@pytest.mark.parametrize("key", ["sugar", "renamed"])
def test_what_is_said_about_keys_is_no_key(key: str) -> None:
    assert mistakes(**{key: {}}) == [("extra_forbidden", key)]
    assert not getattr(Table, key)


def tables(kind: type[BaseModel] = BaseModel) -> list[type[BaseModel]]:
    """All models of our own that there are once `schema` is."""
    found = [sub for direct in kind.__subclasses__() for sub in [direct, *tables(direct)]]
    return sorted({sub for sub in found if sub.__module__.startswith(schema.__package__ or "")}, key=str)


def test_every_model_of_a_file_is_a_table() -> None:
    """Or its unknown keys would go unnoticed."""
    assert {"Configuration", "App", "ReverseProxy", "HeaderRules"} <= {table.__name__ for table in tables()}
    assert [table for table in tables() if not issubclass(table, Table)] == []


def test_no_model_is_more_lenient_than_a_table() -> None:
    rules = ("frozen", "extra", "strict")
    for table in tables(Table):
        assert [table.model_config.get(rule) for rule in rules] == [True, "forbid", True], table


def test_an_old_name_leads_to_a_key_and_is_none_itself() -> None:
    renamed = [(table, old, new) for table in tables(Table) for old, new in table.renamed.items()]
    assert renamed
    for table, old, new in renamed:
        assert new in table.model_fields
        assert old not in table.model_fields
