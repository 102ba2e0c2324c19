# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`sockets.py` in C: the same functions, with nothing between them and the kernel."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
import os
from struct import pack
from _socket import socket as SocketType
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, ENOBUFS, ENOMEM, errno
from libc.string cimport memset, strlen

cdef extern from "Python.h":
    PyObject* FromStringAndSize "PyBytes_FromStringAndSize"(const char* text, Py_ssize_t size) except NULL
    int _PyBytes_Resize(PyObject** text, Py_ssize_t size) except -1
    char* AS_STRING "PyBytes_AS_STRING"(PyObject* text)
    object PyErr_SetFromErrno(object kind)
    int PyUnicode_IS_COMPACT_ASCII(object text)
    char* PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef extern from "arpa/inet.h" nogil:
    ctypedef unsigned int socklen_t
    unsigned short ntohs(unsigned short number)
    unsigned int ntohl(unsigned int number)
    const char* inet_ntop(int family, const void* place, char* text, socklen_t size)
    int inet_pton(int family, const char* text, void* place)
    unsigned short htons(unsigned short number)
    enum:
        INET6_ADDRSTRLEN

cdef extern from "netinet/in.h" nogil:
    struct sockaddr:
        pass
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        unsigned int sin6_flowinfo
        in6_addr sin6_addr
        unsigned int sin6_scope_id

cdef extern from "unistd.h" nogil:
    int close(int number)

# accept4 is Linux's own.
cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <sys/socket.h>
    """

cdef extern from "sys/socket.h" nogil:
    struct sockaddr_storage:
        unsigned short ss_family
    int accept4(int number, sockaddr* place, socklen_t* size, int flags)
    int AF_INET
    int AF_INET6
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    ssize_t c_recv "recv"(int number, void* buffer, size_t size, int flags)
    ssize_t c_send "send"(int number, const void* buffer, size_t size, int flags)
    struct c_linger "linger":
        int l_onoff
        int l_linger
    int setsockopt(int number, int level, int name, const void* value, unsigned int size)
    int SOL_SOCKET
    int SO_LINGER
    int c_shutdown "shutdown"(int number, int how)
    int MSG_NOSIGNAL
    int SHUT_WR
    int c_connect "connect"(int number, const sockaddr* place, unsigned int size)
    int SO_KEEPALIVE

cdef extern from "netinet/tcp.h" nogil:
    int TCP_NODELAY
    int IPPROTO_TCP

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int number, unsigned long question, int* answer)

CHUNK = 65536
SEND = 131072
RESET = pack("ii", 1, 0)
LATER = frozenset((EAGAIN, EINTR, ENOBUFS, ENOMEM))

cdef enum:
    _CHUNK = 65536
    _SEND = 131072
    # Above this the buffer itself is given away, cut to size; below, a copy costs less than a new buffer.
    _COPY = 8192

cdef type _SOCKET = SocketType

# The next read goes here. Used only while the interpreter's lock is held, which a read does not give up.
cdef PyObject* _spare = NULL


cdef inline bint _is_socket(object sock) noexcept:
    """Whether the kernel may be asked by the number; what else looks like a socket is asked itself."""
    return isinstance(sock, _SOCKET)


cdef inline bint _later(int number) noexcept:
    return number == EAGAIN or number == EINTR or number == ENOBUFS or number == ENOMEM


cdef inline object _dotted(const unsigned char* octets):
    """What inet_ntop writes by way of sprintf."""
    cdef char text[16]
    cdef int at = 0, place
    cdef unsigned char octet
    for place in range(4):
        octet = octets[place]
        if octet >= 100:
            text[at] = 48 + octet // 100
            at += 1
        if octet >= 10:
            text[at] = 48 + octet // 10 % 10
            at += 1
        text[at], text[at + 1] = 48 + octet % 10, 46
        at += 2
    return text[:at - 1].decode("ascii")


def accept(object sock, int number, /):
    cdef sockaddr_storage place
    cdef sockaddr_in* four = <sockaddr_in*>&place
    cdef sockaddr_in6* six = <sockaddr_in6*>&place
    cdef socklen_t size = sizeof(place)
    cdef char text[INET6_ADDRSTRLEN]
    cdef int made
    if not _is_socket(sock):
        return _accept_from(sock)
    made = accept4(number, <sockaddr*>&place, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if made < 0:
        if errno == EAGAIN:
            return None
        PyErr_SetFromErrno(OSError)
    try:
        if size and place.ss_family == AF_INET:
            return made, (_dotted(<unsigned char*>&four.sin_addr), ntohs(four.sin_port))
        if size and place.ss_family == AF_INET6 and six.sin6_scope_id == 0:
            inet_ntop(AF_INET6, &six.sin6_addr, text, INET6_ADDRSTRLEN)
            return made, (text.decode("ascii"), ntohs(six.sin6_port), ntohl(six.sin6_flowinfo), 0)
        return made, _name(sock, made)
    except BaseException:
        close(made)
        raise


cdef object _accept_from(object sock):
    try:
        made, name = sock._accept()
    except BlockingIOError:
        return None
    os.set_blocking(made, False)
    return made, name


cdef object _name(object sock, int made):
    """By the socket module, for what is seldom: links with a scope, unix sockets, a client that has left."""
    other = SocketType(sock.family, sock.type, sock.proto, made)
    try:
        return other.getpeername()
    finally:
        other.detach()


def prepare(object sock, int number, /):
    cdef int one = 1
    if not _is_socket(sock):
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
    elif setsockopt(number, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0 \
            or setsockopt(number, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) < 0:
        PyErr_SetFromErrno(OSError)


def connect(object sock, int number, object place, /):
    cdef sockaddr_in four
    if type(place) is tuple and len(<tuple>place) == 2 and _is_socket(sock) and _four(<tuple>place, &four):
        return 0 if c_connect(number, <sockaddr*>&four, sizeof(four)) == 0 else errno
    return sock.connect_ex(place)


cdef inline bint _four(tuple place, sockaddr_in* four) except -1:
    """Whether it is an IPv4 address and a port, as which it is written there."""
    cdef object host = place[0], port = place[1]
    cdef const char* text
    if type(host) is not str or type(port) is not int or not 0 <= port <= 65535:
        return False
    if not PyUnicode_IS_COMPACT_ASCII(host):
        return False
    text = PyUnicode_1BYTE_DATA(host)
    if <Py_ssize_t>strlen(text) != PyUnicode_GET_LENGTH(host):
        return False
    memset(four, 0, sizeof(sockaddr_in))
    four.sin_family = AF_INET
    four.sin_port = htons(<unsigned short>port)
    return inet_pton(AF_INET, text, &four.sin_addr) == 1


def receive(object sock, int number, /):
    global _spare
    cdef ssize_t count
    cdef PyObject* given
    if not _is_socket(sock):
        return _receive_from(sock)
    if _spare is NULL:
        _spare = FromStringAndSize(NULL, _CHUNK)
    count = c_recv(number, AS_STRING(_spare), _CHUNK, 0)
    if count < 0:
        if _later(errno):
            return None
        if errno == ECONNRESET:
            return False
        PyErr_SetFromErrno(OSError)
    if count < _COPY:
        return PyBytes_FromStringAndSize(AS_STRING(_spare), count)
    given, _spare = _spare, NULL
    if count < _CHUNK:
        _PyBytes_Resize(&given, count)
    result = <object>given
    Py_XDECREF(given)
    return result


cdef object _receive_from(object sock):
    try:
        return sock.recv(_CHUNK)
    except ConnectionResetError:
        return False
    except OSError as problem:
        if problem.errno in LATER:
            return None
        raise


def send(object sock, int number, bytes data not None, Py_ssize_t start, /):
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef ssize_t count
    if start < 0 or start > size:
        raise ValueError("outside of the bytes")
    size -= start
    if size > _SEND:
        size = _SEND
    if not _is_socket(sock):
        return _send_to(sock, data[start:start + size])
    count = c_send(number, PyBytes_AS_STRING(data) + start, size, MSG_NOSIGNAL)
    if count < 0:
        if _later(errno):
            return 0
        PyErr_SetFromErrno(OSError)
    return count


cdef object _send_to(object sock, bytes data):
    try:
        return sock.send(data)
    except OSError as problem:
        if problem.errno in LATER:
            return 0
        raise


def shut(object sock, int number, /):
    if _is_socket(sock):
        c_shutdown(number, SHUT_WR)
        return
    try:
        sock.shutdown(SHUT_WR)
    except OSError:
        pass


def reset(object sock, int number, /):
    cdef c_linger none
    none.l_onoff, none.l_linger = 1, 0
    if _is_socket(sock):
        setsockopt(number, SOL_SOCKET, SO_LINGER, &none, sizeof(none))
        return
    try:
        sock.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
    except OSError:
        pass


def queued(int number, /, *questions):
    cdef int count = 0
    for question in questions:
        if ioctl(number, question, &count) == 0:
            return count
    return 0
