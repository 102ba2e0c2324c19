"""An eye on files: what is new is used once it is whole, and trouble is told once."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from rproxy.services.eye import Eye


class Files:
    """A source in memory."""

    def __init__(self) -> None:
        self.state, self.content = 1, "first"
        self.reads = 0

    def fingerprint(self) -> Hashable:
        return self.state

    def load(self) -> str:
        self.reads += 1
        if self.content.startswith("broken"):
            raise ValueError(self.content)
        return self.content

    def write(self, content: str) -> None:
        self.state, self.content = self.state + 1, content


class Watched:
    def __init__(self) -> None:
        self.files, self.told = Files(), list[str]()
        self.eye: Eye[str] = Eye(self.files, self.check, self.told.append)

    def check(self, found: str) -> None:
        if found == "useless":
            raise ValueError("of no use")


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_the_first_look_is_when_it_is_made(watched: Watched) -> None:
    assert watched.eye.found == "first"
    assert not watched.eye.look()
    assert watched.files.reads == 1


@pytest.mark.parametrize("content", ["broken", "useless"])
def test_what_is_of_no_use_at_first_is_the_makers_trouble(content: str) -> None:
    files = Files()
    files.content = content

    def check(found: str) -> None:
        if found == "useless":
            raise ValueError("of no use")

    with pytest.raises(ValueError):
        Eye(files, check, lambda why: None)


def test_what_is_new_is_found_once(watched: Watched) -> None:
    watched.files.write("second")
    assert watched.eye.look()
    assert watched.eye.found == "second"
    assert not watched.eye.look()
    assert watched.files.reads == 2


def test_the_same_content_in_a_new_file_is_nothing_new(watched: Watched) -> None:
    watched.files.write("first")
    assert not watched.eye.look()


def test_what_was_written_while_it_was_read_is_found_at_the_next_look(watched: Watched) -> None:
    load = watched.files.load

    def slowly() -> str:
        found = load()
        watched.files.write("third")
        watched.files.load = load  # type: ignore[method-assign]
        return found

    watched.files.write("second")
    watched.files.load = slowly  # type: ignore[method-assign]
    assert watched.eye.look()
    assert watched.eye.found == "second"
    assert watched.eye.look()
    assert watched.eye.found == "third"


def test_a_file_that_is_gone_takes_nothing_away(watched: Watched) -> None:
    watched.files.write("")
    assert not watched.eye.look()
    assert watched.eye.found == "first"


@pytest.mark.parametrize("content", ["broken", "useless"])
def test_trouble_is_told_at_the_second_look_and_then_no_more(watched: Watched, content: str) -> None:
    watched.files.write(content)
    seen = []
    for _ in range(4):
        assert not watched.eye.look()
        seen.append(len(watched.told))
    assert seen == [0, 1, 1, 1]
    assert watched.eye.found == "first"


def test_trouble_that_is_over_at_the_second_look_is_not_told(watched: Watched) -> None:
    watched.files.write("broken")
    assert not watched.eye.look()
    watched.files.content = "second"  # the key to the certificate, within the same tick of the clock
    assert watched.eye.look()
    assert (watched.eye.found, watched.told) == ("second", [])


def test_other_trouble_is_told_too_and_the_same_again_after_it_was_well(watched: Watched) -> None:
    for content in ("broken", "broken otherwise", "second", "broken"):
        watched.files.write(content)
        watched.eye.look()
        watched.eye.look()
    assert watched.told == ["broken", "broken otherwise", "broken"]


def test_what_keeps_the_new_from_being_used_is_known_until_it_is(watched: Watched) -> None:
    assert watched.eye.trouble == ""
    watched.files.write("broken")
    watched.eye.look()
    assert watched.eye.trouble == "", "it may be half written"
    watched.eye.look()
    assert (watched.eye.trouble, watched.eye.found) == ("broken", "first")
    watched.files.write("second")
    assert watched.eye.look()
    assert watched.eye.trouble == ""
