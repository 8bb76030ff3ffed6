/* Connections and sockets through the C face: made, bound, judged, adopted, closed. */

#include "check.h"
#include <fcntl.h>

static void a_connection_lives_and_ends(void) {
    struct sockaddr_in to, name;
    int accepting = listener(&to), i;
    portlease_pool *pool = pool_of("127.0.0.2:5000-5007", 0);
    portlease_destination *destination = NULL;
    const int flags[] = {0, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_NONBLOCK | SOCK_CLOEXEC};
    portlease_error error;

    OK(portlease_pool_destination(pool, TCP, AT(to), &destination, NULL));
    for (i = 0; i < 8; i++) {
        portlease_lease lease;
        portlease_progress progress;
        struct sockaddr_storage source;
        socklen_t len = sizeof name;
        int fd = -1, peer, flag = flags[i % 4];
        if (i < 4) {
            OK(portlease_pool_connect(pool, SOCK_STREAM | flag, AT(to), &fd, &lease, &progress,
                                      &error));
        } else {
            OK(portlease_destination_connect(destination, SOCK_STREAM | flag, &fd, &lease,
                                             &progress, &error));
        }
        CHECK(progress == PORTLEASE_PROGRESS_CONNECTED ||
              (progress == PORTLEASE_PROGRESS_IN_PROGRESS && (flag & SOCK_NONBLOCK)));
        CHECK(!!(fcntl(fd, F_GETFD) & FD_CLOEXEC) == !!(flag & SOCK_CLOEXEC));
        CHECK(!!(fcntl(fd, F_GETFL) & O_NONBLOCK) == !!(flag & SOCK_NONBLOCK));
        peer = accept(accepting, (struct sockaddr *)&name, &len);
        CHECK(peer >= 0);
        OK(portlease_lease_source(pool, &lease, &source, NULL, NULL));
        CHECK(name.sin_port == ((struct sockaddr_in *)&source)->sin_port);
        CHECK(census_of(pool, to).leased == 1);
        OK(portlease_pool_close(pool, fd, &lease, &error));
        CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
        STATUS(PORTLEASE_STALE_LEASE, portlease_pool_close(pool, fd, &lease, &error));
        CHECK(census_of(pool, to).leased == 0);
        close(peer);
    }
    close(accepting);
    {
        portlease_lease lease;
        int fd = 77;
        memset(&lease, 0x55, sizeof lease);
        STATUS(PORTLEASE_OS, portlease_pool_connect(pool, SOCK_STREAM, AT(to), &fd, &lease, NULL,
                                                    &error));
        CHECK(error.os_error == ECONNREFUSED && fd == 77);
        CHECK(is_filled(&lease, sizeof lease, 0x55));
        CHECK(census_of(pool, to).leased == 0);
    }
    portlease_destination_free(destination);
    portlease_pool_free(pool);
}

static void udp_has_leases_too(void) {
    portlease_pool *pool = pool_of("127.0.0.2:5000", 0);
    struct sockaddr_in to = v4("127.0.0.1", 9);
    portlease_lease lease, second;
    portlease_progress progress = PORTLEASE_PROGRESS_IN_PROGRESS;
    portlease_error error;
    int fd, other = -1;
    OK(portlease_pool_connect(pool, SOCK_DGRAM | SOCK_NONBLOCK, AT(to), &fd, &lease, &progress,
                              &error));
    CHECK(progress == PORTLEASE_PROGRESS_CONNECTED && (fcntl(fd, F_GETFL) & O_NONBLOCK));
    STATUS(PORTLEASE_EXHAUSTED,
           portlease_pool_connect(pool, SOCK_DGRAM, AT(to), &other, &second, NULL, &error));
    OK(portlease_pool_close(pool, fd, &lease, &error));
    OK(portlease_pool_connect(pool, SOCK_DGRAM, AT(to), &fd, &lease, NULL, &error));
    OK(portlease_pool_close(pool, fd, &lease, &error));
    portlease_pool_free(pool);
}

/* The peer closes first: nothing of the connection stays in the kernel when we have, too. */
static void peer_closes(int accepting, int fd) {
    char byte;
    int peer = accept(accepting, NULL, NULL);
    CHECK(peer >= 0);
    close(peer);
    CHECK(read(fd, &byte, 1) == 0);
}

static void a_socket_of_ones_own_is_bound_and_judged(void) {
    struct sockaddr_in to, name, other = v4("127.0.0.3", 0);
    int accepting = listener(&to), fd, holder, i, one = 1;
    portlease_pool *pool = pool_of("127.0.0.2:6000-6001, 127.0.0.3:6000", 0);
    struct sockaddr_storage source;
    struct sockaddr_in *v4_source = (struct sockaddr_in *)&source;
    socklen_t len;
    portlease_lease lease;
    portlease_verdict verdict;
    portlease_error error;

    /* A new socket. */
    OK(portlease_pool_acquire_from(pool, AT(other), TCP, AT(to), &lease, &error));
    OK(portlease_lease_source(pool, &lease, &source, &len, NULL));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    OK(portlease_lease_bind(pool, &lease, fd, &error));
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    len = sizeof name;
    CHECK(getsockname(fd, (struct sockaddr *)&name, &len) == 0);
    CHECK(memcmp(&name, &source, sizeof name) == 0);
    peer_closes(accepting, fd);
    close(fd);
    OK(portlease_pool_release(pool, &lease, PORTLEASE_CLOSED_PEER, &error));

    /* One that the caller has bound, without and with its port, keeps its address. */
    for (i = 0; i < 2; i++) {
        OK(portlease_pool_acquire_from(pool, AT(other), TCP, AT(to), &lease, &error));
        OK(portlease_lease_source(pool, &lease, &source, &len, NULL));
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        name = *v4_source;
        if (i == 0) {
            name.sin_port = 0;
            CHECK(setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) == 0);
        } else {
            CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
        }
        CHECK(bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
        OK(portlease_lease_bind(pool, &lease, fd, &error));
        CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
        len = sizeof name;
        CHECK(getsockname(fd, (struct sockaddr *)&name, &len) == 0);
        CHECK(memcmp(&name, &source, sizeof name) == 0);
        peer_closes(accepting, fd);
        OK(portlease_pool_close(pool, fd, &lease, &error));
    }

    /* One that is bound to something else is left as it is. */
    OK(portlease_pool_acquire_from(pool, AT(other), TCP, AT(to), &lease, &error));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    name = v4("127.0.0.4", 0);
    CHECK(bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
    STATUS(PORTLEASE_BOUND_ELSEWHERE, portlease_lease_bind(pool, &lease, fd, &error));
    CHECK(strstr(error.message, "127.0.0.4") != NULL);
    close(fd);
    OK(portlease_pool_release(pool, &lease, PORTLEASE_CLOSED_UNUSED, &error));

    /* One whose port somebody else holds is told, and the next lease is for another port. */
    other = v4("127.0.0.2", 0);
    OK(portlease_pool_acquire_from(pool, AT(other), TCP, AT(to), &lease, &error));
    OK(portlease_lease_source(pool, &lease, &source, &len, NULL));
    holder = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(holder, (struct sockaddr *)&source, len) == 0);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    STATUS(PORTLEASE_OS, portlease_lease_bind(pool, &lease, fd, &error));
    CHECK(error.os_error == EADDRINUSE);
    close(fd);
    name = *v4_source;
    OK(portlease_pool_report(pool, &lease, PORTLEASE_CALL_BIND, error.os_error, &verdict, &error));
    CHECK(verdict == PORTLEASE_VERDICT_REST_PORT);
    OK(portlease_lease_source(pool, &lease, &source, &len, NULL));
    CHECK(memcmp(&name, &source, sizeof name) != 0);
    CHECK(census_of(pool, to).leased == 1 && census_of(pool, to).excluded == 1);
    OK(portlease_pool_report(pool, &lease, PORTLEASE_CALL_CONNECT, ECONNREFUSED, &verdict,
                             &error));
    CHECK(verdict == PORTLEASE_VERDICT_GIVE_UP && census_of(pool, to).leased == 0);
    close(holder);

    /* NOT_OURS, and adoption. */
    other = v4("127.0.0.9", 0);
    STATUS(PORTLEASE_NOT_OURS,
           portlease_pool_acquire_from(pool, AT(other), TCP, AT(to), &lease, &error));
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    name = v4("127.0.0.3", 6000);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
    STATUS(PORTLEASE_OS, portlease_pool_adopt(pool, fd, &lease, &error));
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    OK(portlease_pool_adopt(pool, fd, &lease, &error));
    CHECK(census_of(pool, to).leased == 1);
    STATUS(PORTLEASE_TAKEN, portlease_pool_adopt(pool, fd, &lease, &error));
    OK(portlease_pool_close(pool, fd, &lease, &error));
    CHECK(census_of(pool, to).leased == 0);
    close(accepting);
    portlease_pool_free(pool);
}

/* Who leaves the closing to somebody else asks beforehand. */
static void whose_end_is_closed_first_can_be_asked(void) {
    struct sockaddr_in to;
    int accepting = listener(&to), fd = -1, peer;
    portlease_pool *pool = pool_of("127.0.0.2:5000-5001", 0);
    portlease_closed closed = PORTLEASE_CLOSED_UNKNOWN;
    portlease_lease lease;
    portlease_error error;
    char nothing;

    OK(portlease_pool_connect(pool, SOCK_STREAM, AT(to), &fd, &lease, NULL, &error));
    peer = accept(accepting, NULL, NULL);
    STATUS(PORTLEASE_OS, portlease_lease_probe(pool, &lease, &error));
    CHECK(error.os_error == EADDRNOTAVAIL);
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_lease_closing(pool, &lease, fd, NULL, &error));
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_lease_closing(pool, &lease, -1, &closed, &error));
    CHECK(closed == PORTLEASE_CLOSED_UNKNOWN);
    OK(portlease_lease_closing(pool, &lease, fd, &closed, &error));
    CHECK(closed == PORTLEASE_CLOSED_US || closed == PORTLEASE_CLOSED_US_WITHOUT_TIMESTAMPS);
    close(peer);
    CHECK(read(fd, &nothing, 1) == 0);
    OK(portlease_lease_closing(pool, &lease, fd, &closed, &error));
    CHECK(closed == PORTLEASE_CLOSED_PEER && fcntl(fd, F_GETFD) != -1);
    CHECK(census_of(pool, to).leased == 1);
    close(fd);
    OK(portlease_pool_release(pool, &lease, closed, &error));
    STATUS(PORTLEASE_STALE_LEASE, portlease_lease_closing(pool, &lease, fd, &closed, &error));
    CHECK(census_of(pool, to).free == 2);
    OK(portlease_pool_acquire(pool, TCP, AT(to), &lease, NULL));
    OK(portlease_lease_probe(pool, &lease, &error));
    OK(portlease_pool_release(pool, &lease, PORTLEASE_CLOSED_UNUSED, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_lease_probe(pool, &lease, &error));
    close(accepting);
    portlease_pool_free(pool);
}

int main(void) {
    a_connection_lives_and_ends();
    whose_end_is_closed_first_can_be_asked();
    udp_has_leases_too();
    a_socket_of_ones_own_is_bound_and_judged();
    puts("sockets: all as they should be");
    return 0;
}
