// The smallest program that works: one connection from a leased source.
//
//     smallest 127.0.0.2 127.0.0.1 8080

#include <arpa/inet.h>
#include <cstdio>
#include <cstdlib>
#include <netinet/in.h>
#include <portlease.hpp>

int main(int argc, char **argv) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    if (argc != 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1) {
        std::fprintf(stderr, "usage: %s SOURCES DESTINATION PORT\n", argv[0]);
        return 2;
    }
    to.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[3])));

    portlease::Config config;
    if (auto added = config.add_sources(argv[1]); !added) {
        std::fprintf(stderr, "%s\n", added.error().message());
        return 1;
    }
    auto pool = portlease::Pool::make(config);
    if (!pool) {
        std::fprintf(stderr, "%s\n", pool.error().message());
        return 1;
    }
    auto connection = pool->connect(to);
    if (!connection) {
        std::fprintf(stderr, "%s\n", connection.error().message());
        return 1;
    }
    std::puts("connected");
    // It closes its socket and releases its lease here, before the pool ends.
}
