"""Turns: everybody who can send does, one frame after the other."""

from __future__ import annotations

from typing import Any

from rproxy.downstream.http2_turns import PER_TURN, Turns


class Codec:
    room_in_all = 1 << 30


class Stream:
    """Sends 10 bytes a turn."""

    def __init__(self, name: str, left: int, codec: Codec, told: list[str]) -> None:
        self.name, self.left, self.codec, self.told = name, left, codec, told
        self.in_line, self.room = False, 1 << 30

    @property
    def wants_turn(self) -> bool:
        return self.left > 0

    wants_room = wants_turn

    def send(self) -> int:
        sent = min(10, self.left, self.room, self.codec.room_in_all)
        if sent:
            self.left, self.room = self.left - sent, self.room - sent
            self.codec.room_in_all -= sent
            self.told.append(self.name)
        return sent


def made(**left: int) -> tuple[Any, Codec, dict[str, Any], list[str]]:
    codec, told = Codec(), []
    streams = {name: Stream(name, size, codec, told) for name, size in left.items()}
    turns: Any = Turns(codec)  # type: ignore[arg-type]
    for stream in streams.values():
        turns.stand(stream)
    return turns, codec, streams, told


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
    turns, codec, streams, told = made(a=40, b=40, c=40)
    for _ in range(6):
        codec.room_in_all = 10
        turns.go_on(streams.values())
        turns.give(10_000)
    assert "".join(told) == "abcabc"


def test_a_new_one_comes_behind_those_that_wait() -> None:
    turns, codec, streams, told = made(a=20, b=20)
    codec.room_in_all = 0
    turns.give(10_000)
    late = Stream("z", 10, codec, told)
    turns.stand(late)
    codec.room_in_all = 1000
    turns.go_on([*streams.values(), late])
    turns.give(10_000)
    assert "".join(told) == "abzab"


def test_nothing_is_left_after_the_end() -> None:
    turns, codec, _, told = made(a=20, b=20)
    codec.room_in_all = 0
    turns.give(10_000)
    turns.clear()
    turns.go_on(())
    assert not turns
    assert told == []
