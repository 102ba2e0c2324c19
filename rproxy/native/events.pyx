# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`events.py` in C: no Python object is made for an event but its descriptor."""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EINTR, EPERM, errno
from libc.math cimport ceil

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

MOST = 256
IN = EPOLLIN

cdef enum:
    _MOST = 256

cdef double LONGEST = 86400.0


def watch(object poller, int number, int descriptor, unsigned int event):
    cdef epoll_event wanted
    wanted.events = event
    wanted.data.fd = descriptor
    if epoll_ctl(number, EPOLL_CTL_ADD, descriptor, &wanted) < 0:
        if errno == EPERM:
            return False
        PyErr_SetFromErrno(OSError)
    return True


def turn(object poller, int number, double timeout, dict selectables, type readers, object serve, object stray,
         object failed):
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
    for at in range(count):
        found = PyDict_GetItemWithError(selectables, events[at].data.fd)
        due[at] = found
        if found is not NULL:
            Py_INCREF(<object>found)
    at = 0
    try:
        while at < count:
            _deliver(<object>due[at] if due[at] is not NULL else None, events[at].data.fd, events[at].events,
                     selectables, readers, serve, stray, failed)
            at += 1
    finally:
        for at in range(count):
            if due[at] is not NULL:
                Py_DECREF(<object>due[at])


cdef inline _deliver(object selectable, object descriptor, unsigned int event, dict selectables, type readers,
                     object serve, object stray, object failed):
    cdef PyObject* now
    if selectable is None:
        stray(descriptor)
        return
    now = PyDict_GetItemWithError(selectables, descriptor)
    if now is not <PyObject*>selectable:
        return
    if event == EPOLLIN and isinstance(selectable, readers):
        raised = False
        try:
            why = selectable.doRead()
        except BaseException as mistake:
            why = mistake
            raised = True
        if why is not None:
            failed(selectable, descriptor, why, raised)
    else:
        serve(selectable, descriptor, event)
