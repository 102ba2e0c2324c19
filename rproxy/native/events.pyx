# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, binding=False
"""`events.py` in C: no Python object is made for an event but its descriptor."""

from cpython.dict cimport PyDict_DelItem, PyDict_GetItemWithError, PyDict_SetItem
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.set cimport PySet_Add, PySet_Contains, PySet_Discard
from libc.errno cimport EINTR, EPERM, errno
from libc.math cimport ceil
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object kind)

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data:
        int fd
    struct epoll_event:
        unsigned int events
        epoll_data data
    int epoll_wait(int number, epoll_event* events, int most, int timeout)
    int epoll_ctl(int number, int change, int descriptor, epoll_event* event)
    unsigned int EPOLLIN
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    int EPOLL_CTL_DEL

MOST = 256
IN = EPOLLIN

cdef enum:
    _MOST = 256

cdef double LONGEST = 86400.0


def now():
    cdef timespec time
    clock_gettime(CLOCK_REALTIME, &time)
    return <double>(time.tv_sec * 1000000000 + time.tv_nsec) / 1e9


cdef inline int _control(int number, int change, int descriptor, unsigned int event) noexcept:
    cdef epoll_event wanted
    wanted.events = event
    wanted.data.fd = descriptor
    return epoll_ctl(number, change, descriptor, &wanted)


def add(object poller, int number, set mine not None, set others not None, dict selectables not None,
        object descriptor, object selectable, unsigned int event, unsigned int both, /):
    cdef int asked = descriptor
    if PySet_Contains(mine, descriptor):
        return True
    if PySet_Contains(others, descriptor):
        if _control(number, EPOLL_CTL_MOD, asked, both) < 0:
            PyErr_SetFromErrno(OSError)
    elif _control(number, EPOLL_CTL_ADD, asked, event) < 0:
        if errno == EPERM:
            return False
        PyErr_SetFromErrno(OSError)
    PySet_Add(mine, descriptor)
    PyDict_SetItem(selectables, descriptor, selectable)
    return True


def remove(object poller, int number, set mine not None, set others not None, dict selectables not None,
           object descriptor, unsigned int other, /):
    cdef int asked = descriptor
    if not PySet_Contains(mine, descriptor):
        return PySet_Contains(others, descriptor) == 1
    if PySet_Contains(others, descriptor):
        if _control(number, EPOLL_CTL_MOD, asked, other) < 0:
            PyErr_SetFromErrno(OSError)
    else:
        PyDict_DelItem(selectables, descriptor)
        if _control(number, EPOLL_CTL_DEL, asked, 0) < 0:
            PyErr_SetFromErrno(OSError)
    PySet_Discard(mine, descriptor)
    return True


def forget(set one not None, set other not None, dict selectables not None, object descriptor, /):
    PySet_Discard(one, descriptor)
    PySet_Discard(other, descriptor)
    if PyDict_GetItemWithError(selectables, descriptor) is not NULL:
        PyDict_DelItem(selectables, descriptor)


def turn(object poller, int number, double timeout, dict selectables, type readers, object read, object serve,
         object stray, object failed, /):
    cdef epoll_event events[_MOST]
    cdef PyObject* due[_MOST]
    cdef PyObject* found
    cdef int count, at, wait
    # As the select module does: never before the time.
    wait = -1 if timeout < 0 else <int>ceil((timeout if timeout < LONGEST else LONGEST) * 1000.0)
    with nogil:
        count = epoll_wait(number, events, _MOST, wait)
    if count < 0:
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()
        return
    PyErr_CheckSignals()  # a busy loop may come by no bytecode, which looks for them otherwise
    for at in range(count):
        found = PyDict_GetItemWithError(selectables, events[at].data.fd)
        due[at] = found
        if found is not NULL:
            Py_INCREF(<object>found)
    at = 0
    try:
        while at < count:
            _deliver(<object>due[at] if due[at] is not NULL else None, events[at].data.fd, events[at].events,
                     selectables, readers, read, serve, stray, failed)
            at += 1
    finally:
        for at in range(count):
            if due[at] is not NULL:
                Py_DECREF(<object>due[at])


cdef inline _deliver(object selectable, object descriptor, unsigned int event, dict selectables, type readers,
                     object read, object serve, object stray, object failed):
    cdef PyObject* found
    if selectable is None:
        stray(descriptor)
        return
    found = PyDict_GetItemWithError(selectables, descriptor)
    if found is not <PyObject*>selectable:
        return
    if event == EPOLLIN and isinstance(selectable, readers):
        raised = False
        try:
            why = read(selectable)
        except BaseException as mistake:
            why = mistake
            raised = True
        if why is not None:
            failed(selectable, descriptor, why, raised)
    else:
        serve(selectable, descriptor, event)
