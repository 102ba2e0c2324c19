"""Turns: everybody who can send does, one frame after the other."""

from __future__ import annotations

from typing import Any

from rproxy.downstream import http2_stream
from rproxy.downstream.http2_turns import PER_TURN, Turns


class Window:
    """The connection's."""

    room = 1 << 30


class Stream(http2_stream.Stream):
    """Sends 10 bytes a turn."""

    def __init__(self, name: str, left: int, window: Window, told: list[str]) -> None:
        self.name, self.left, self.window, self.told = name, left, window, told
        self.in_line, self.room = False, 1 << 30

    @property
    def wants_turn(self) -> bool:
        return self.left > 0

    @property
    def is_blocked(self) -> bool:
        return self.left > 0 and self.window.room <= 0

    def send(self) -> int:
        sent = min(10, self.left, self.room, self.window.room)
        if sent:
            self.left, self.room = self.left - sent, self.room - sent
            self.window.room -= sent
            self.told.append(self.name)
        return sent


def made(**left: int) -> tuple[Turns, Window, dict[str, Any], list[str]]:
    window, told = Window(), list[str]()
    streams = {name: Stream(name, size, window, told) for name, size in left.items()}
    turns = Turns()
    for stream in streams.values():
        turns.stand(stream)
    return turns, window, streams, told


def test_turns_go_round() -> None:
    turns, _, _, told = made(a=30, b=10, c=20)
    turns.give(10_000)
    assert "".join(told) == "abcaca"
    assert not turns


def test_a_batch_ends_and_the_next_goes_on_where_it_was() -> None:
    turns, _, _, told = made(a=50, b=50)
    turns.give(3 * (PER_TURN + 10))
    assert "".join(told) == "aba"
    turns.give(2 * (PER_TURN + 10))
    assert "".join(told) == "ababa"


def test_who_stands_twice_has_one_place() -> None:
    turns, _, streams, told = made(a=20, b=20)
    turns.stand(streams["a"])
    turns.give(2 * (PER_TURN + 10))
    assert "".join(told) == "ab"


def test_who_has_no_window_steps_out_and_comes_back() -> None:
    turns, _, streams, told = made(a=30, b=30)
    streams["a"].room = 10
    turns.give(10_000)
    assert "".join(told) == "abbb"
    streams["a"].room = 100
    turns.stand(streams["a"])
    turns.give(10_000)
    assert "".join(told) == "abbbaa"


def test_nobody_loses_a_place_while_the_connection_has_no_window() -> None:
    turns, window, streams, told = made(a=40, b=40, c=40)
    for _ in range(6):
        window.room = 10
        turns.go_on(streams.values())
        turns.give(10_000)
    assert "".join(told) == "abcabc"


def test_a_new_one_comes_behind_those_that_wait() -> None:
    turns, window, streams, told = made(a=20, b=20)
    window.room = 0
    turns.give(10_000)
    late = Stream("z", 10, window, told)
    turns.stand(late)
    window.room = 1000
    turns.go_on([*streams.values(), late])
    turns.give(10_000)
    assert "".join(told) == "abzab"


def test_nothing_is_left_after_the_end() -> None:
    turns, window, _, told = made(a=20, b=20)
    window.room = 0
    turns.give(10_000)
    turns.clear()
    turns.go_on(())
    assert not turns
    assert told == []
