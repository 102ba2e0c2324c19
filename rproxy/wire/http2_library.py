"""The library as `wire.http2` uses it: told what to check, what to remember and what to count.

`h2` keeps the states of streams and the windows of a connection. Only these two files know it. It takes 71 µs
of a request where HAProxy takes 9 for everything; HPACK, a third of that with the library's, is ours.
"""

from __future__ import annotations

from typing import Final

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from .http2_decode import Decoder
from .http2_events import ErrorCode
from .http2_frames import MAX_FRAME, PREFACE
from .http2_gate import MAX_HEAD
from .message import Pair

STREAM_WINDOW = 262144
"""Bytes of a request's body that may be under way: 5 MB/s over 50 ms. It is also what a stalled peer makes us
hold for one stream."""
CONNECTION_WINDOW = 2097152
"""The same for all streams of a connection, so the most of it that we hold: eight of them may stall before
the ninth notices."""
CLEAN_EVERY = 64
"""Streams between two looks for those that are over: each look goes through all of them."""


class Library(H2Connection):
    """The server's side of one connection. Header sections are coded and checked by others."""

    # Remembered of streams that are over: only what may still be under way is asked for.
    MAX_CLOSED_STREAMS = 128
    _asked = 0

    def __init__(self) -> None:
        super().__init__(
            H2Configuration(
                client_side=False,
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_inbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._block, self._fields = _Block(), _Fields()
        self.encoder = self._block  # type: ignore[assignment]
        self.decoder = self._fields  # type: ignore[assignment]

    def start(self, streams: int) -> None:
        """Say our SETTINGS; the client's preface has been, or will be, seen to."""
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: streams,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,
            },
        )
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        self.receive_data(PREFACE)

    @property
    def open_inbound_streams(self) -> int:
        """Never too many: they are counted, and refused, by `Http2Codec`.

        The library's own count goes through all streams, with each request. Now and then it has to, for that
        is when it drops those that are over.
        """
        self._asked += 1
        return 0 if self._asked % CLEAN_EVERY else 0 * super().open_inbound_streams

    @property
    def fields(self) -> list[Pair]:
        """Those of the header section that the latest event is about."""
        return self._fields.latest

    def send_block(self, stream: int, octets: bytes, *, interim: bool, end: bool) -> None:
        """Send a header section that is encoded already."""
        self._block.octets = octets
        self.send_headers(stream, _INTERIM if interim else _FINAL, end)


class _Block:
    """Stands where the library has its encoder: the header block that goes out next is ready.

    So a client's SETTINGS_HEADER_TABLE_SIZE, up to 4 GiB of table for us to fill, means nothing.
    """

    header_table_size = 4096
    octets = b""

    def encode(self, headers: object, huffman: bool = True) -> bytes:
        """The library's call."""
        return self.octets


class _Fields:
    """Stands where the library has its decoder: what a section says is kept from it.

    It would look for a Content-Length, and make a mistake in that an error of the connection.
    """

    max_header_list_size = MAX_HEAD

    def __init__(self) -> None:
        self._decoder, self.latest = Decoder(), list[Pair]()

    def decode(self, block: bytes, raw: bool = True) -> list[Pair]:
        """The library's call."""
        self.latest = self._decoder.decode(block)
        return []


# What the library looks at in the heads we send: whether they are interim.
_INTERIM: Final = [(b":status", b"100")]
_FINAL: Final = [(b":status", b"200")]


def code_of(breach: ProtocolError) -> ErrorCode:
    """What a connection error of the library's is called in GOAWAY."""
    return ErrorCode(breach.error_code)
