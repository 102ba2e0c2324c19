# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`heads.py` in C: one pass over the bytes, one allocation for what is made of them."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "string.h" nogil:
    void* memmem(const void* where, size_t size, const void* what, size_t length)

MAX_HEAD = 65536
MAX_METHOD = 64
MAX_TARGET = 8192

cdef enum:
    _MAX_HEAD = 65536
    _MAX_METHOD = 64
    _MAX_TARGET = 8192
    _GOOD_SIZE = 17
    _TOKEN = 1
    _TARGET = 2
    _BREAK = 4

# What a byte may stand in.
cdef unsigned char KINDS[256]


cdef void _fill():
    cdef int byte
    for byte in range(256):
        KINDS[byte] = 0
        if byte in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
            KINDS[byte] |= _TOKEN
        if 0x21 <= byte <= 0x7E and byte != 0x23:
            KINDS[byte] |= _TARGET
        if byte == 13 or byte == 10 or byte == 0:
            KINDS[byte] |= _BREAK


_fill()

cdef bytes GET = b"GET"
cdef const char* GOOD = b"HTTP/1.1 200 OK\r\n"
cdef const char* VERSION = b" HTTP/1.1\r\n"


cdef inline Py_ssize_t _run(const unsigned char* text, Py_ssize_t most, unsigned char kind) noexcept:
    """How many bytes from here on are of this kind."""
    cdef Py_ssize_t count = 0
    while count < most and KINDS[text[count]] & kind:
        count += 1
    return count


cdef tuple _block(bytes buffer, Py_ssize_t at, Py_ssize_t limit, bytes known):
    """The field section at `at`, or None if it is the known one; and the offset behind its empty line, or -1."""
    cdef const char* text = PyBytes_AS_STRING(buffer)
    cdef const char* found
    cdef Py_ssize_t size = PyBytes_GET_SIZE(known), end
    if at + size + 2 <= limit and memcmp(text + at, PyBytes_AS_STRING(known), size) == 0:
        if text[at + size] == 13 and text[at + size + 1] == 10:
            return None, at + size + 2
    # The line before ends with the CRLF that an empty section begins the search with.
    found = <const char*>memmem(text + at - 2, limit - at + 2, b"\r\n\r\n", 4)
    if found is NULL:
        return None, -1
    end = found - text
    return PyBytes_FromStringAndSize(text + at, end + 2 - at), end + 4


def plain_request(bytes buffer not None, Py_ssize_t at, bytes known not None, /):
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t limit = PyBytes_GET_SIZE(buffer), method, target, start, end
    if at < 0 or at >= limit:
        return None
    limit = min(limit, at + _MAX_HEAD)
    method = _run(text + at, min(limit - at, <Py_ssize_t>_MAX_METHOD), _TOKEN)
    start = at + method + 1
    if not method or start >= limit or text[start - 1] != 32:
        return None
    target = _run(text + start, min(limit - start, <Py_ssize_t>_MAX_TARGET), _TARGET)
    end = start + target + 11
    if not target or end > limit or memcmp(text + end - 11, VERSION, 11):
        return None
    block, behind = _block(buffer, end, limit, known)
    if behind < 0:
        return None
    name = GET if method == 3 and memcmp(text + at, b"GET", 3) == 0 else buffer[at : at + method]
    return name, buffer[start : start + target], block, behind


def plain_response(bytes buffer not None, Py_ssize_t at, bytes known not None, /):
    cdef const char* text = PyBytes_AS_STRING(buffer)
    cdef Py_ssize_t limit = PyBytes_GET_SIZE(buffer)
    if at < 0 or at >= limit:
        return None
    limit = min(limit, at + _MAX_HEAD)
    if at + _GOOD_SIZE > limit or memcmp(text + at, GOOD, _GOOD_SIZE):
        return None
    found = _block(buffer, at + _GOOD_SIZE, limit, known)
    return None if found[1] < 0 else found


cdef inline char* _put(char* place, bytes part):
    memcpy(place, PyBytes_AS_STRING(part), PyBytes_GET_SIZE(part))
    return place + PyBytes_GET_SIZE(part)


cdef inline bint _is_broken(const char* text, Py_ssize_t size) noexcept:
    return (memchr(text, 13, size) is not NULL or memchr(text, 10, size) is not NULL
            or memchr(text, 0, size) is not NULL)


cdef bytes _head(bytes first, object pairs, bytes lines):
    """`first` is without its line end; its bytes and those of the pairs are looked at, those of `lines` were."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(first) + PyBytes_GET_SIZE(lines) + 4
    cdef bytes head, name, value
    cdef char* place
    cdef list rows = pairs if type(pairs) is list else list(pairs)
    for name, value in rows:
        if name is None or value is None:
            raise TypeError("a field is a pair of bytes")
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
        if _is_broken(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
            raise ValueError("line break or NUL in a head")
        if _is_broken(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)):
            raise ValueError("line break or NUL in a head")
    head = PyBytes_FromStringAndSize(NULL, size)
    place = _put(PyBytes_AS_STRING(head), first)
    place[0], place[1] = 13, 10
    place += 2
    for name, value in rows:
        place = _put(place, name)
        place[0], place[1] = 58, 32
        place = _put(place + 2, value)
        place[0], place[1] = 13, 10
        place += 2
    place = _put(place, lines)
    place[0], place[1] = 13, 10
    return head


def request_head(bytes method not None, bytes target not None, object pairs, bytes lines not None, /):
    cdef Py_ssize_t name = PyBytes_GET_SIZE(method), size = PyBytes_GET_SIZE(target)
    cdef bytes first
    cdef char* place
    if (not name or _run(<const unsigned char*>PyBytes_AS_STRING(method), name, _TOKEN) != name or not size
            or _run(<const unsigned char*>PyBytes_AS_STRING(target), size, _TARGET) != size):
        raise ValueError("malformed method or target")
    first = PyBytes_FromStringAndSize(NULL, name + size + 10)
    place = _put(PyBytes_AS_STRING(first), method)
    place[0] = 32
    place = _put(place + 1, target)
    memcpy(place, VERSION, 9)
    return _head(first, pairs, lines)


def response_head(int status, bytes reason not None, object pairs, bytes lines not None, /):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(reason)
    cdef bytes first
    cdef char* place
    if not 100 <= status <= 999:
        raise ValueError("status out of range")
    if _is_broken(PyBytes_AS_STRING(reason), size):
        raise ValueError("line break or NUL in a head")
    first = PyBytes_FromStringAndSize(NULL, size + 13)
    place = PyBytes_AS_STRING(first)
    memcpy(place, GOOD, 9)
    place[9], place[10], place[11], place[12] = 48 + status // 100, 48 + status // 10 % 10, 48 + status % 10, 32
    _put(place + 13, reason)
    return _head(first, pairs, lines)
