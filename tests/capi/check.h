/* What the tests of the C face share, in C and in C++. */

#ifndef CHECK_H
#define CHECK_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <portlease.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);       \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

/* The status is as expected; says which it was, and why, otherwise. */
#define STATUS(expected, call)                                                            \
    do {                                                                                  \
        int status_ = (call);                                                             \
        if (status_ != (expected)) {                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                 \
                    portlease_status_str(status_));                                       \
            abort();                                                                      \
        }                                                                                 \
    } while (0)

#define OK(call) STATUS(PORTLEASE_OK, call)

#define TCP PORTLEASE_PROTOCOL_TCP
#define UDP PORTLEASE_PROTOCOL_UDP

/* An address as the calls of C take it. */
#define AT(address) (const struct sockaddr *)&(address), (socklen_t)sizeof(address)

/* Whether every byte is still what it was filled with. */
static inline int is_filled(const void *what, size_t len, unsigned char with) {
    const unsigned char *bytes = (const unsigned char *)what;
    size_t i;
    for (i = 0; i < len; i++) {
        if (bytes[i] != with) return 0;
    }
    return 1;
}

static inline struct sockaddr_in v4(const char *ip, unsigned port) {
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    CHECK(inet_pton(AF_INET, ip, &address.sin_addr) == 1);
    return address;
}

/* A listener on a port of 127.0.0.1 that the kernel chooses; its address goes to *at. */
static inline int listener(struct sockaddr_in *at) {
    socklen_t len = sizeof *at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    *at = v4("127.0.0.1", 0);
    CHECK(bind(fd, (const struct sockaddr *)at, len) == 0);
    CHECK(listen(fd, 4096) == 0);
    CHECK(getsockname(fd, (struct sockaddr *)at, &len) == 0);
    return fd;
}

/* A pool of some sources; rest_ms is its own rest. */
static inline portlease_pool *pool_of(const char *sources, unsigned rest_ms) {
    portlease_config *config = NULL;
    portlease_pool *pool = NULL;
    portlease_error error;
    OK(portlease_config_new(&config));
    OK(portlease_config_add_sources(config, sources, NULL));
    OK(portlease_config_set_mode(config, PORTLEASE_MODE_EXPLICIT, NULL));
    OK(portlease_config_set_rest_ms(config, rest_ms, NULL));
    if (portlease_pool_new(config, &pool, &error) != PORTLEASE_OK) {
        fprintf(stderr, "no pool: %s\n", error.message);
        abort();
    }
    portlease_config_free(config);
    return pool;
}

static inline portlease_census census_of(const portlease_pool *pool, struct sockaddr_in to) {
    portlease_census census;
    OK(portlease_pool_census_of(pool, TCP, AT(to), &census, NULL));
    CHECK(census.free + census.leased + census.resting + census.excluded == census.capacity);
    return census;
}

#endif
