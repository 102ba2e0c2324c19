# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`fields.py` in C: one pass over the bytes."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.set cimport PySet_Contains
from libc.string cimport memchr, memcmp, memcpy

HOST = 1
CONTENT_LENGTH = 2
TRANSFER_ENCODING = 4
CONNECTION = 8
EXPECT = 16
UPGRADE = 32

MARKS = {
    b"host": HOST,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
}

Pair = tuple[bytes, bytes]

cdef enum:
    _NAME = 1
    _VALUE = 2
    _HOST = 4

# What a byte may stand in, and its lower case.
cdef unsigned char KINDS[256]
cdef unsigned char LOWER[256]


cdef void _fill():
    cdef int byte
    for byte in range(256):
        LOWER[byte] = byte + 32 if 65 <= byte <= 90 else byte
        KINDS[byte] = 0
        if 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122:
            KINDS[byte] |= _NAME | _HOST
        if byte == 45:
            KINDS[byte] |= _NAME | _HOST
        if byte == 46 or byte == 95:
            KINDS[byte] |= _HOST
        if byte == 9 or (byte >= 32 and byte != 127):
            KINDS[byte] |= _VALUE


_fill()


cdef inline int _mark(const char* name, Py_ssize_t size) noexcept:
    if size == 4:
        return 1 if memcmp(name, b"host", 4) == 0 else 0
    if size == 14:
        return 2 if memcmp(name, b"content-length", 14) == 0 else 0
    if size == 17:
        return 4 if memcmp(name, b"transfer-encoding", 17) == 0 else 0
    if size == 10:
        return 8 if memcmp(name, b"connection", 10) == 0 else 0
    if size == 6:
        return 16 if memcmp(name, b"expect", 6) == 0 else 0
    if size == 7:
        return 32 if memcmp(name, b"upgrade", 7) == 0 else 0
    return 0


def plain_fields(bytes block not None, int most, /):
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(block), at = 0, start, end, byte
    cdef int found = 0, count = 0
    cdef bytes name, lower, value
    cdef char* low
    cdef list pairs = [], names = []
    while at < size:
        count += 1
        if count > most:
            return None
        start = at
        while at < size and KINDS[text[at]] & _NAME:
            at += 1
        if at == start or at == size or text[at] != 58:
            return None
        name = PyBytes_FromStringAndSize(<const char*>text + start, at - start)
        lower = PyBytes_FromStringAndSize(NULL, at - start)
        low = PyBytes_AS_STRING(lower)
        for byte in range(at - start):
            low[byte] = LOWER[text[start + byte]]
        found |= _mark(low, at - start)
        at += 1
        while at < size and (text[at] == 32 or text[at] == 9):
            at += 1
        start = at
        while at < size and KINDS[text[at]] & _VALUE:
            at += 1
        # The byte before is the colon at least.
        if at + 1 >= size or text[at] != 13 or text[at + 1] != 10 or text[at - 1] == 32 or text[at - 1] == 9:
            return None
        value = PyBytes_FromStringAndSize(<const char*>text + start, at - start)
        pairs.append((name, value))
        names.append(lower)
        at += 2
    return pairs, names, found


def marks(object names, /):
    cdef int found = 0
    cdef bytes name
    for name in names:
        if name is None:
            raise TypeError("a name is bytes")
        found |= _mark(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
    return found


def is_plain_authority(bytes authority not None, /):
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(authority)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(authority), at = 0, start
    cdef long port = 0
    while at < size and KINDS[text[at]] & _HOST:
        at += 1
    if at == 0:
        return False
    if at == size:
        return True
    if text[at] != 58 or size - at < 2 or size - at > 6:
        return False
    at += 1
    while at < size and 48 <= text[at] <= 57:
        port = port * 10 + text[at] - 48
        at += 1
    return at == size and port <= 65535


def without(object pairs, object names, object dropped, /):
    cdef list kept = []
    cdef list rows = pairs if type(pairs) is list else list(pairs)
    cdef list keys = names if type(names) is list else list(names)
    cdef Py_ssize_t at
    if len(rows) != len(keys):
        raise ValueError("not as many names as pairs")
    for at in range(len(rows)):
        if not PySet_Contains(dropped, keys[at]):
            kept.append(rows[at])
    return kept


cdef inline bint _is_broken(bytes part) noexcept:
    cdef const char* text = PyBytes_AS_STRING(part)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(part)
    return (memchr(text, 13, size) is not NULL or memchr(text, 10, size) is not NULL
            or memchr(text, 0, size) is not NULL)


cdef inline char* _put(char* place, bytes part) noexcept:
    memcpy(place, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
    return place + PyBytes_GET_SIZE(part)


def lines(object pairs, /):
    cdef Py_ssize_t size = 0
    cdef bytes written, name, value
    cdef char* place
    cdef list rows = pairs if type(pairs) is list else list(pairs)
    for name, value in rows:
        if name is None or value is None:
            raise TypeError("a field is a pair of bytes")
        if _is_broken(name) or _is_broken(value):
            raise ValueError("line break or NUL in a head")
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
    written = PyBytes_FromStringAndSize(NULL, size)
    place = PyBytes_AS_STRING(written)
    for name, value in rows:
        place = _put(place, name)
        place[0], place[1] = 58, 32
        place = _put(place + 2, value)
        place[0], place[1] = 13, 10
        place += 2
    return written
