/* Threads on one pool: no four-tuple is leased to two of them, whoever releases it. */

#include "check.h"
#include <pthread.h>

enum { THREADS = 4, ROUNDS = 20000, PORTS = 64, FIRST = 5000 };

static portlease_pool *pool;
static portlease_destination *destination;
static struct sockaddr_in to;
/* Who holds each port: written without any lock, so a lease given twice is a race. */
static int holder[PORTS];

static void *work(void *number) {
    int me = (int)(intptr_t)number, round;
    for (round = 0; round < ROUNDS; round++) {
        struct sockaddr_storage source;
        portlease_lease lease;
        int port, by_handle = (round + me) % 2;
        int status = by_handle
            ? portlease_destination_acquire(destination, &lease, NULL)
            : portlease_pool_acquire(pool, TCP, AT(to), &lease, NULL);
        OK(status);
        OK(portlease_lease_source(pool, &lease, &source, NULL, NULL));
        port = ntohs(((struct sockaddr_in *)&source)->sin_port) - FIRST;
        CHECK(port >= 0 && port < PORTS);
        CHECK(__atomic_exchange_n(&holder[port], me, __ATOMIC_RELAXED) == 0);
        CHECK(__atomic_exchange_n(&holder[port], 0, __ATOMIC_RELAXED) == me);
        status = round % 3
            ? portlease_destination_release(destination, &lease, PORTLEASE_CLOSED_UNUSED, NULL)
            : portlease_pool_release(pool, &lease, PORTLEASE_CLOSED_UNUSED, NULL);
        OK(status);
        STATUS(PORTLEASE_STALE_LEASE,
               portlease_destination_release(destination, &lease, PORTLEASE_CLOSED_US, NULL));
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    int i;
    to = v4("127.0.0.1", 80);
    pool = pool_of("127.0.0.2:5000-5063", 0);
    OK(portlease_pool_destination(pool, TCP, AT(to), &destination, NULL));
    for (i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, work, (void *)(intptr_t)(i + 1)) == 0);
    }
    for (i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(census_of(pool, to).free == PORTS);
    portlease_destination_free(destination);
    portlease_pool_free(pool);
    puts("threads: all as they should be");
    return 0;
}
