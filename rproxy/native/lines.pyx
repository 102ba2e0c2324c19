# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`lines.py` in C: one pass over the bytes, one string made of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcpy

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
    # Of a connection: all its text, and besides three numbers and the names of all.
    _TEXT = 3072
    _NUMBERS = 256

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


cdef inline bint _fits(str part) noexcept:
    return PyUnicode_IS_COMPACT_ASCII(part) and PyUnicode_GET_LENGTH(part) <= _MOST


cdef inline bint _adds(str part, Py_ssize_t* size) noexcept:
    size[0] += PyUnicode_GET_LENGTH(part)
    return PyUnicode_IS_COMPACT_ASCII(part)


cdef inline char* _text(char* place, str value) noexcept:
    memcpy(place, PyUnicode_1BYTE_DATA(value), PyUnicode_GET_LENGTH(value))
    return place + PyUnicode_GET_LENGTH(value)


cdef inline char* _sign(char* place, const char* signs, Py_ssize_t size) noexcept:
    memcpy(place, signs, size)
    return place + size


def plain_line(str stamp not None, int micros, bytes host not None, str client not None, bytes method not None,
               bytes path not None, str version not None, str status not None, bytes agent not None,
               bytes forwarded_for not None, str upstream not None, bytes asked not None, /):
    cdef char line[_FIELDS * _MOST + _FRAME]
    cdef char* place = line
    cdef char* start
    cdef int digit
    cdef Py_ssize_t size
    if not (_fits(stamp) and _fits(client) and _fits(version) and _fits(status) and _fits(upstream)):
        return None
    if PyBytes_GET_SIZE(host) > _MOST or PyBytes_GET_SIZE(method) > _MOST or PyBytes_GET_SIZE(path) > _MOST:
        return None
    if PyBytes_GET_SIZE(agent) > _MOST or PyBytes_GET_SIZE(forwarded_for) > _MOST or PyBytes_GET_SIZE(asked) > _MOST:
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


cdef inline char* _number(char* place, unsigned long long number) noexcept:
    cdef char digits[24]
    cdef int at = 24
    while True:
        at -= 1
        digits[at] = 48 + number % 10
        number //= 10
        if not number:
            break
    return _sign(place, &digits[at], 24 - at)


def connection_line(str stamp not None, str host not None, int port, str user not None, str name not None,
                    str app not None, str peer not None, unsigned long long received, unsigned long long sent,
                    double seconds, str reason not None, /):
    cdef char line[_TEXT + _NUMBERS]
    cdef char* place = line
    cdef Py_ssize_t size = 0
    cdef unsigned long long count
    cdef int digit
    cdef bint v6
    if not (_adds(stamp, &size) and _adds(host, &size) and _adds(user, &size) and _adds(name, &size)
            and _adds(app, &size) and _adds(peer, &size) and _adds(reason, &size)):
        return None
    # A clock that jumps so far is a mistake, and what does not fit into the number would be another.
    if size > _TEXT or not seconds < 1e12:
        return None
    v6 = port >= 0 and memchr(PyUnicode_1BYTE_DATA(host), 58, PyUnicode_GET_LENGTH(host)) is not NULL
    place = _sign(_text(place, stamp), b" client=", 8)
    place = _sign(place, b"[", v6)
    place = _sign(_text(place, host), b"]", v6)
    if port >= 0:
        place = _number(_sign(place, b":", 1), port)
    place = _sign(_text(place, user), b" name=", 6)
    place = _sign(_text(place, name), b" app=", 5)
    place = _sign(_text(place, app), b" peer=", 6)
    place = _sign(_text(place, peer), b" received=", 10)
    place = _sign(_number(place, received), b" sent=", 6)
    place = _sign(_number(place, sent), b" seconds=", 9)
    count = <unsigned long long>(seconds * 1000.0 + 0.5) if seconds > 0 else 0
    place = _sign(_number(place, count // 1000), b".000 reason=", 12)
    count %= 1000
    for digit in range(3):
        place[-9 - digit] = 48 + count % 10
        count //= 10
    place = _sign(_text(place, reason), b"\n", 1)
    made = PyUnicode_New(place - line, 127)
    memcpy(PyUnicode_1BYTE_DATA(made), line, place - line)
    return made
