// Shared by backend.c and client.c: both are one thread on epoll, Linux only, and cost as little as they can
// beside the proxy under test, since all of them share a machine.
//
// Protocol: every request is 64 bytes: [0] kind, [8..16) a number (host order).
//   'P' reply with 64 bytes and keep the connection open
//   'S' reply with 64 bytes and close (the server closes first, as HTTP/1.0 does)
//   'B' send as many bytes as the number says, then close
// A reply starts with 'R' and the number of the backend.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MESSAGE 64
#define BULK_CHUNK (1u << 20)
#define MAX_EVENTS 256
#define SECOND 1000000000ull

typedef uint64_t u64;
typedef uint32_t u32;

static int ep = -1;
static volatile sig_atomic_t stopped;

static void on_term(int signal) { (void)signal; stopped = 1; }

static inline void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static inline u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * SECOND + (u64)t.tv_nsec;
}

static inline int ep_wait(struct epoll_event *events, u64 timeout_ns) {
    struct timespec t = {(time_t)(timeout_ns / SECOND), (long)(timeout_ns % SECOND)};
    int n = (int)syscall(SYS_epoll_pwait2, ep, events, MAX_EVENTS, &t, NULL, 8);
    if (n < 0 && errno != EINTR) die("epoll_pwait2");
    return n < 0 ? 0 : n;
}

static inline void ep_ctl(int op, int fd, u32 events, u64 data) {
    struct epoll_event e = {.events = events, .data.u64 = data};
    if (epoll_ctl(ep, op, fd, &e)) die("epoll_ctl");
}

static inline struct sockaddr_in parse_address(const char *text) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64];
    snprintf(host, sizeof host, "%s", text);
    char *colon = strrchr(host, ':');
    if (!colon) { errno = EINVAL; die(text); }
    *colon = 0;
    address.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) { errno = EINVAL; die(text); }
    return address;
}

// Options are `--name value` after the first word.
static inline const char *option(int argc, char **argv, const char *name, const char *absent) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strncmp(argv[i], "--", 2) && !strcmp(argv[i] + 2, name)) return argv[i + 1];
    return absent;
}

static inline void begin(void) {
    struct sigaction action = {.sa_handler = on_term};  // no SA_RESTART
    prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // never outlive the one that started it
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &action, NULL);
    ep = epoll_create1(EPOLL_CLOEXEC);
    if (ep < 0) die("epoll_create1");
}
