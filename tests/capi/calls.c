/* Every call of the C face without a connection: what it gives, what it refuses, and that a refusal
 * changes nothing. */

#include "check.h"
#include <fcntl.h>
#include <sys/wait.h>

static void a_configuration_says_what_is_wrong(void) {
    portlease_config *config = NULL;
    portlease_pool *pool = NULL;
    portlease_error error;
    struct sockaddr_in source = v4("127.0.0.2", 0);
    unsigned char seed[32] = {7};

    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_config_new(NULL));
    OK(portlease_config_new(&config));
    STATUS(PORTLEASE_BAD_CONFIG, portlease_pool_new(config, &pool, &error));
    CHECK(pool == NULL);
    CHECK(strstr(error.message, "no source") != NULL);

    STATUS(PORTLEASE_BAD_SOURCES,
           portlease_config_add_sources(config, "127.0.0.2, nonsense", &error));
    CHECK(error.status == PORTLEASE_BAD_SOURCES && error.offset == 11);
    CHECK(strstr(error.message, "nonsense") != NULL);
    STATUS(PORTLEASE_BAD_CONFIG, portlease_config_add_sources(config, "\xff", &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_config_add_sources(config, NULL, &error));
    CHECK(strstr(error.message, "sources") != NULL);
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_config_add_sources(NULL, "127.0.0.2", NULL));

    STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_ports(config, 0, 10, &error));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_ports(config, 11, 10, &error));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_mode(config, 3, &error));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_mode(config, -1, NULL));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_privileged_ports(config, 2, &error));
    STATUS(PORTLEASE_BAD_NUMBER,
           portlease_config_set_source_flags(config, NULL, 0, 4, &error));
    STATUS(PORTLEASE_BAD_ADDRESS,
           portlease_config_set_source_mark(config, (const struct sockaddr *)&source, 3, 1, NULL));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_config_set_seed(config, NULL, NULL));

    OK(portlease_config_add_sources(config, "127.0.0.2:500-509", &error));
    OK(portlease_config_set_mode(config, PORTLEASE_MODE_EXPLICIT, NULL));
    STATUS(PORTLEASE_BAD_CONFIG, portlease_pool_new(config, &pool, &error));
    CHECK(strstr(error.message, "500-509") != NULL);
    OK(portlease_config_set_privileged_ports(config, PORTLEASE_PRIVILEGED_LEASE, &error));
    OK(portlease_config_set_seed(config, seed, &error));
    OK(portlease_config_set_source_flags(config, AT(source), PORTLEASE_FREEBIND, &error));
    OK(portlease_config_set_source_device(config, NULL, 0, NULL, &error));
    OK(portlease_config_set_ports(config, 2000, 2001, &error));
    OK(portlease_config_add_sources(config, "127.0.0.3", &error));
    OK(portlease_pool_new(config, &pool, &error));
    portlease_config_free(config);
    CHECK(census_of(pool, v4("127.0.0.1", 80)).capacity == 12);
    portlease_pool_free(pool);
    portlease_config_free(NULL);
    portlease_pool_free(NULL);
    portlease_destination_free(NULL);

    /* 192.0.2.0/24 is for documentation alone (RFC 5737). */
    OK(portlease_config_new(&config));
    OK(portlease_config_add_sources(config, "192.0.2.1", NULL));
    STATUS(PORTLEASE_BAD_CONFIG, portlease_pool_new(config, &pool, &error));
    CHECK(strstr(error.message, "192.0.2.1") != NULL);
    OK(portlease_config_set_source_flags(config, NULL, 0, PORTLEASE_FREEBIND, NULL));
    OK(portlease_pool_new(config, &pool, &error));
    portlease_pool_free(pool);
    portlease_config_free(config);
}

static void a_pool_is_exhausted_exactly(void) {
    portlease_pool *pool = pool_of("127.0.0.2:5000-5003", 0);
    struct sockaddr_in to[2];
    portlease_lease leases[4], none;
    portlease_error error;
    portlease_census sum;
    uint64_t destinations;
    int i, d;

    to[0] = v4("127.0.0.1", 80);
    to[1] = v4("127.0.0.1", 81);
    for (d = 0; d < 2; d++) {
        for (i = 0; i < 4; i++) {
            OK(portlease_pool_acquire(pool, TCP, AT(to[d]), &leases[i], &error));
        }
        memset(&none, 0x55, sizeof none);
        STATUS(PORTLEASE_EXHAUSTED, portlease_pool_acquire(pool, TCP, AT(to[d]), &none, &error));
        CHECK(is_filled(&none, sizeof none, 0x55));
        CHECK(error.status == PORTLEASE_EXHAUSTED && error.leased == 4 && error.resting == 0);
        CHECK(error.excluded == 0 && error.next_free_ms == UINT64_MAX && error.os_error == 0);
        CHECK(strstr(error.message, "127.0.0.1:8") != NULL);
        STATUS(PORTLEASE_EXHAUSTED, portlease_pool_acquire(pool, TCP, AT(to[d]), &none, NULL));
        for (i = 0; d == 0 && i < 4; i++) {
            OK(portlease_pool_release(pool, &leases[i], PORTLEASE_CLOSED_UNUSED, &error));
        }
    }
    OK(portlease_pool_census(pool, &destinations, &sum, NULL));
    OK(portlease_pool_census(pool, NULL, NULL, NULL));
    CHECK(sum.leased == 4 && destinations >= 1);
    CHECK(census_of(pool, to[0]).free == 4);
    portlease_pool_free(pool);
}

static void a_stale_lease_harms_nothing(void) {
    portlease_pool *pool = pool_of("127.0.0.2:5000-5003", 60000);
    portlease_pool *other = pool_of("127.0.0.2:5000-5003", 0);
    struct sockaddr_in to = v4("127.0.0.1", 80), elsewhere = v4("127.0.0.1", 81);
    struct sockaddr_storage source;
    portlease_destination *here = NULL, *there = NULL;
    portlease_lease lease, copy, zero, bent;
    portlease_verdict verdict;
    portlease_error error;
    int bit, fd;

    memset(&zero, 0, sizeof zero);
    OK(portlease_pool_destination(pool, TCP, AT(to), &here, NULL));
    OK(portlease_pool_destination(pool, TCP, AT(elsewhere), &there, NULL));
    OK(portlease_pool_acquire(pool, TCP, AT(to), &lease, NULL));
    copy = lease;
    for (bit = 0; bit < 320; bit++) {
        bent = lease;
        bent.opaque[bit / 64] ^= (uint64_t)1 << bit % 64;
        STATUS(PORTLEASE_STALE_LEASE,
               portlease_pool_release(pool, &bent, PORTLEASE_CLOSED_US, &error));
        STATUS(PORTLEASE_STALE_LEASE,
               portlease_destination_release(here, &bent, PORTLEASE_CLOSED_US, &error));
        STATUS(PORTLEASE_STALE_LEASE, portlease_lease_source(pool, &bent, &source, NULL, NULL));
        CHECK(census_of(pool, to).leased == 1);
    }
    STATUS(PORTLEASE_STALE_LEASE, portlease_pool_release(pool, &zero, 0, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_pool_release(other, &lease, 0, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_destination_release(there, &lease, 0, NULL));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_pool_release(pool, &lease, 6, NULL));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_destination_release(here, &lease, -1, NULL));
    CHECK(census_of(pool, to).leased == 1);

    OK(portlease_destination_release(here, &lease, PORTLEASE_CLOSED_US, NULL));
    CHECK(census_of(pool, to).resting == 1);
    STATUS(PORTLEASE_STALE_LEASE, portlease_destination_release(here, &copy, 0, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_pool_release(pool, &copy, 0, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_lease_source(pool, &copy, &source, NULL, NULL));
    STATUS(PORTLEASE_STALE_LEASE,
           portlease_lease_destination(pool, &copy, &source, NULL, NULL, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_pool_report(pool, &copy, PORTLEASE_CALL_CONNECT,
                                                        EADDRNOTAVAIL, &verdict, &error));
    fd = socket(AF_INET, SOCK_STREAM, 0);
    STATUS(PORTLEASE_STALE_LEASE, portlease_lease_bind(pool, &copy, fd, NULL));
    STATUS(PORTLEASE_STALE_LEASE, portlease_pool_close(pool, fd, &copy, NULL));
    CHECK(fcntl(fd, F_GETFD) != -1); /* Not closed: it might be somebody else's by now. */
    close(fd);
    portlease_destination_free(there);
    portlease_pool_free(other);
    portlease_pool_free(pool);
    portlease_destination_free(here);
}

static void hostile_arguments_are_a_status(void) {
    portlease_pool *pool = pool_of("127.0.0.2:5000-5003", 0);
    struct sockaddr_in to = v4("127.0.0.1", 80), nowhere = v4("0.0.0.0", 80);
    struct sockaddr_in6 six;
    struct sockaddr family;
    portlease_destination *destination = NULL;
    portlease_lease lease;
    portlease_census census;
    portlease_verdict verdict;
    portlease_error error;
    struct sockaddr_storage address;
    socklen_t len;
    int32_t protocol;
    int fd = 77;

    memset(&six, 0, sizeof six);
    six.sin6_family = AF_INET6;
    six.sin6_addr = in6addr_loopback;
    six.sin6_port = htons(80);
    memset(&family, 0, sizeof family);
    for (len = 0; len < sizeof to; len++) {
        STATUS(PORTLEASE_BAD_ADDRESS, portlease_pool_acquire(
            pool, TCP, (const struct sockaddr *)&to, len, &lease, &error));
    }
    family.sa_family = AF_UNIX;
    STATUS(PORTLEASE_BAD_ADDRESS, portlease_pool_acquire(pool, TCP, AT(family), &lease, &error));
    CHECK(strstr(error.message, "AF_INET") != NULL);
    STATUS(PORTLEASE_NO_SOURCE, portlease_pool_acquire(pool, TCP, AT(six), &lease, &error));
    STATUS(PORTLEASE_BAD_CONFIG, portlease_pool_acquire(pool, TCP, AT(nowhere), &lease, &error));
    STATUS(PORTLEASE_BAD_NUMBER, portlease_pool_acquire(pool, 5, AT(to), &lease, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_acquire(NULL, TCP, AT(to), &lease, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_acquire(pool, TCP, NULL, 16, &lease, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_acquire(pool, TCP, AT(to), NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_release(pool, NULL, 0, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_release(NULL, &lease, 0, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_new(NULL, NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_import(NULL, NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_refresh(NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_maintain(NULL, &error));
    OK(portlease_pool_maintain(pool, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_census(NULL, NULL, NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT,
           portlease_pool_census_of(pool, TCP, AT(to), NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT,
           portlease_pool_destination(pool, TCP, AT(to), NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_destination_acquire(NULL, &lease, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_destination_release(NULL, &lease, 0, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_destination_census(NULL, &census, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_destination_connect(
        NULL, SOCK_STREAM, &fd, &lease, NULL, &error));

    OK(portlease_pool_acquire(pool, TCP, AT(to), &lease, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT, portlease_lease_source(pool, &lease, NULL, &len, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT,
           portlease_pool_report(pool, &lease, PORTLEASE_CALL_BIND, EADDRINUSE, NULL, &error));
    STATUS(PORTLEASE_BAD_NUMBER,
           portlease_pool_report(pool, &lease, 2, EADDRINUSE, &verdict, &error));
    OK(portlease_lease_source(pool, &lease, &address, &len, &error));
    CHECK(len == sizeof(struct sockaddr_in) && address.ss_family == AF_INET);
    CHECK(ntohs(((struct sockaddr_in *)&address)->sin_port) / 4 == 1250);
    OK(portlease_lease_destination(pool, &lease, &address, &len, &protocol, &error));
    CHECK(protocol == TCP && ((struct sockaddr_in *)&address)->sin_port == htons(80));

    STATUS(PORTLEASE_BAD_NUMBER,
           portlease_pool_connect(pool, 99, AT(to), &fd, &lease, NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT,
           portlease_pool_connect(pool, SOCK_STREAM, AT(to), NULL, &lease, NULL, &error));
    STATUS(PORTLEASE_NULL_ARGUMENT,
           portlease_pool_connect(pool, SOCK_STREAM, AT(to), &fd, NULL, NULL, &error));
    CHECK(fd == 77);
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_lease_bind(pool, &lease, -1, &error));
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_lease_bind(pool, &lease, 1 << 20, &error));
    CHECK(error.os_error == EBADF);
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_pool_adopt(pool, 1 << 20, &lease, &error));
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_pool_close(pool, 1 << 20, &lease, &error));
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_pool_close(pool, -1, &lease, &error));
    fd = open("/dev/null", O_RDONLY);
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_pool_close(pool, fd, &lease, &error));
    CHECK(error.os_error == ENOTSOCK && fcntl(fd, F_GETFD) != -1);
    STATUS(PORTLEASE_BAD_DESCRIPTOR, portlease_lease_bind(pool, &lease, fd, &error));
    close(fd);
    CHECK(census_of(pool, to).leased == 1);

    CHECK(strcmp(portlease_status_str(PORTLEASE_OK), "success") == 0);
    CHECK(strcmp(portlease_status_str(-1), "unknown status") == 0);
    CHECK(strcmp(portlease_status_str(1000), "unknown status") == 0);
    CHECK(strlen(portlease_version()) >= 5);
    CHECK(portlease_abi_version() == 0);
    CHECK(destination == NULL);
    portlease_pool_free(pool);
}

/* Two pools of one file, or two slices of one range, have each port once between them. */
static void territories_keep_pools_apart(void) {
    const char *sources = "127.0.0.2:20032-20159";
    struct sockaddr_in to = v4("127.0.0.1", 80);
    char dir[] = "/tmp/portlease-XXXXXX", path[64];
    portlease_error error;
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/ports", dir);
    for (int sliced = 0; sliced < 2; sliced++) {
        portlease_pool *pools[2];
        unsigned leased = 0;
        for (unsigned i = 0; i < 2; i++) {
            portlease_config *config;
            OK(portlease_config_new(&config));
            OK(portlease_config_add_sources(config, sources, NULL));
            STATUS(PORTLEASE_NULL_ARGUMENT, portlease_config_set_shared(NULL, path, &error));
            STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_slice(config, 3, 2, &error));
            STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_slice(config, 0, 2, &error));
            OK(portlease_config_set_shared(config, path, NULL));
            STATUS(PORTLEASE_BAD_NUMBER, portlease_config_set_maintenance(config, 2, &error));
            OK(portlease_config_set_maintenance(config, PORTLEASE_MAINTENANCE_BY_THREAD, NULL));
            if (sliced) {
                OK(portlease_config_set_slice(config, i + 1, 2, NULL));
            }
            OK(portlease_pool_new(config, &pools[i], &error));
            portlease_config_free(config);
        }
        for (unsigned i = 0; i < 2; i++) {
            portlease_lease lease;
            while (portlease_pool_acquire(pools[i], TCP, AT(to), &lease, &error) == PORTLEASE_OK) {
                leased++;
            }
            CHECK(error.status == PORTLEASE_EXHAUSTED);
            OK(portlease_pool_maintain(pools[i], NULL));
            int32_t fd;
            STATUS(PORTLEASE_NULL_ARGUMENT, portlease_pool_maintain_fd(pools[i], NULL, &error));
            OK(portlease_pool_maintain_fd(pools[i], &fd, NULL));
            CHECK(close(fd) == 0);
        }
        CHECK(leased == 128);
        portlease_pool_free(pools[0]);
        portlease_pool_free(pools[1]);
    }
    /* A file that cannot be used is a status of its own. */
    portlease_config *config;
    portlease_pool *pool;
    OK(portlease_config_new(&config));
    OK(portlease_config_add_sources(config, sources, NULL));
    OK(portlease_config_set_shared(config, dir, NULL));
    STATUS(PORTLEASE_SHARED_FILE, portlease_pool_new(config, &pool, &error));
    CHECK(strstr(error.message, dir) != NULL);
    OK(portlease_config_set_shared(config, NULL, NULL));
    OK(portlease_pool_new(config, &pool, &error));
    portlease_pool_free(pool);
    portlease_config_free(config);
    CHECK(unlink(path) == 0 && rmdir(dir) == 0);
}

static void a_child_makes_a_pool_of_its_own(void) {
    struct sockaddr_in to = v4("127.0.0.1", 80);
    portlease_pool *pool = pool_of("127.0.0.2:5000-5003", 0);
    portlease_destination *destination = NULL;
    portlease_lease lease, second;
    int status = -1;
    pid_t child;
    OK(portlease_pool_destination(pool, TCP, AT(to), &destination, NULL));
    OK(portlease_pool_acquire(pool, TCP, AT(to), &lease, NULL));
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct sockaddr_storage source;
        portlease_census census;
        portlease_verdict verdict;
        portlease_pool *own;
        int fd = -1;
        alarm(60);
        STATUS(PORTLEASE_FORKED, portlease_pool_acquire(pool, TCP, AT(to), &second, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_release(pool, &lease, 0, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_census(pool, NULL, &census, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_census_of(pool, TCP, AT(to), &census, NULL));
        STATUS(PORTLEASE_FORKED,
               portlease_pool_connect(pool, SOCK_STREAM, AT(to), &fd, &second, NULL, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_import(pool, NULL, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_refresh(pool, NULL));
        STATUS(PORTLEASE_FORKED, portlease_lease_source(pool, &lease, &source, NULL, NULL));
        STATUS(PORTLEASE_FORKED, portlease_lease_bind(pool, &lease, 0, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_close(pool, 0, &lease, NULL));
        STATUS(PORTLEASE_FORKED, portlease_pool_report(pool, &lease, PORTLEASE_CALL_BIND,
                                                       EADDRINUSE, &verdict, NULL));
        STATUS(PORTLEASE_FORKED, portlease_destination_acquire(destination, &second, NULL));
        STATUS(PORTLEASE_FORKED, portlease_destination_release(destination, &lease, 0, NULL));
        STATUS(PORTLEASE_FORKED, portlease_destination_census(destination, &census, NULL));
        portlease_destination_free(destination);
        portlease_pool_free(pool);
        own = pool_of("127.0.0.2:5000-5003", 0);
        OK(portlease_pool_acquire(own, TCP, AT(to), &second, NULL));
        STATUS(PORTLEASE_STALE_LEASE, portlease_pool_release(own, &lease, 0, NULL));
        OK(portlease_pool_release(own, &second, 0, NULL));
        portlease_pool_free(own);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(census_of(pool, to).leased == 1);
    OK(portlease_pool_release(pool, &lease, PORTLEASE_CLOSED_UNUSED, NULL));
    portlease_destination_free(destination);
    portlease_pool_free(pool);
}

int main(void) {
    a_configuration_says_what_is_wrong();
    a_pool_is_exhausted_exactly();
    a_stale_lease_harms_nothing();
    hostile_arguments_are_a_status();
    territories_keep_pools_apart();
    a_child_makes_a_pool_of_its_own();
    puts("calls: all as they should be");
    return 0;
}
