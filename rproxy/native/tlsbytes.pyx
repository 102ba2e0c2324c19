# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`tlsbytes.py` in C: OpenSSL's functions are called at their addresses, and write into the bytes that are given back.

The addresses are those of the functions in cryptography's bindings, of which cffi tells the types as well. Bindings
that do not tell, or tell of others, leave everything to `tlsbytes.py`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport uintptr_t
from libc.string cimport memcmp, strcmp

cdef extern from "Python.h":
    PyObject* FromStringAndSize "PyBytes_FromStringAndSize"(const char* text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** text, Py_ssize_t size) except -1
    char* AS_STRING "PyBytes_AS_STRING"(PyObject* text)

cdef enum:
    _RECORD = 16384
    _MOST = 7 * _RECORD
    _NONE = 0
    _WANT_READ = 2
    # What is added to a record in TLS 1.2 with AES-GCM. TLS 1.3 has 22, old ciphers have more: then room is made.
    _ADDED = 29
    # SSL_TLSEXT_ERR_OK and SSL_TLSEXT_ERR_ALERT_FATAL of SSL_CTX_set_alpn_select_cb(3).
    _TAKEN = 0
    _FATAL = 2

RECORD = _RECORD
MOST = _MOST
NONE = _NONE
WANT_READ = _WANT_READ
ZERO_RETURN = 6

ctypedef int (*on_bytes)(void* of, void* buffer, int size) noexcept nogil
ctypedef int (*on_ssl)(void* ssl) noexcept nogil
ctypedef const char* (*on_name)(void* ssl) noexcept nogil
ctypedef int (*on_result)(void* ssl, int result) noexcept nogil
ctypedef long (*on_memory)(void* bio, char** place) noexcept nogil
ctypedef unsigned long (*on_errors)() noexcept nogil
ctypedef void (*forgetting)() noexcept nogil
ctypedef int (*selecting)(void* ssl, const unsigned char** chosen, unsigned char* size, const unsigned char* listed,
                          unsigned int all, void* offered) noexcept nogil
ctypedef void (*on_context)(void* context, selecting select, void* offered) noexcept nogil

cdef on_bytes SSL_read, SSL_write, BIO_read, BIO_write
cdef on_ssl SSL_do_handshake, SSL_shutdown
cdef on_name SSL_get_version
cdef on_result SSL_get_error
cdef on_memory BIO_get_mem_data
cdef on_errors ERR_peek_error
cdef forgetting ERR_clear_error
cdef on_context SSL_CTX_set_alpn_select_cb


cdef class Records:
    cdef object _connection
    cdef void* _ssl
    cdef void* _into_ssl
    cdef void* _from_ssl
    cdef readonly int ended
    cdef readonly int count
    cdef readonly bint left
    cdef readonly bint answers
    cdef readonly Py_ssize_t taken

    def __init__(self, connection not None, scratch):
        into_ssl, from_ssl = connection._into_ssl, connection._from_ssl
        if into_ssl is None or from_ssl is None:
            raise TypeError("the connection has a socket")
        self._ssl = <void*>_pointer(connection._ssl)
        self._into_ssl, self._from_ssl = <void*>_pointer(into_ssl), <void*>_pointer(from_ssl)
        # It frees them all, when it is freed itself.
        self._connection = connection

    def feed(self, bytes data not None):
        _forget_errors()
        self._feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def shake(self):
        _forget_errors()
        cdef int count
        with nogil:  # a signature takes long, and other threads may have something to do
            count = SSL_do_handshake(self._ssl)
        self._note(count)
        return self.ended

    def opened(self, bytes data not None):
        cdef char plain[_RECORD]
        cdef Py_ssize_t unsent = self._unsent()
        _forget_errors()
        self._feed(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self._note(SSL_read(self._ssl, plain, _RECORD))
        if self.ended != _NONE:
            self.left, self.answers = False, self._unsent() != 0
            return b""
        self.left, self.answers = self._unread() != 0, self._unsent() > unsent
        return PyBytes_FromStringAndSize(plain, self.count)

    def sealed(self, bytes data not None, Py_ssize_t at):
        cdef Py_ssize_t size
        if at < 0 or at > PyBytes_GET_SIZE(data):
            raise ValueError("outside of the bytes")
        size = PyBytes_GET_SIZE(data) - at
        _forget_errors()
        self.ended, self.taken = _NONE, 0
        if size > _RECORD:
            return self._several(PyBytes_AS_STRING(data) + at, min(size, _MOST))
        if size:
            self._seal(PyBytes_AS_STRING(data) + at, size)
        return self.written()

    cdef bytes _several(self, const char* text, Py_ssize_t size):
        """Several records, taken out one by one, so that OpenSSL keeps room for one of them only."""
        cdef Py_ssize_t filled = 0, waiting, room = self._unsent() + _with_frames(size)
        cdef PyObject* made = FromStringAndSize(NULL, room)
        try:
            while self.taken < size and self.ended == _NONE:
                self._seal(text + self.taken, min(size - self.taken, _RECORD))
                waiting = self._unsent()
                if waiting > room - filled:
                    room = filled + waiting + _with_frames(size - self.taken)
                    _PyBytes_Resize(&made, room)
                filled += self._take(AS_STRING(made) + filled, waiting)
            _PyBytes_Resize(&made, filled)
            return <bytes>made
        finally:
            Py_XDECREF(made)

    cpdef bytes written(self):
        cdef Py_ssize_t waiting = self._unsent()
        cdef bytes made = PyBytes_FromStringAndSize(NULL, waiting)
        self._take(PyBytes_AS_STRING(made), waiting)
        return made

    def version(self):
        cdef const char* name = SSL_get_version(self._ssl)
        return "TLSv1.3" if strcmp(name, b"TLSv1.3") == 0 else name.decode("ascii")

    def goodbye(self):
        _forget_errors()
        return SSL_shutdown(self._ssl) > 0

    cdef inline int _feed(self, const char* text, Py_ssize_t size) except -1:
        if size and BIO_write(self._into_ssl, <void*>text, <int>size) != size:
            raise MemoryError
        return 0

    cdef inline void _seal(self, const char* text, Py_ssize_t size) noexcept:
        self._note(SSL_write(self._ssl, <void*>text, <int>size))
        if self.count > 0:
            self.taken += self.count

    cdef inline void _note(self, int count) noexcept:
        self.count = count
        self.ended = _NONE if count > 0 else SSL_get_error(self._ssl, count)

    cdef inline Py_ssize_t _take(self, char* place, Py_ssize_t waiting) noexcept:
        return BIO_read(self._from_ssl, place, <int>waiting) if waiting else 0

    cdef inline Py_ssize_t _unread(self) noexcept:
        cdef char* place
        return BIO_get_mem_data(self._into_ssl, &place)

    cdef inline Py_ssize_t _unsent(self) noexcept:
        cdef char* place
        return BIO_get_mem_data(self._from_ssl, &place)


def offer(context not None, protocols, /):
    cdef bytes offered = b"".join([bytes((len(protocol),)) + protocol for protocol in protocols]) + b"\0"
    if b"" in protocols:
        raise ValueError("a protocol has 1 to 255 bytes")
    context.offered = offered  # as long as there are connections there is the context
    SSL_CTX_set_alpn_select_cb(<void*>_pointer(context._context), _select, PyBytes_AS_STRING(offered))


cdef int _select(void* ssl, const unsigned char** chosen, unsigned char* size, const unsigned char* listed,
                 unsigned int all, void* offered) noexcept nogil:
    """OpenSSL's question; both lists are as in RFC 7301 §3.1, ours ends with a protocol of no length."""
    cdef const unsigned char* ours = <const unsigned char*>offered
    cdef unsigned int at
    while ours[0]:
        at = 0
        while at < all and at + listed[at] < all:
            if listed[at] == ours[0] and memcmp(listed + at + 1, ours + 1, ours[0]) == 0:
                chosen[0], size[0] = ours + 1, ours[0]
                return _TAKEN
            at += 1 + listed[at]
        ours += 1 + ours[0]
    return _FATAL


cdef inline void _forget_errors() noexcept:
    if ERR_peek_error():
        ERR_clear_error()


cdef inline Py_ssize_t _with_frames(Py_ssize_t size) noexcept:
    return size + (size + _RECORD - 1) // _RECORD * _ADDED


cdef uintptr_t _pointer(object found) except? 0:
    return _cast(_kind, found)


def _bindings():
    """cffi's module that knows OpenSSL's functions, and their types."""
    try:
        from cryptography.hazmat.bindings._rust import _openssl as found
    except ImportError:  # before cryptography 40
        from cryptography.hazmat.bindings import _openssl as found
    return found


cdef uintptr_t _function(object found, str name, str kind) except? 0:
    """The address of one; raises `TypeError` if it is another kind of function than ours will be called as."""
    function = found.ffi.addressof(found.lib, name)
    if found.ffi.typeof(function).cname != kind:
        raise TypeError(f"{name} is of the type {found.ffi.typeof(function).cname}")
    return found.ffi.cast("uintptr_t", function)


_ON_CONTEXT = (
    "void(*)(SSL_CTX *, int(*)(SSL *, unsigned char * *, unsigned char *, unsigned char *, unsigned int, void *), void *)"
)


def _reach():
    global _cast, _kind, SSL_read, SSL_write, SSL_do_handshake, SSL_shutdown, SSL_get_error
    global BIO_read, BIO_write, BIO_get_mem_data, ERR_peek_error, ERR_clear_error
    global SSL_get_version, SSL_CTX_set_alpn_select_cb
    found = _bindings()
    SSL_read = <on_bytes>_function(found, "SSL_read", "int(*)(SSL *, void *, int)")
    SSL_write = <on_bytes>_function(found, "SSL_write", "int(*)(SSL *, void *, int)")
    SSL_do_handshake = <on_ssl>_function(found, "SSL_do_handshake", "int(*)(SSL *)")
    SSL_shutdown = <on_ssl>_function(found, "SSL_shutdown", "int(*)(SSL *)")
    SSL_get_version = <on_name>_function(found, "SSL_get_version", "char *(*)(SSL *)")
    SSL_get_error = <on_result>_function(found, "SSL_get_error", "int(*)(SSL *, int)")
    BIO_read = <on_bytes>_function(found, "BIO_read", "int(*)(BIO *, void *, int)")
    BIO_write = <on_bytes>_function(found, "BIO_write", "int(*)(BIO *, void *, int)")
    BIO_get_mem_data = <on_memory>_function(found, "BIO_get_mem_data", "long(*)(BIO *, char * *)")
    ERR_peek_error = <on_errors>_function(found, "ERR_peek_error", "unsigned long(*)()")
    ERR_clear_error = <forgetting>_function(found, "ERR_clear_error", "void(*)()")
    SSL_CTX_set_alpn_select_cb = <on_context>_function(found, "SSL_CTX_set_alpn_select_cb", _ON_CONTEXT)
    _cast, _kind = found.ffi.cast, found.ffi.typeof("uintptr_t")


def _in_python():
    """`tlsbytes.py`, which this module hides."""
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    import rproxy.native

    place = Path(rproxy.native.__file__).with_name("tlsbytes.py")
    spec = spec_from_file_location("rproxy.native.tlsbytes_in_python", place)
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


cdef object _cast = None, _kind = None
try:
    _reach()
except (ImportError, AttributeError, TypeError, ValueError, NotImplementedError):
    python = _in_python()
    globals().update(Records=python.Records, offer=python.offer)
