// backend --listen IP:PORT[,IP:PORT...] [--id N] [--accepts FILE]: answers the protocol of load.h until SIGTERM.
// Prints READY once it listens. FILE gets a line for each accepted connection, in order: the time (s since the epoch, as
// logs have it) and the number of the address.
#include "load.h"
#include <sys/mman.h>
#include <sys/sendfile.h>

#define BULK_FILE (4u << 20)
#define MAX_LISTENERS 64

struct connection {
    int fd;
    u32 have;            // bytes of the request so far
    u32 armed;           // events asked of epoll; 0 = not registered yet
    char kind;           // of the request being answered
    u64 rest;            // bytes of the answer not sent yet
    unsigned char request[MESSAGE];
};

static int memfd;
static FILE *accepts;
static unsigned char reply[MESSAGE];

static void make_memfd(void) {
    memfd = memfd_create("load", MFD_CLOEXEC);
    if (memfd < 0 || ftruncate(memfd, BULK_FILE)) die("memfd");
    unsigned char *bytes = mmap(NULL, BULK_FILE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (bytes == MAP_FAILED) die("mmap");
    for (u32 i = 0; i < BULK_FILE; i++) bytes[i] = (unsigned char)(i * 2654435761u >> 24);
    munmap(bytes, BULK_FILE);
}

static void arm(struct connection *c, u32 events) {
    if (c->armed == events) return;
    ep_ctl(c->armed ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, events, (u64)(uintptr_t)c);
    c->armed = events;
}

static void finish(struct connection *c) {
    close(c->fd);
    free(c);
}

// Sends what is left of the answer.  1: all of it, 0: the socket is full, -1: the peer is gone.
static int push(struct connection *c) {
    while (c->rest) {
        off_t start = 0;
        size_t chunk = c->rest < BULK_CHUNK ? (size_t)c->rest : BULK_CHUNK;
        ssize_t n = c->kind == 'B' ? sendfile(c->fd, memfd, &start, chunk)
                                   : send(c->fd, reply, (size_t)c->rest, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        c->rest -= (u64)n;
    }
    return 1;
}

// 1: go on reading, 0: come back later, -1: over.
static int answer(struct connection *c) {
    int done = push(c);
    if (done == 0) arm(c, EPOLLOUT);
    if (done <= 0) return done;
    return c->kind == 'P' ? 1 : -1;
}

static void serve(struct connection *c) {
    int state = c->rest ? answer(c) : 1;
    while (state == 1) {
        arm(c, EPOLLIN);
        ssize_t n = recv(c->fd, c->request + c->have, MESSAGE - c->have, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) { state = -1; break; }
        c->have += (u32)n;
        if (c->have < MESSAGE) return;
        c->have = 0;
        c->kind = (char)c->request[0];
        c->rest = MESSAGE;
        if (c->kind == 'B') memcpy(&c->rest, c->request + 8, 8);
        state = answer(c);
        if (state == 1) return;  // nothing more is expected before the peer has read the answer
    }
    if (state < 0) finish(c);
}

static void note_accept(int number) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    fprintf(accepts, "%ld.%09ld %d\n", (long)t.tv_sec, t.tv_nsec, number);
}

static void accept_some(int listener, int number) {
    for (int i = 0; i < 64; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        if (accepts) note_accept(number);
        struct connection *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        serve(c);
    }
}

static int listen_on(const char *text) {
    struct sockaddr_in address = parse_address(text);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);  // inherited by accepted sockets
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 4096)) die(text);
    return fd;
}

int main(int argc, char **argv) {
    int listeners[MAX_LISTENERS], count = 0;
    begin();
    make_memfd();
    reply[0] = 'R';
    reply[1] = (unsigned char)atoi(option(argc, argv, "id", "0"));
    const char *log = option(argc, argv, "accepts", "");
    if (*log && !(accepts = fopen(log, "w"))) die(log);
    char *list = strdup(option(argc, argv, "listen", "")), *rest = NULL;
    for (char *one = strtok_r(list, ",", &rest); one && count < MAX_LISTENERS; one = strtok_r(NULL, ",", &rest)) {
        listeners[count] = listen_on(one);
        ep_ctl(EPOLL_CTL_ADD, listeners[count], EPOLLIN, (u64)count);
        count++;
    }
    printf("READY\n");
    fflush(stdout);
    struct epoll_event events[MAX_EVENTS];
    while (!stopped) {
        int n = ep_wait(events, SECOND);
        for (int i = 0; i < n; i++) {
            u64 what = events[i].data.u64;
            if (what < MAX_LISTENERS) accept_some(listeners[what], (int)what);
            else serve((struct connection *)(uintptr_t)what);
        }
    }
    return 0;
}
