# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`lines.py` in C: one pass over the bytes, one string made of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    int PyUnicode_IS_COMPACT_ASCII(object text)
    char* PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    # Bytes of a field: nearly all are shorter, and `line` is on the stack.
    _MOST = 1024
    # Fields, the path twice; and the signs and digits between them.
    _FIELDS = 12
    _FRAME = 64

# What stands in a line as it is: 2 in a word, 1 only where spaces may be.
cdef unsigned char KINDS[256]


cdef void _fill():
    cdef int byte
    for byte in range(256):
        KINDS[byte] = 2 if 0x21 <= byte <= 0x7E and byte != 0x22 and byte != 0x5C else 1 if byte == 0x20 else 0


_fill()


cdef inline char* _word(char* place, bytes value, unsigned char kind) noexcept:
    """Copy what is printable as it is; NULL if it is not."""
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(value)
    cdef Py_ssize_t at, size = PyBytes_GET_SIZE(value)
    for at in range(size):
        if KINDS[text[at]] < kind:
            return NULL
        place[at] = text[at]
    return place + size


cdef inline char* _text(char* place, str value) noexcept:
    memcpy(place, PyUnicode_1BYTE_DATA(value), PyUnicode_GET_LENGTH(value))
    return place + PyUnicode_GET_LENGTH(value)


cdef inline char* _sign(char* place, const char* signs, Py_ssize_t size) noexcept:
    memcpy(place, signs, size)
    return place + size


def plain_line(str stamp not None, int micros, bytes host not None, str client not None, bytes method not None,
               bytes path not None, str version not None, str status not None, bytes agent not None,
               bytes forwarded_for not None, str upstream not None, bytes asked not None):
    cdef char line[_FIELDS * _MOST + _FRAME]
    cdef char* place = line
    cdef char* start
    cdef int digit
    cdef Py_ssize_t size
    for part in (stamp, client, version, status, upstream):
        if not PyUnicode_IS_COMPACT_ASCII(part) or PyUnicode_GET_LENGTH(part) > _MOST:
            return None
    for shown in (host, method, path, agent, forwarded_for, asked):
        if PyBytes_GET_SIZE(shown) > _MOST:
            return None
    place = _sign(_text(place, stamp), b".000000Z ", 9)
    for digit in range(6):
        place[-3 - digit] = 48 + micros % 10
        micros //= 10
    place = _word(place, host, 2)
    if place is NULL:
        return None
    place = _sign(_text(_sign(place, b" <- ", 4), client), b" -- ", 4)
    place = _word(place, method, 2)
    if place is NULL:
        return None
    place = _sign(place, b" ", 1)
    start = place
    place = _word(place, path, 2)
    if place is NULL:
        return None
    size = _before_query(start, place - start)
    place = _text(_sign(place, b" ", 1), version)
    place = _sign(_text(_sign(place, b" -- ", 4), status), b" -- ", 4)
    place = _sign(_sign(place, start, size), b' "', 2)
    place = _word(place, agent, 1)
    if place is NULL:
        return None
    place = _word(_sign(place, b'", "', 4), forwarded_for, 1)
    if place is NULL:
        return None
    place = _text(_sign(place, b'" "', 3), upstream)
    place = _word(place, asked, 2)
    if place is NULL:
        return None
    place = _sign(place, b'"\n', 2)
    made = PyUnicode_New(place - line, 127)
    memcpy(PyUnicode_1BYTE_DATA(made), line, place - line)
    return made


cdef inline Py_ssize_t _before_query(const char* path, Py_ssize_t size) noexcept:
    cdef Py_ssize_t at
    for at in range(size):
        if path[at] == 63:
            return at
    return size
