/* Sends requests at a fixed rate and says how long each took to be answered: paced.py compiles and runs it.

       paced PORT NANOSECONDS COUNT LANES

   COUNT requests to localhost at PORT, one every so many nanoseconds, each on the one of LANES kept-alive
   connections that has been free longest. Time counts from the moment at which a request was meant to
   leave: what stands behind a stalled answer waits in the measurement as it would in life. On standard
   output: a line "answered NANOSECONDS" for each, and a line "late NANOSECONDS" for each that a connection
   was free for, which is how late this program itself was. Everything else than 200 with the
   Content-Length that it says is the end: a line on standard error, and status 1.

   It is C because a request must cost the client little beside what it costs a proxy: they share the cores. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    LARGEST = 8192,    /* bytes of an answer, head and body: the backend sends some two hundred */
    PATIENCE = 5,      /* seconds that the last answers may take */
    BATCH = 64,        /* events taken at a time */
};
static const int64_t SECOND = 1000000000;

struct lane {
    int stream;
    int64_t meant; /* when the request under way was meant to leave */
    size_t got;
    char answer[LARGEST + 1];
};

static char request[128];
static struct lane *lanes, **idle; /* idle: a ring of those without a request, the longest first */
static long lane_count, idle_first, idle_count;
static long count, due, sent, answered, late_count;
static int64_t *latencies, *lateness, start, period;

static void fail(const char *format, ...)
{
    va_list words;
    va_start(words, format);
    vfprintf(stderr, format, words);
    va_end(words);
    fputc('\n', stderr);
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* Whether all of a 200 with its Content-Length is here. */
static int is_whole(struct lane *lane)
{
    lane->answer[lane->got] = 0;
    char *end = strstr(lane->answer, "\r\n\r\n");
    if (end == NULL)
        return 0;
    if (strncmp(lane->answer, "HTTP/1.1 200 ", 13) != 0)
        fail("answered '%.*s'", (int)strcspn(lane->answer, "\r\n"), lane->answer);
    char *length = strcasestr(lane->answer, "\r\nContent-Length:");
    if (length == NULL || length > end)
        fail("an answer without Content-Length");
    size_t all = (size_t)(end - lane->answer) + 4 + strtoul(length + 17, NULL, 10);
    if (lane->got > all || all > LARGEST)
        fail("an answer of more bytes than it should have");
    return lane->got == all;
}

/* Read what has come; whether it was the rest of an answer. */
static int receive(struct lane *lane)
{
    ssize_t came = recv(lane->stream, lane->answer + lane->got, LARGEST - lane->got, 0);
    if (came < 0 && errno == EAGAIN)
        return 0;
    if (came <= 0)
        fail("a kept-alive connection was closed");
    lane->got += (size_t)came;
    return is_whole(lane);
}

static void ask(struct lane *lane, int64_t meant)
{
    lane->meant = meant;
    lane->got = 0;
    if (send(lane->stream, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        fail("a request could not be sent");
}

static void rest(struct lane *lane)
{
    idle[(idle_first + idle_count++) % lane_count] = lane;
}

/* A connection that has been used once, so that no measured request pays for opening it. */
static void open_lane(struct lane *lane, int port)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = PATIENCE};
    int one = 1;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    lane->stream = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(lane->stream, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(lane->stream, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(lane->stream, (struct sockaddr *)&place, sizeof place) != 0)
        fail("no connection: %s", strerror(errno));
    ask(lane, 0);
    int64_t latest = now() + PATIENCE * SECOND;
    while (!receive(lane))
        if (now() > latest)
            fail("the first request on a connection was not answered");
    fcntl(lane->stream, F_SETFL, O_NONBLOCK);
    rest(lane);
}

/* Note what has come due. Late for want of a lane is the proxy's doing, late with an idle lane is ours. */
static void look_at_clock(int64_t time)
{
    long ours = idle_count - (due - sent);
    for (; due < count && start + due * period <= time; due++)
        if (ours-- > 0)
            lateness[late_count++] = time - (start + due * period);
}

static void send_due(void)
{
    for (; sent < due && idle_count > 0; sent++, idle_count--) {
        ask(idle[idle_first], start + sent * period);
        idle_first = (idle_first + 1) % lane_count;
    }
}

static void watch(int poller, int descriptor, void *whose)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = whose};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, descriptor, &event) != 0)
        fail("epoll: %s", strerror(errno));
}

/* A descriptor that can be read when the next request is due. */
static int metronome(void)
{
    struct itimerspec pace = {
        .it_value = {start / SECOND, start % SECOND},
        .it_interval = {period / SECOND, period % SECOND},
    };
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (timer < 0 || timerfd_settime(timer, TFD_TIMER_ABSTIME, &pace, NULL) != 0)
        fail("no timer: %s", strerror(errno));
    return timer;
}

static void collect(struct epoll_event *event, int timer)
{
    uint64_t ticks;
    struct lane *lane = event->data.ptr;
    if (lane == NULL) {
        if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN)
            fail("the timer: %s", strerror(errno));
    } else if (receive(lane)) {
        latencies[answered++] = now() - lane->meant;
        rest(lane);
    }
}

static void run(void)
{
    struct epoll_event events[BATCH];
    int poller = epoll_create1(0), timer = metronome();
    int64_t latest = start + count * period + PATIENCE * SECOND;
    watch(poller, timer, NULL);
    for (long number = 0; number < lane_count; number++)
        watch(poller, lanes[number].stream, &lanes[number]);
    while (answered < count) {
        int came = epoll_wait(poller, events, BATCH, PATIENCE * 1000);
        for (int number = 0; number < came; number++)
            collect(&events[number], timer);
        look_at_clock(now());
        send_due();
        if (now() > latest)
            fail("%ld of %ld requests were not answered", count - answered, count);
    }
}

int main(int words, char **word)
{
    if (words != 5)
        fail("paced PORT NANOSECONDS COUNT LANES");
    int port = atoi(word[1]);
    period = atoll(word[2]), count = atol(word[3]), lane_count = atol(word[4]);
    lanes = calloc((size_t)lane_count, sizeof *lanes);
    idle = calloc((size_t)lane_count, sizeof *idle);
    latencies = calloc((size_t)count, sizeof *latencies);
    lateness = calloc((size_t)count, sizeof *lateness);
    if (lanes == NULL || idle == NULL || latencies == NULL || lateness == NULL)
        fail("no memory");
    snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: localhost:%d\r\n\r\n", port);
    for (long number = 0; number < lane_count; number++)
        open_lane(&lanes[number], port);
    start = now() + SECOND / 100;
    run();
    for (long number = 0; number < answered; number++)
        printf("answered %lld\n", (long long)latencies[number]);
    for (long number = 0; number < late_count; number++)
        printf("late %lld\n", (long long)lateness[number]);
    return 0;
}
