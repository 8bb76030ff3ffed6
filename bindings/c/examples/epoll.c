/* Thousands of connections over several destinations, without a thread and without waiting.
 *
 *     epoll SOURCES CONNECTIONS DESTINATION PORT [PORT ...]
 *     epoll 127.0.0.2-127.0.0.5 2000 127.0.0.1 8080 8081 8082
 *
 * Connects in turn to each port of the destination, keeps all connections open until every one
 * has come about or failed, and then closes them. Fails if any of them failed.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <portlease.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { UNDER_WAY_MAX = 256, PORTS_MAX = 64 };

/* One connection: a lease is a plain value, so it lives right here. */
struct connection {
    int fd;
    portlease_lease lease;
};

struct client {
    portlease_pool *pool;
    portlease_destination *destinations[PORTS_MAX];
    int epoll, count, under_way, open, failed;
    struct connection *connections;
};

static void fail(const char *what, const portlease_error *error) {
    fprintf(stderr, "%s: %s (%s)\n", what, error->message, portlease_status_str(error->status));
}

/* Ends a connection, whatever has become of it. */
static void end(struct client *client, struct connection *connection) {
    portlease_error error;
    if (connection->fd < 0) return;
    /* Closing takes it out of the epoll set as well. */
    if (portlease_pool_close(client->pool, connection->fd, &connection->lease, &error)) {
        fail("close", &error);
        client->failed++;
    }
    connection->fd = -1;
}

/* Starts a connection. Returns 0, or -1 if there is no point in going on. */
static int start(struct client *client, const portlease_destination *to,
                 struct connection *connection) {
    portlease_progress progress;
    portlease_error error;
    struct epoll_event event;
    int fd;

    switch (portlease_destination_connect(to, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, &fd,
                                          &connection->lease, &progress, &error)) {
    case PORTLEASE_OK:
        break;
    case PORTLEASE_EXHAUSTED:
        /* Exact, so there is nothing to try again before something is released, or before the
         * next resting four-tuple is free. A proxy would queue the request or shed it. */
        fail("no source port left", &error);
        client->failed++;
        return 0;
    case PORTLEASE_OS:
        if (error.os_error == EMFILE || error.os_error == ENFILE) {
            fail("out of descriptors: raise `ulimit -n`", &error);
            return -1;
        }
        /* The destination's own answer: refused, unreachable. */
        fail("connect", &error);
        client->failed++;
        return 0;
    default:
        /* A mistake of ours: a NULL, a pool of our parent's after fork. */
        fail("connect", &error);
        return -1;
    }

    connection->fd = fd;
    memset(&event, 0, sizeof event);
    event.events = EPOLLOUT;
    event.data.ptr = connection;
    if (epoll_ctl(client->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        perror("epoll_ctl");
        end(client, connection);
        return -1;
    }
    /* One that is there already becomes writable as well: progress needs no second way. */
    (void)progress;
    client->under_way++;
    return 0;
}

/* Takes note of how a connection that was under way has come out. */
static void finish(struct client *client, struct connection *connection) {
    int os_error = 0;
    socklen_t len = sizeof os_error;
    client->under_way--;
    if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &os_error, &len) != 0) os_error = errno;
    if (os_error != 0) {
        fprintf(stderr, "connect: %s\n", strerror(os_error));
        client->failed++;
        end(client, connection);
        return;
    }
    client->open++;
    /* A client of use would register EPOLLIN now. This one only keeps it open. */
    if (epoll_ctl(client->epoll, EPOLL_CTL_DEL, connection->fd, NULL) != 0) {
        perror("epoll_ctl");
        client->failed++;
    }
}

/* Waits for some of those under way. Returns 0, or -1 if that fails. */
static int wait_for_some(struct client *client) {
    struct epoll_event events[64];
    int count = epoll_wait(client->epoll, events, 64, 10000), i;
    if (count < 0) return errno == EINTR ? 0 : (perror("epoll_wait"), -1);
    if (count == 0) {
        fprintf(stderr, "%d connections got no answer for 10 s\n", client->under_way);
        return -1;
    }
    for (i = 0; i < count; i++) finish(client, events[i].data.ptr);
    return 0;
}

static int run(struct client *client, int ports) {
    int i;
    for (i = 0; i < client->count; i++) {
        while (client->under_way >= UNDER_WAY_MAX) {
            if (wait_for_some(client) != 0) return -1;
        }
        if (start(client, client->destinations[i % ports], &client->connections[i]) != 0) {
            return -1;
        }
    }
    while (client->under_way > 0) {
        if (wait_for_some(client) != 0) return -1;
    }
    return 0;
}

static portlease_pool *make_pool(const char *sources) {
    portlease_config *config;
    portlease_pool *pool = NULL;
    portlease_error error;
    if (portlease_config_new(&config) != PORTLEASE_OK) return NULL;
    if (portlease_config_add_sources(config, sources, &error) != PORTLEASE_OK ||
        portlease_pool_new(config, &pool, &error) != PORTLEASE_OK) {
        fail("no pool", &error);
    }
    portlease_config_free(config);
    return pool;
}

int main(int argc, char **argv) {
    struct client client;
    portlease_census sum;
    portlease_error error;
    struct sockaddr_in to;
    int i, ports = argc - 4, well = 0;

    memset(&client, 0, sizeof client);
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    if (ports < 1 || ports > PORTS_MAX || (client.count = atoi(argv[2])) < 1 ||
        inet_pton(AF_INET, argv[3], &to.sin_addr) != 1) {
        fprintf(stderr, "usage: %s SOURCES CONNECTIONS DESTINATION PORT [PORT ...]\n", argv[0]);
        return 2;
    }
    client.connections = malloc((size_t)client.count * sizeof *client.connections);
    client.epoll = epoll_create1(EPOLL_CLOEXEC);
    client.pool = make_pool(argv[1]);
    if (client.connections == NULL || client.epoll < 0 || client.pool == NULL) return 1;
    for (i = 0; i < client.count; i++) client.connections[i].fd = -1;
    for (i = 0; i < ports; i++) {
        to.sin_port = htons((uint16_t)atoi(argv[4 + i]));
        if (portlease_pool_destination(client.pool, PORTLEASE_PROTOCOL_TCP,
                                       (struct sockaddr *)&to, sizeof to,
                                       &client.destinations[i], &error) != PORTLEASE_OK) {
            fail(argv[4 + i], &error);
            return 1;
        }
    }

    well = run(&client, ports) == 0;
    if (portlease_pool_census(client.pool, NULL, &sum, &error) == PORTLEASE_OK) {
        printf("%d connected, %d failed, %llu leased\n", client.open, client.failed,
               (unsigned long long)sum.leased);
    }
    for (i = 0; i < client.count; i++) end(&client, &client.connections[i]);
    for (i = 0; i < ports; i++) portlease_destination_free(client.destinations[i]);
    portlease_pool_free(client.pool);
    close(client.epoll);
    free(client.connections);
    return well && client.failed == 0 ? 0 : 1;
}
