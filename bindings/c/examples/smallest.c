/* The smallest program that works: one connection from a leased source.
 *
 *     smallest 127.0.0.2 127.0.0.1 8080
 */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <portlease.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void or_exit(portlease_status status, const portlease_error *error) {
    if (status != PORTLEASE_OK) {
        fprintf(stderr, "%s: %s\n", portlease_status_str(status), error->message);
        exit(1);
    }
}

int main(int argc, char **argv) {
    portlease_config *config;
    portlease_pool *pool;
    portlease_lease lease;
    portlease_error error;
    struct sockaddr_in to;
    int fd;

    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET;
    if (argc != 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) {
        fprintf(stderr, "usage: %s SOURCES DESTINATION PORT\n", argv[0]);
        return 2;
    }
    to.sin_port = htons((uint16_t)atoi(argv[3]));

    memset(&error, 0, sizeof error);
    or_exit(portlease_config_new(&config), &error);
    or_exit(portlease_config_add_sources(config, argv[1], &error), &error);
    or_exit(portlease_pool_new(config, &pool, &error), &error);
    portlease_config_free(config);

    or_exit(portlease_pool_connect(pool, SOCK_STREAM | SOCK_CLOEXEC, (struct sockaddr *)&to,
                                   sizeof to, &fd, &lease, NULL, &error),
            &error);
    puts("connected");
    or_exit(portlease_pool_close(pool, fd, &lease, &error), &error);
    portlease_pool_free(pool);
    return 0;
}
