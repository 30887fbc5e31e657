// Load client.  Options are `--name value`:
//   client short   --target IP:PORT (--conns N | --rate R) --secs S [--warm W] [--timeout-ms T]
//                  one connection per request: 64 bytes there, 64 bytes back, the server closes
//   client message --target IP:PORT --conns N [--rate R] --secs S [--warm W]
//                  64 bytes there and back on long-lived connections
//   client bulk    --target IP:PORT --conns N --secs S [--warm W]     bytes to the client, discarded unread
//   client idle    --target IP:PORT --conns N      one message each, then holds them until a line comes on stdin
// Without a rate the loop is closed (as fast as answers come); with one, arrivals are Poisson and latency
// counts from the scheduled arrival to the first byte, so a stalled proxy cannot hide its queue.
//
// All but idle print BEGIN and END around the measured window (the caller samples CPU clocks there), then one
// line of JSON.  idle prints "READY n" and, after the line on stdin, its JSON.
#include "load.h"
#include <math.h>

enum { WARMING, MEASURING, OVER };
enum { MAX_OPEN_SHORT = 15000, MAX_NOTED = 100 };

static struct sockaddr_in target;
static u64 t_begin, t_end;  // the measured window
static int phase;
static unsigned char request[MESSAGE];

// ---------------------------------------------------------------- results
static u32 *latency;  // tenths of a microsecond, of requests scheduled within the window
static u64 latencies, latency_room, ok, ok_window, errors;
static struct { u64 start, end; int number; } noted[MAX_NOTED];  // the first errors

static void make_room(double expected) {
    latency_room = (u64)expected + 1000;
    latency = malloc(latency_room * sizeof *latency);
    if (!latency) die("malloc");
}

static void note_ok(u64 scheduled, u64 first_byte) {
    u64 took = (first_byte - scheduled) / 100;
    ok++;
    if (phase == MEASURING) ok_window++;
    if (scheduled >= t_begin && scheduled < t_end && latencies < latency_room)
        latency[latencies++] = took > UINT32_MAX ? UINT32_MAX : (u32)took;
}

// `number` is an errno, or 0 for an end before the whole answer.
static void note_error(u64 start, int number) {
    if (errors < MAX_NOTED) {
        noted[errors].start = start;
        noted[errors].end = now_ns();
        noted[errors].number = number;
    }
    errors++;
}

static int ascending(const void *a, const void *b) {
    u32 x = *(const u32 *)a, y = *(const u32 *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    if (!latencies) return -1;
    u64 rank = (u64)ceil(share * (double)latencies);
    return latency[rank ? rank - 1 : 0] / 10.0;
}

static void print_results(u64 bytes) {
    qsort(latency, latencies, sizeof *latency, ascending);
    u64 slow = 0;
    while (slow < latencies && latency[latencies - 1 - slow] > 2000000) slow++;
    printf("{\"over_200ms\":%lu,", slow);
    printf("\"ok\":%lu,\"ok_window\":%lu,\"bytes_window\":%lu,\"window_s\":%.6f,\"errors\":%lu,", ok, ok_window, bytes,
           (double)(t_end - t_begin) / 1e9, errors);
    printf("\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"first_errors\":[", percentile(.5),
           percentile(.99), percentile(.999), percentile(1));
    for (u64 i = 0; i < errors && i < MAX_NOTED; i++)
        printf("%s{\"start_s\":%.6f,\"end_s\":%.6f,\"error\":\"%s\"}", i ? "," : "", (double)noted[i].start / 1e9,
               (double)noted[i].end / 1e9, noted[i].number ? strerror(noted[i].number) : "ended early");
    printf("]}\n");
    fflush(stdout);
}

// ---------------------------------------------------------------- time
static void set_window(double warm, double secs) {
    t_begin = now_ns() + (u64)(warm * 1e9);
    t_end = t_begin + (u64)(secs * 1e9);
}

static void advance(u64 now) {
    if (phase == WARMING && now >= t_begin) {
        phase = MEASURING;
        t_end += now - t_begin;
        t_begin = now;
        puts("BEGIN");
        fflush(stdout);
    }
    if (phase == MEASURING && now >= t_end) {
        phase = OVER;
        t_end = now;
        puts("END");
        fflush(stdout);
    }
}

// Time to the next arrival at `rate` a second (Poisson).
static u64 gap(double rate) {
    static u64 x = 88172645463325252ull;
    x ^= x << 13; x ^= x >> 7; x ^= x << 17;
    double uniform = ((double)(x >> 11) + 0.5) / 9007199254740992.0;
    return (u64)(-log(uniform) / rate * 1e9);
}

static u64 at_most(u64 limit, u64 value) { return value < limit ? value : limit; }

// ---------------------------------------------------------------- short connections
struct slot { int fd, sent, previous, next; u32 got; u64 scheduled, first; };
static struct slot *slots;
static int *free_slots, free_count, oldest = -1, newest = -1;

static int open_socket(void) { return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

static void release(int i) {
    struct slot *s = &slots[i];
    if (s->fd >= 0) close(s->fd);
    if (s->previous >= 0) slots[s->previous].next = s->next; else oldest = s->next;
    if (s->next >= 0) slots[s->next].previous = s->previous; else newest = s->previous;
    free_slots[free_count++] = i;
}

static void fail(int i, int number) {
    note_error(slots[i].scheduled, number);
    release(i);
}

static void start_short(u64 scheduled) {
    int i = free_slots[--free_count];
    struct slot *s = &slots[i];
    *s = (struct slot){.scheduled = scheduled, .previous = newest, .next = -1, .fd = open_socket()};
    if (newest >= 0) slots[newest].next = i; else oldest = i;
    newest = i;
    if (s->fd < 0) { fail(i, errno); return; }
    if (connect(s->fd, (void *)&target, sizeof target) && errno != EINPROGRESS) { fail(i, errno); return; }
    ssize_t n = send(s->fd, request, MESSAGE, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) { fail(i, errno); return; }
    s->sent = n == MESSAGE;
    ep_ctl(EPOLL_CTL_ADD, s->fd, s->sent ? EPOLLIN : EPOLLOUT, (u64)i);
}

static void continue_short(int i) {
    struct slot *s = &slots[i];
    unsigned char buffer[256];
    if (!s->sent) {
        if (send(s->fd, request, MESSAGE, MSG_NOSIGNAL) != MESSAGE) { fail(i, errno); return; }
        s->sent = 1;
        ep_ctl(EPOLL_CTL_MOD, s->fd, EPOLLIN, (u64)i);
        return;
    }
    for (;;) {
        ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
        if (n > 0) {
            if (!s->got) s->first = now_ns();
            s->got += (u32)n;
            continue;
        }
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) { fail(i, errno); return; }
        if (s->got < MESSAGE) { fail(i, 0); return; }
        note_ok(s->scheduled, s->first);
        release(i);
        return;
    }
}

static void run_short(int conns, double rate, double warm, double secs, u64 timeout) {
    int room = rate > 0 ? MAX_OPEN_SHORT : conns;
    slots = calloc((size_t)room, sizeof *slots);
    free_slots = calloc((size_t)room, sizeof *free_slots);
    for (int i = room; i-- > 0;) free_slots[free_count++] = i;
    make_room(rate > 0 ? rate * secs * 1.5 : 4e6);
    request[0] = 'S';
    set_window(warm, secs);
    struct epoll_event events[MAX_EVENTS];
    u64 next = now_ns(), give_up = t_end + timeout + 2 * SECOND;
    for (;;) {
        u64 now = now_ns(), wait = 20000000ull;
        advance(now);
        if ((phase == OVER && oldest < 0) || now > give_up || stopped) return;
        if (phase != OVER && rate > 0) {
            for (int k = 0; now >= next && free_count && k < 64; k++) { start_short(next); next += gap(rate); }
            wait = now >= next ? 0 : at_most(wait, next - now);
        } else if (phase != OVER) {
            for (int k = 0; free_count && k < 64; k++) start_short(now_ns());
            if (free_count) wait = 0;
        }
        int n = ep_wait(events, wait);
        for (int i = 0; i < n; i++) continue_short((int)events[i].data.u64);
        now = now_ns();
        while (oldest >= 0 && now > slots[oldest].scheduled + timeout) fail(oldest, ETIMEDOUT);
    }
}

// ---------------------------------------------------------------- long-lived connections
struct held { int fd, busy, alive; u32 got; u64 scheduled; };
static struct held *held;

static void open_held(int conns) {
    int one = 1;
    held = calloc((size_t)conns, sizeof *held);
    for (int i = 0; i < conns; i++) {
        held[i].fd = open_socket();
        if (held[i].fd < 0) die("socket");
        setsockopt(held[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (connect(held[i].fd, (void *)&target, sizeof target) && errno != EINPROGRESS) die("connect");
        held[i].alive = 1;
        ep_ctl(EPOLL_CTL_ADD, held[i].fd, EPOLLIN, (u64)i);
    }
    usleep(50000);  // handshakes
}

static void drop(struct held *h, int number) {
    note_error(h->scheduled, number);
    close(h->fd);
    h->alive = h->busy = 0;
}

static void send_message(struct held *h, u64 scheduled) {
    h->scheduled = scheduled;
    h->got = 0;
    h->busy = 1;
    if (send(h->fd, request, MESSAGE, MSG_NOSIGNAL) != MESSAGE) drop(h, errno);
}

// Whether the whole answer is in.
static int take_answer(struct held *h) {
    unsigned char buffer[4096];
    ssize_t n = recv(h->fd, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0 || !h->busy) { drop(h, n < 0 ? errno : 0); return 0; }
    h->got += (u32)n;
    if (h->got < MESSAGE) return 0;
    note_ok(h->scheduled, now_ns());
    h->busy = 0;
    return 1;
}

static void run_message(int conns, double rate, double warm, double secs) {
    int *waiting = calloc((size_t)conns + 1, sizeof *waiting), head = 0, tail = 0;  // ring of connections at rest
    struct epoll_event events[MAX_EVENTS];
    request[0] = 'P';
    make_room(rate > 0 ? rate * secs * 1.5 : 8e6);
    open_held(conns);
    set_window(warm, secs);
    u64 next = now_ns(), give_up = t_end + 3 * SECOND;
    for (int i = 0; i < conns; i++) send_message(&held[i], next);
    while (!stopped) {
        u64 now = now_ns(), wait = 20000000ull;
        advance(now);
        int busy = 0;
        if (phase == OVER) for (int i = 0; i < conns; i++) busy += held[i].busy;
        if ((phase == OVER && !busy) || now > give_up) break;
        if (rate > 0 && phase != OVER) {
            for (; now >= next && head != tail; head = (head + 1) % (conns + 1)) {
                if (!held[waiting[head]].alive) continue;
                send_message(&held[waiting[head]], next);
                next += gap(rate);
            }
            if (head != tail) wait = now >= next ? 0 : at_most(wait, next - now);
        }
        int n = ep_wait(events, wait);
        for (int k = 0; k < n; k++) {
            int i = (int)events[k].data.u64;
            if (!held[i].alive || !take_answer(&held[i]) || phase == OVER) continue;
            if (rate > 0) { waiting[tail] = i; tail = (tail + 1) % (conns + 1); }
            else send_message(&held[i], now_ns());
        }
    }
    for (int i = 0; i < conns; i++) if (held[i].busy) note_error(held[i].scheduled, ETIMEDOUT);
}

static u64 run_bulk(int conns, double warm, double secs) {
    struct epoll_event events[MAX_EVENTS];
    u64 endless = UINT64_MAX >> 2, bytes = 0;
    request[0] = 'B';
    memcpy(request + 8, &endless, 8);
    make_room(0);
    open_held(conns);
    for (int i = 0; i < conns; i++) send_message(&held[i], now_ns());
    set_window(warm, secs);
    while (phase != OVER && !stopped && errors < (u64)conns) {
        advance(now_ns());
        int n = ep_wait(events, 10000000ull);
        for (int k = 0; k < n; k++) {
            struct held *h = &held[events[k].data.u64];
            ssize_t got = recv(h->fd, NULL, BULK_CHUNK, MSG_TRUNC);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) drop(h, got < 0 ? errno : 0);
            else if (phase == MEASURING) bytes += (u64)got;
        }
    }
    return bytes;
}

// Takes the answers that are there.  How many were complete.
static int collect(u64 wait) {
    struct epoll_event events[MAX_EVENTS];
    int n = ep_wait(events, wait), complete = 0;
    for (int k = 0; k < n; k++) {
        struct held *h = &held[events[k].data.u64];
        if (h->alive) complete += take_answer(h);
    }
    return complete;
}

static void run_idle(int conns) {
    int one = 1, up = 0, opened = 0;
    u64 give_up = now_ns() + 60 * SECOND;
    held = calloc((size_t)conns, sizeof *held);
    request[0] = 'P';
    make_room(0);
    while (up + (int)errors < conns && now_ns() < give_up && !stopped) {
        while (opened < conns && opened < up + (int)errors + 128) {
            struct held *h = &held[opened++];
            h->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            h->alive = 1;
            if (h->fd < 0 || connect(h->fd, (void *)&target, sizeof target)) { drop(h, errno); continue; }
            setsockopt(h->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            ep_ctl(EPOLL_CTL_ADD, h->fd, EPOLLIN, (u64)(opened - 1));
            send_message(h, now_ns());
        }
        up += collect(20000000ull);
    }
    printf("READY %d\n", up);
    fflush(stdout);
    char line[16];
    if (!fgets(line, sizeof line, stdin)) line[0] = 0;
    u64 before = errors;
    for (u64 last = errors + 1; last != errors;) { last = errors; collect(0); }  // what was closed meanwhile
    printf("{\"established\":%d,\"failed\":%lu,\"lost\":%lu}\n", up, before, errors - before);
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "";
    int conns = atoi(option(argc, argv, "conns", "64"));
    double rate = atof(option(argc, argv, "rate", "0")), secs = atof(option(argc, argv, "secs", "2"));
    double warm = atof(option(argc, argv, "warm", "0.3"));
    u64 timeout = (u64)(atof(option(argc, argv, "timeout-ms", "5000")) * 1e6), bytes = 0;
    begin();
    target = parse_address(option(argc, argv, "target", ""));
    if (!strcmp(mode, "idle")) { run_idle(conns); return 0; }
    if (!strcmp(mode, "short")) run_short(conns, rate, warm, secs, timeout);
    else if (!strcmp(mode, "message")) run_message(conns, rate, warm, secs);
    else if (!strcmp(mode, "bulk")) bytes = run_bulk(conns, warm, secs);
    else { fprintf(stderr, "client: unknown mode \"%s\"; there are short, message, bulk and idle\n", mode); return 2; }
    print_results(bytes);
    return 0;
}
