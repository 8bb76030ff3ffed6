/* One acquire and release through a destination handle, in nanoseconds: the C side of
 * benches/benches/c_face.rs.
 */

#define _POSIX_C_SOURCE 199309L
#include <portlease.h>
#include <time.h>

double portlease_bench_c(const portlease_destination *destination, long rounds);

double portlease_bench_c(const portlease_destination *destination, long rounds) {
    struct timespec from, to;
    portlease_lease lease;
    long i;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (i = 0; i < rounds; i++) {
        if (portlease_destination_acquire(destination, &lease, NULL) != PORTLEASE_OK ||
            portlease_destination_release(destination, &lease, PORTLEASE_CLOSED_UNUSED, NULL) !=
                PORTLEASE_OK) {
            return -1;
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    return ((to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / (double)rounds;
}
