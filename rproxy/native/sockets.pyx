# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`sockets.py` in C: the same functions, with nothing between them and the kernel."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, ENOMEM, errno

cdef extern from "Python.h":
    PyObject* FromStringAndSize "PyBytes_FromStringAndSize"(const char* text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** text, Py_ssize_t size) except -1
    char* AS_STRING "PyBytes_AS_STRING"(PyObject* text)
    object PyErr_SetFromErrno(object kind)

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int number, void* buffer, size_t size, int flags)
    ssize_t c_send "send"(int number, const void* buffer, size_t size, int flags)
    int MSG_NOSIGNAL

CHUNK = 65536
SEND = 131072
LATER = frozenset((EAGAIN, EINTR, ENOBUFS, ENOMEM))

cdef enum:
    _CHUNK = 65536
    _SEND = 131072
    # Above this the buffer itself is given away, cut to size; below, a copy costs less than a new buffer.
    _COPY = 8192

# The next read goes here. Used only while the interpreter's lock is held, which a read does not give up.
cdef PyObject* _spare = NULL


cdef inline bint _later(int number) noexcept:
    return number == EAGAIN or number == EINTR or number == ENOBUFS or number == ENOMEM


def receive(object sock, int number):
    global _spare
    cdef ssize_t count
    cdef PyObject* given
    if _spare is NULL:
        _spare = FromStringAndSize(NULL, _CHUNK)
    count = c_recv(number, AS_STRING(_spare), _CHUNK, 0)
    if count < 0:
        if _later(errno):
            return None
        PyErr_SetFromErrno(OSError)
    if count < _COPY:
        return PyBytes_FromStringAndSize(AS_STRING(_spare), count)
    given, _spare = _spare, NULL
    if count < _CHUNK:
        _PyBytes_Resize(&given, count)
    result = <object>given
    Py_XDECREF(given)
    return result


def send(object sock, int number, bytes data not None, Py_ssize_t start):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - start
    cdef ssize_t count
    if size < 0 or start < 0:
        raise ValueError("outside of the bytes")
    if size > _SEND:
        size = _SEND
    count = c_send(number, PyBytes_AS_STRING(data) + start, size, MSG_NOSIGNAL)
    if count < 0:
        if _later(errno):
            return 0
        PyErr_SetFromErrno(OSError)
    return count
