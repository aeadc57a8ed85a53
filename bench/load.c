/*
 * How much mail can a client on this machine press into a server on 127.0.0.1?
 *
 *     cc -O2 -o load load.c
 *     load --port N [--connections N] [--messages N] [--size OCTETS] [--recipients N]
 *          [--pipeline] [--fresh] [--seconds S | --count N]
 *     load --port N --idle [--connections N]
 *
 * A session is a row of steps, each some octets to send and the one reply code that must come
 * back: greeting and EHLO, then the steps of each message, then QUIT. With --pipeline the first
 * step of a message sends MAIL, all RCPT and DATA, and those behind it send nothing and only
 * wait for their replies. Everything is built before the run; a message costs the client little
 * but its system calls. The result is one JSON object on standard output.
 *
 * Another reply than the expected one ends its connection, and is an error; a new connection
 * takes its place, until there are too many errors. With --idle every connection is held after
 * EHLO until standard input is closed; a line is printed as soon as all are there.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    TOO_MANY_ERRORS = 100,
    GREETINGS_AT_ONCE = 64, /* fewer than any server's backlog */
    SILENCE = 30,           /* seconds without any reply after which the run is given up */
    DIGITS = 12             /* of the number in a fresh address */
};

static struct {
    int port, connections, pipeline, fresh, idle;
    long messages, size, recipients, count;
    double seconds;
} options = {.connections = 20, .messages = 100, .size = 1024, .recipients = 1, .seconds = 1};

static struct {
    long opened, started, accepted, errors;
    char first_error[200];
    double begin, end; /* the end is the last final reply */
    float *latencies;  /* milliseconds, of each accepted message */
    size_t room;
} run;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void *grow(void *old, size_t size)
{
    void *new = realloc(old, size);
    if (!new)
        fail("memory");
    return new;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double) time.tv_sec + (double) time.tv_nsec * 1e-9;
}

/* Text that grows. */

struct text {
    char *octets;
    size_t length, room;
};

static void append(struct text *text, const char *octets, size_t length)
{
    if (text->length + length > text->room)
        text->octets = grow(text->octets, text->room = 2 * (text->length + length) + 256);
    memcpy(text->octets + text->length, octets, length);
    text->length += length;
}

__attribute__((format(printf, 2, 3))) static void append_format(struct text *text, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    append(text, line, (size_t) length);
}

/* What is sent, and what must come back. */

struct step {
    const char *what;
    size_t offset, length; /* in the commands of the connection, or the whole content */
    int expected;
};

static struct text commands; /* of one message; each connection has a copy, for its own numbers */
static struct text content;  /* with the final dot */
static struct step *plan;    /* the steps of a message; the last one sends the content */
static size_t steps;
static size_t *numbers; /* where in the commands a fresh number goes */

static void append_address(const char *command, const char *user, const char *domain)
{
    append_format(&commands, "%s:<%s", command, user);
    if (options.fresh) {
        numbers = grow(numbers, ((size_t) options.recipients + 1) * sizeof *numbers);
        static size_t count;
        append_format(&commands, "-");
        numbers[count++] = commands.length;
        append_format(&commands, "%0*d", DIGITS, 0);
    }
    append_format(&commands, "@%s>\r\n", domain);
}

static void add_step(const char *what, size_t offset, int expected)
{
    plan[steps++] = (struct step) {what, offset, commands.length - offset, expected};
}

static void build_content(void)
{
    static const char head[] = "From: Sender <sender@client.example>\r\n"
                               "To: User <user0@dest.example>\r\n"
                               "Subject: a benchmark\r\n"
                               "Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
                               "Message-ID: <benchmark@client.example>\r\n\r\n";
    static const char words[] = "We measure what a message costs, and this is one line of its text. ";
    size_t size = (size_t) options.size;

    append(&content, head, sizeof head - 1);
    for (long line = 0; content.length + 2 <= size; line++) {
        size_t length = sizeof words - 1 - (size_t) (line % 11);
        if (length > size - content.length - 2)
            length = size - content.length - 2;
        size_t start = content.length;
        append(&content, words, length);
        append(&content, "\r\n", 2);
        if (line % 50 == 49 && length > 2) /* a stuffed dot now and then, as in real mail */
            memcpy(content.octets + start, "..", 2);
    }
    append(&content, ".\r\n", 3);
}

static void build_plan(void)
{
    plan = grow(NULL, ((size_t) options.recipients + 3) * sizeof *plan);
    append_address("MAIL FROM", "sender", "client.example");
    add_step("MAIL", 0, 250);
    for (long each = 0; each < options.recipients; each++) {
        char user[32];
        size_t offset = commands.length;
        snprintf(user, sizeof user, "user%ld", each);
        append_address("RCPT TO", user, "dest.example");
        add_step("RCPT", offset, 250);
    }
    size_t offset = commands.length;
    append_format(&commands, "DATA\r\n");
    add_step("DATA", offset, 354);
    if (options.pipeline) {
        for (size_t each = 1; each < steps; each++)
            plan[each].length = 0;
        plan[0].length = commands.length;
    }
    plan[steps++] = (struct step) {"the message", 0, content.length, 250};
}

/* Connections. */

enum phase { CLOSED, GREETING, EHLO, MESSAGE, QUIT, HELD };

struct connection {
    int socket;
    enum phase phase;
    size_t step; /* of the message */
    long left;   /* messages still to send */
    double begin;
    char *commands;
    const char *output; /* what is still to be sent */
    size_t output_length;
    int wants_write;
    char line[160]; /* the begin of the reply line that is coming */
    size_t line_length;
};

static struct connection *connections;
static int epoll;
static int open_now, greeting_now, held_now;

static void set_phase(struct connection *each, enum phase phase)
{
    greeting_now += (phase == GREETING) - (each->phase == GREETING);
    held_now += (phase == HELD) - (each->phase == HELD);
    open_now += (phase != CLOSED) - (each->phase != CLOSED);
    each->phase = phase;
}

static void close_connection(struct connection *each)
{
    close(each->socket);
    set_phase(each, CLOSED);
}

__attribute__((format(printf, 2, 3))) static void error(struct connection *each, const char *format, ...)
{
    if (!run.errors++) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(run.first_error, sizeof run.first_error, format, arguments);
        va_end(arguments);
    }
    close_connection(each);
}

static int more_to_start(void)
{
    if (options.idle || run.errors >= TOO_MANY_ERRORS)
        return 0;
    return options.count ? run.started < options.count : now() < run.begin + options.seconds;
}

static void watch(struct connection *each, int operation, int writes)
{
    struct epoll_event event = {.events = EPOLLIN | (writes ? EPOLLOUT : 0), .data.ptr = each};
    each->wants_write = writes;
    if (epoll_ctl(epoll, operation, each->socket, &event) < 0)
        fail("epoll_ctl");
}

static void open_connection(struct connection *each)
{
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t) options.port)};
    int yes = 1;

    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    each->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (each->socket < 0)
        fail("socket");
    setsockopt(each->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    each->left = options.messages;
    each->output_length = each->line_length = 0;
    set_phase(each, GREETING);
    run.opened++;
    if (connect(each->socket, (struct sockaddr *) &server, sizeof server) < 0 && errno != EINPROGRESS)
        error(each, "connect: %s", strerror(errno));
    else
        watch(each, EPOLL_CTL_ADD, 0);
}

static void write_output(struct connection *each)
{
    while (each->output_length) {
        ssize_t sent = send(each->socket, each->output, each->output_length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            error(each, "send: %s", strerror(errno));
            return;
        }
        if (sent < 0)
            break;
        each->output += sent;
        each->output_length -= (size_t) sent;
    }
    if (each->wants_write != (each->output_length > 0))
        watch(each, EPOLL_CTL_MOD, each->output_length > 0);
}

static void say(struct connection *each, const char *octets, size_t length)
{
    if (length == 0)
        return;
    if (each->output_length) {
        error(each, "a reply to what was not sent yet");
        return;
    }
    each->output = octets;
    each->output_length = length;
    write_output(each);
}

static void begin_step(struct connection *each)
{
    const struct step *step = &plan[each->step];
    const char *octets = each->step == steps - 1 ? content.octets : each->commands + step->offset;
    say(each, octets, step->length);
}

/* The addresses of a message that no earlier one had, in this run or another. */
static void renumber(struct connection *each)
{
    static unsigned long long number;
    char digits[DIGITS + 1];

    if (!number) {
        struct timespec time;
        clock_gettime(CLOCK_REALTIME, &time);
        number = (unsigned long long) time.tv_sec % 1000000 * 1000000 + (unsigned long long) time.tv_nsec / 1000;
    }
    snprintf(digits, sizeof digits, "%0*llu", DIGITS, number++ % 1000000000000);
    for (long index = 0; index <= options.recipients; index++)
        memcpy(each->commands + numbers[index], digits, DIGITS);
}

static void next_message(struct connection *each)
{
    if (options.idle) {
        set_phase(each, HELD);
        return;
    }
    if (each->left == 0 || !more_to_start()) {
        set_phase(each, QUIT);
        say(each, "QUIT\r\n", 6);
        return;
    }
    if (options.fresh)
        renumber(each);
    each->left--;
    run.started++;
    each->step = 0;
    each->begin = now();
    set_phase(each, MESSAGE);
    begin_step(each);
}

static void accepted(struct connection *each)
{
    size_t index = (size_t) run.accepted++;
    if (index == run.room)
        run.latencies = grow(run.latencies, (run.room = 2 * run.room + 1024) * sizeof *run.latencies);
    run.end = now();
    run.latencies[index] = (float) ((run.end - each->begin) * 1e3);
}

static int expect(struct connection *each, const char *what, int expected)
{
    if (atoi(each->line) == expected)
        return 1;
    error(each, "%s: expected %d, got: %s", what, expected, each->line);
    return 0;
}

static void take_reply(struct connection *each)
{
    switch (each->phase) {
    case GREETING:
        if (expect(each, "greeting", 220)) {
            set_phase(each, EHLO);
            say(each, "EHLO client.example\r\n", 21);
        }
        break;
    case EHLO:
        if (expect(each, "EHLO", 250))
            next_message(each);
        break;
    case MESSAGE:
        if (!expect(each, plan[each->step].what, plan[each->step].expected))
            break;
        if (++each->step < steps) {
            begin_step(each);
        } else {
            accepted(each);
            next_message(each);
        }
        break;
    case QUIT:
        if (expect(each, "QUIT", 221))
            close_connection(each);
        break;
    default:
        error(each, "a reply that nobody has asked for: %s", each->line);
    }
}

static void read_replies(struct connection *each)
{
    static char input[65536];
    ssize_t length = recv(each->socket, input, sizeof input, 0);

    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (length <= 0) {
        error(each, "the server has closed the connection: %s", length < 0 ? strerror(errno) : "end of file");
        return;
    }
    for (const char *octet = input; octet < input + length && each->phase != CLOSED; octet++) {
        if (*octet != '\n') {
            if (each->line_length < sizeof each->line - 1 && *octet != '\r')
                each->line[each->line_length++] = *octet;
            continue;
        }
        int last = each->line_length < 4 || each->line[3] != '-';
        each->line[each->line_length] = 0;
        each->line_length = 0;
        if (last)
            take_reply(each);
    }
}

/* The run. */

static void fill_up(void)
{
    for (int index = 0; index < options.connections && greeting_now < GREETINGS_AT_ONCE; index++) {
        struct connection *each = &connections[index];
        int first_time = options.idle && run.opened < options.connections && run.errors == 0;
        if (each->phase == CLOSED && (first_time || more_to_start()))
            open_connection(each);
    }
}

static void serve_events(void)
{
    struct epoll_event events[256];
    int ready = epoll_wait(epoll, events, 256, SILENCE * 1000);

    if (ready < 0 && errno != EINTR)
        fail("epoll_wait");
    for (int index = 0; index < ready; index++) {
        struct connection *each = events[index].data.ptr;
        if (each->phase != CLOSED && events[index].events & EPOLLOUT)
            write_output(each);
        if (each->phase != CLOSED && events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            read_replies(each);
    }
    for (int index = 0; ready == 0 && index < options.connections; index++)
        if (connections[index].phase != CLOSED)
            error(&connections[index], "no reply for %d seconds", SILENCE);
}

static void wait_for_end_of_input(void)
{
    char ignored[64];
    ssize_t length;
    printf("{\"held\": %d}\n", held_now);
    fflush(stdout);
    do
        length = read(0, ignored, sizeof ignored);
    while (length > 0 || (length < 0 && errno == EINTR));
}

static int ascending(const void *left, const void *right)
{
    float a = *(const float *) left, b = *(const float *) right;
    return (a > b) - (a < b);
}

static double percentile(double share)
{
    return run.accepted ? run.latencies[(size_t) (share * (double) (run.accepted - 1))] : 0;
}

static void report(void)
{
    if (run.accepted)
        qsort(run.latencies, (size_t) run.accepted, sizeof *run.latencies, ascending);
    for (char *octet = run.first_error; *octet; octet++)
        if (*octet < ' ' || *octet > '~' || *octet == '"' || *octet == '\\')
            *octet = '?';
    printf("{\"messages\": %ld, \"connections\": %ld, \"errors\": %ld, \"first_error\": \"%s\", "
           "\"seconds\": %.4f, \"p50_ms\": %.3f, \"p99_ms\": %.3f}\n",
           run.accepted, run.opened, run.errors, run.first_error, run.accepted ? run.end - run.begin : 0,
           percentile(0.5), percentile(0.99));
}

static long number(const char *text)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || end == text || value < 1) {
        fprintf(stderr, "load: %s is no positive number\n", text);
        exit(2);
    }
    return value;
}

static void read_options(int argc, char **argv)
{
    static const struct option known[] = {
        {"port", required_argument, NULL, 'p'},       {"connections", required_argument, NULL, 'c'},
        {"messages", required_argument, NULL, 'm'},   {"size", required_argument, NULL, 's'},
        {"recipients", required_argument, NULL, 'r'}, {"count", required_argument, NULL, 'n'},
        {"seconds", required_argument, NULL, 't'},    {"pipeline", no_argument, &options.pipeline, 1},
        {"fresh", no_argument, &options.fresh, 1},    {"idle", no_argument, &options.idle, 1},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (option) {
        case 0: break;
        case 'p': options.port = (int) number(optarg); break;
        case 'c': options.connections = (int) number(optarg); break;
        case 'm': options.messages = number(optarg); break;
        case 's': options.size = number(optarg); break;
        case 'r': options.recipients = number(optarg); break;
        case 'n': options.count = number(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        default: exit(2);
        }
    }
    if (!options.port || optind < argc) {
        fprintf(stderr, "load: --port is needed; see the head of load.c for the others\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct rlimit files;

    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    build_content();
    build_plan();
    connections = calloc((size_t) options.connections, sizeof *connections);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!connections || epoll < 0)
        fail("setup");
    for (int index = 0; index < options.connections; index++) {
        connections[index].commands = grow(NULL, commands.length);
        memcpy(connections[index].commands, commands.octets, commands.length);
    }
    run.begin = now();
    for (fill_up(); open_now > held_now; fill_up())
        serve_events();
    if (options.idle)
        wait_for_end_of_input();
    report();
    return 0;
}
