# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`hello.py` in C: the extensions are passed over, and objects are made of nothing but what is given back.

`text` and `size` are always those of what is read, be it all of the hello or one extension: no byte is looked at
before its offset is compared with `size`. Offsets cannot overflow, as each is below 2^24 plus one length.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.string cimport memcmp

from rproxy.errors import BadHello

cdef extern from "Python.h":
    unicode PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)

cdef enum:
    _MAX_RECORD = 16384
    _MAX_NAME = 254
    _SERVER_NAME = 0
    _ALPN = 16
    _SUPPORTED_VERSIONS = 43
    # What a byte of a name is.
    _LETTER = 1
    _DASH = 2
    _DOT = 3

MAX_RECORD = _MAX_RECORD
MAX_NAME = _MAX_NAME

Hello = tuple[str | None, tuple[bytes, ...], tuple[int, ...], bytes]

cdef struct Extension:
    const unsigned char* text  # NULL where it is absent
    Py_ssize_t size

cdef unsigned char KINDS[256]
cdef unsigned char LOWER[256]


cdef void _fill():
    cdef int byte
    for byte in range(256):
        LOWER[byte] = byte + 32 if 65 <= byte <= 90 else byte
        KINDS[byte] = 0
        if 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122:
            KINDS[byte] = _LETTER
    KINDS[45] = _DASH
    KINDS[46] = _DOT


_fill()

# Nearly all clients offer these.
cdef bytes H2 = b"h2"
cdef bytes HTTP_1_1 = b"http/1.1"
cdef tuple USUAL_VERSIONS = (0x0304, 0x0303)


def from_record(bytes data not None, Py_ssize_t limit, /):
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), record, end
    if size < 9 or text[0] != 0x16 or text[5] != 1:
        return None
    record = _u16(text + 3)
    end = 9 + (<Py_ssize_t>text[6] << 16) + _u16(text + 7)
    if end > record + 5 or end > size or end > limit or record > _MAX_RECORD:
        return None
    return _hello(text + 9, end - 9)


def from_body(bytes body not None, /):
    return _hello(<const unsigned char*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))


cdef inline Py_ssize_t _u16(const unsigned char* text) noexcept:
    return (<Py_ssize_t>text[0] << 8) + text[1]


cdef object _outside():
    raise BadHello("a length points outside the hello")


cdef tuple _hello(const unsigned char* text, Py_ssize_t size):
    cdef Extension names = Extension(NULL, 0), protocols = Extension(NULL, 0), versions = Extension(NULL, 0)
    cdef Extension name = Extension(NULL, 0)
    cdef Py_ssize_t at = _before_extensions(text, size)
    cdef object usable = None
    cdef tuple offered = (), spoken
    if at != size:
        if at + 2 > size:
            _outside()
        if _u16(text + at) != size - at - 2:
            raise BadHello("extension block")
        _find(text, size, at + 2, &names, &protocols, &versions)
    if names.text is not NULL:
        _find_name(names.text, names.size, &name)
        usable = _usable_name(name.text, name.size)
    if protocols.text is not NULL:
        offered = _protocols(protocols.text, protocols.size)
    spoken = (_u16(text),) if versions.text is NULL else _versions(versions.text, versions.size)
    if usable is not None or name.size == 0:
        return usable, offered, spoken, b""
    return None, offered, spoken, PyBytes_FromStringAndSize(<const char*>name.text, name.size)


cdef Py_ssize_t _before_extensions(const unsigned char* text, Py_ssize_t size) except -1:
    """Where the extension block begins, at most at `size`."""
    cdef Py_ssize_t session, ciphers, compressions
    if size < 35:
        _outside()
    session = text[34]
    if 37 + session > size:
        _outside()
    ciphers = _u16(text + 35 + session)
    if 37 + session + ciphers >= size:
        _outside()
    compressions = text[37 + session + ciphers]
    if session > 32 or ciphers < 2 or ciphers % 2 or compressions < 1:
        raise BadHello("session id, cipher suites or compression methods")
    if 38 + session + ciphers + compressions > size:
        _outside()
    return 38 + session + ciphers + compressions


cdef int _find(const unsigned char* text, Py_ssize_t size, Py_ssize_t at,
               Extension* names, Extension* protocols, Extension* versions) except -1:
    """Walk the extensions from `at` to the end, and note where the three are that are read."""
    cdef Extension* found
    cdef Py_ssize_t kind, length
    while at != size:
        if at + 4 > size:
            _outside()
        kind, length = _u16(text + at), _u16(text + at + 2)
        at += 4
        found = NULL
        if kind == _SERVER_NAME:
            found = names
        elif kind == _ALPN:
            found = protocols
        elif kind == _SUPPORTED_VERSIONS:
            found = versions
        if found is not NULL and found.text is not NULL:
            raise BadHello("an extension twice")
        if at + length > size:
            _outside()
        if found is not NULL:
            found.text, found.size = text + at, length
        at += length
    return 0


cdef int _find_name(const unsigned char* text, Py_ssize_t size, Extension* name) except -1:
    """Note where the first host_name of a server_name extension is."""
    cdef Py_ssize_t at = 2, length
    if size < 2:
        _outside()
    if _u16(text) != size - 2 or size == 2:
        raise BadHello("server_name list")
    while at != size:
        if at + 3 > size:
            _outside()
        length = _u16(text + at + 1)
        if at + 3 + length > size:
            _outside()
        if text[at] == 0 and name.text is NULL:
            name.text, name.size = text + at + 3, length
        at += 3 + length
    return 0


cdef object _usable_name(const unsigned char* text, Py_ssize_t size):
    """The name in lower case, or None."""
    cdef unsigned char lower[_MAX_NAME]
    cdef unsigned char kind, before = _DOT
    cdef Py_ssize_t at
    if size > _MAX_NAME:
        return None
    for at in range(size):
        kind = KINDS[text[at]]
        if kind == 0 or (before == _DOT and kind != _LETTER):
            return None
        lower[at] = LOWER[text[at]]
        before = kind
    return None if before == _DOT else PyUnicode_DecodeASCII(<const char*>lower, size, NULL)


cdef tuple _protocols(const unsigned char* text, Py_ssize_t size):
    cdef Py_ssize_t at = 2, count = 0, place
    cdef tuple names
    cdef bytes name
    if size < 2:
        _outside()
    if _u16(text) != size - 2 or size == 2:
        raise BadHello("ALPN list")
    while at < size:
        if text[at] == 0:
            raise BadHello("ALPN name")
        at += 1 + text[at]
        count += 1
    if at != size:
        raise BadHello("ALPN name")
    names, at = PyTuple_New(count), 2
    for place in range(count):  # the lengths are those that were just added up
        name = _protocol(<const char*>text + at + 1, text[at])
        Py_INCREF(name)
        PyTuple_SET_ITEM(names, place, name)
        at += 1 + text[at]
    return names


cdef inline bytes _protocol(const char* text, Py_ssize_t size):
    if size == 2 and memcmp(text, b"h2", 2) == 0:
        return H2
    if size == 8 and memcmp(text, b"http/1.1", 8) == 0:
        return HTTP_1_1
    return PyBytes_FromStringAndSize(text, size)


cdef inline bint _is_grease(Py_ssize_t version) noexcept:
    """As RFC 8701 §2 lists them: 0x0A0A, 0x1A1A and so on."""
    return version & 0x0F0F == 0x0A0A and version >> 8 == version & 0xFF


cdef tuple _versions(const unsigned char* text, Py_ssize_t size):
    cdef Py_ssize_t at, count = 0, version
    cdef tuple versions
    cdef object number
    if size < 1:
        _outside()
    if text[0] != size - 1 or size == 1:
        raise BadHello("supported_versions list")
    if size % 2 == 0:
        _outside()
    for at in range(1, size, 2):
        count += not _is_grease(_u16(text + at))
    if count == 2 and memcmp(text + size - 4, b"\x03\x04\x03\x03", 4) == 0:
        return USUAL_VERSIONS
    versions, count = PyTuple_New(count), 0
    for at in range(1, size, 2):
        version = _u16(text + at)
        if not _is_grease(version):
            number = version
            Py_INCREF(number)
            PyTuple_SET_ITEM(versions, count, number)
            count += 1
    return versions
