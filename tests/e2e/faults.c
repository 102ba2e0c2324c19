/* System calls on stream sockets that fail now and then, as a kernel's may. Compiled by faults.py, which
 * preloads it into a proxy and shares the table below with it: how often, and what was done.
 *
 * Soft faults are those that pass by themselves: EAGAIN, EINTR, ENOBUFS, fewer bytes or events than were
 * asked for. Hard ones are losses: a connection is reset as its other end would do it, so that the
 * kernel goes on as after a true reset; no descriptor is left for another; nobody can be connected to.
 * What happens is a function of the seed and of how many calls there were before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum call { RECEIVE, SEND, SPLICE, ACCEPT, CONNECT, WAIT, CALLS };
enum kind { PASSED, AGAIN, INTERRUPTED, NO_BUFFERS, SHORT, HARD, KINDS };
#define OF 65536 /* A rate is so many of this many calls. */

static struct table {
    uint64_t seed, drawn;
    uint64_t soft, hard;
    uint64_t counts[CALLS][KINDS];
} none, *table = &none;

__attribute__((constructor)) static void share(void)
{
    const char *name = getenv("FAULTS_TABLE");
    int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
    void *shared = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED)
        abort();
    close(file);
    table = shared;
}

/* The next number; splitmix64, because it needs nothing but a count that several threads may share. */
static uint64_t draw(void)
{
    uint64_t at = table->seed + 0x9e3779b97f4a7c15u * __atomic_add_fetch(&table->drawn, 1, __ATOMIC_RELAXED);
    at = (at ^ at >> 30) * 0xbf58476d1ce4e5b9u;
    at = (at ^ at >> 27) * 0x94d049bb133111ebu;
    return at ^ at >> 31;
}

static int falls(uint64_t rate) { return rate && draw() % OF < rate; }

static void note(enum call call, enum kind kind) { __atomic_add_fetch(&table->counts[call][kind], 1, __ATOMIC_RELAXED); }

static int fails(enum call call, enum kind kind, int why)
{
    note(call, kind);
    errno = why;
    return -1;
}

static int is_stream(int number)
{
    int kind = 0, before = errno;
    socklen_t size = sizeof kind;
    int known = getsockopt(number, SOL_SOCKET, SO_TYPE, &kind, &size) == 0;
    errno = before;
    return known && kind == SOCK_STREAM;
}

static int may_block(int number) { return !(fcntl(number, F_GETFL) & O_NONBLOCK); }

/* Dissolving the association of a TCP socket resets the other side, and this one as if by it. */
static void reset(int number)
{
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    if (syscall(SYS_connect, number, &nobody, sizeof nobody) < 0)
        shutdown(number, SHUT_RDWR);
}

/* Few bytes as often as many: what is cut is cut anywhere. */
static void shorten(size_t *size)
{
    size_t most = draw() % 2 && *size > 16 ? 16 : *size;
    *size = 1 + draw() % most;
}

/* 0 to go on, perhaps with a smaller size; -1 for a failure. */
static int fault(enum call call, int number, size_t *size, int knows_no_buffers)
{
    if (!(table->soft | table->hard) || !is_stream(number))
        return 0;
    if (falls(table->hard)) {
        reset(number);
        return fails(call, HARD, call == RECEIVE ? ECONNRESET : EPIPE);
    }
    enum kind kind = falls(table->soft) ? AGAIN + draw() % (HARD - AGAIN) : PASSED;
    if (kind == AGAIN && !may_block(number))
        return fails(call, kind, EAGAIN);
    if (kind == INTERRUPTED)
        return fails(call, kind, EINTR);
    if (kind == NO_BUFFERS && knows_no_buffers)
        return fails(call, kind, ENOBUFS);
    if (kind == PASSED || *size < 2) {
        note(call, PASSED);
        return 0;
    }
    note(call, SHORT);
    shorten(size);
    return 0;
}

ssize_t recv(int number, void *buffer, size_t size, int flags)
{
    return fault(RECEIVE, number, &size, 0) ? -1 : syscall(SYS_recvfrom, number, buffer, size, flags, NULL, NULL);
}

ssize_t recvfrom(int number, void *buffer, size_t size, int flags, struct sockaddr *from, socklen_t *length)
{
    return fault(RECEIVE, number, &size, 0) ? -1 : syscall(SYS_recvfrom, number, buffer, size, flags, from, length);
}

ssize_t read(int number, void *buffer, size_t size)
{
    return fault(RECEIVE, number, &size, 0) ? -1 : syscall(SYS_read, number, buffer, size);
}

ssize_t send(int number, const void *buffer, size_t size, int flags)
{
    return fault(SEND, number, &size, 1) ? -1 : syscall(SYS_sendto, number, buffer, size, flags, NULL, 0);
}

ssize_t sendto(int number, const void *buffer, size_t size, int flags, const struct sockaddr *to, socklen_t length)
{
    return fault(SEND, number, &size, 1) ? -1 : syscall(SYS_sendto, number, buffer, size, flags, to, length);
}

ssize_t write(int number, const void *buffer, size_t size)
{
    return fault(SEND, number, &size, 0) ? -1 : syscall(SYS_write, number, buffer, size);
}

ssize_t writev(int number, const struct iovec *parts, int count)
{
    size_t few = count > 0 ? (size_t)count : 0;
    return fault(SEND, number, &few, 0) ? -1 : syscall(SYS_writev, number, parts, count > 0 ? (int)few : count);
}

ssize_t splice(int from, off64_t *at, int to, off64_t *there, size_t size, unsigned int flags)
{
    if (fault(SPLICE, is_stream(from) ? from : to, &size, 0))
        return -1;
    return syscall(SYS_splice, from, at, to, there, size, flags);
}

int accept4(int number, struct sockaddr *name, socklen_t *length, int flags)
{
    static const int reasons[] = {EMFILE, ENFILE, ENOBUFS, ECONNABORTED};
    if (falls(table->hard))
        return fails(ACCEPT, HARD, reasons[draw() % 4]);
    if (falls(table->soft))
        return may_block(number) || draw() % 2 ? fails(ACCEPT, INTERRUPTED, EINTR) : fails(ACCEPT, AGAIN, EAGAIN);
    note(ACCEPT, PASSED);
    return syscall(SYS_accept4, number, name, length, flags);
}

/* An interrupted attempt goes on in the kernel (connect(2), EINTR). */
int connect(int number, const struct sockaddr *name, socklen_t length)
{
    static const int reasons[] = {ECONNREFUSED, ETIMEDOUT, ENETUNREACH, EADDRNOTAVAIL};
    if (is_stream(number) && falls(table->hard))
        return fails(CONNECT, HARD, reasons[draw() % 4]);
    int code = syscall(SYS_connect, number, name, length);
    if (is_stream(number) && (code == 0 || errno == EINPROGRESS) && falls(table->soft) && !may_block(number))
        return fails(CONNECT, INTERRUPTED, EINTR);
    note(CONNECT, PASSED);
    return code;
}

int epoll_wait(int number, struct epoll_event *events, int most, int timeout)
{
    if (falls(table->soft)) {
        if (draw() % 2)
            return fails(WAIT, INTERRUPTED, EINTR);
        note(WAIT, SHORT);
        most = most > 1 ? 1 + (int)(draw() % (most < 4 ? most : 4)) : most;
    }
    note(WAIT, PASSED);
    return syscall(SYS_epoll_pwait, number, events, most, timeout, NULL, (size_t)8);
}
