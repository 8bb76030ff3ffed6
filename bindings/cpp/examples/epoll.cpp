// Thousands of connections over several destinations, without a thread and without waiting.
//
//     epoll SOURCES CONNECTIONS DESTINATION PORT [PORT ...]
//     epoll 127.0.0.2-127.0.0.5 2000 127.0.0.1 8080 8081 8082
//
// Connects in turn to each port of the destination, keeps all connections open until every one
// has come about or failed, and then lets go of them. Fails if any of them failed.

#include <arpa/inet.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <netinet/in.h>
#include <portlease.hpp>
#include <sys/epoll.h>
#include <unistd.h>
#include <vector>

namespace {

constexpr int under_way_max = 256;

struct Epoll {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    Epoll() = default;
    Epoll(const Epoll &) = delete;
    Epoll &operator=(const Epoll &) = delete;
    ~Epoll() {
        if (fd >= 0) close(fd);
    }
};

void fail(const char *what, const portlease::Error &error) {
    std::fprintf(stderr, "%s: %s\n", what, error.message());
}

class Client {
public:
    explicit Client(size_t count) : connections_(count) {}

    // Connects, and waits until none is under way. False if there was no point in going on.
    bool run(const std::vector<portlease::Destination> &destinations) {
        if (epoll_.fd < 0) return false;
        for (size_t i = 0; i < connections_.size(); i++) {
            while (under_way_ >= under_way_max) {
                if (!wait_for_some()) return false;
            }
            if (!start(destinations[i % destinations.size()], connections_[i])) return false;
        }
        while (under_way_ > 0) {
            if (!wait_for_some()) return false;
        }
        return true;
    }

    int open() const { return open_; }
    int failed() const { return failed_; }

private:
    bool start(const portlease::Destination &to, portlease::Connection &place) {
        auto connection = to.connect(SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (!connection) {
            const auto &error = connection.error();
            fail("connect", error);
            failed_++;
            // Exhausted is exact: nothing to try again before something is released. The
            // destination's own answers are its affair. All else would only repeat itself.
            const bool out_of_descriptors = error.os_error() == EMFILE || error.os_error() == ENFILE;
            return error.status() == PORTLEASE_EXHAUSTED ||
                   (error.status() == PORTLEASE_OS && !out_of_descriptors);
        }
        place = std::move(*connection);
        epoll_event event{};
        event.events = EPOLLOUT;
        event.data.ptr = &place;
        if (epoll_ctl(epoll_.fd, EPOLL_CTL_ADD, place.get(), &event) != 0) {
            std::perror("epoll_ctl");
            return false;
        }
        under_way_++;
        return true;
    }

    void finish(portlease::Connection &connection) {
        int os_error = 0;
        socklen_t len = sizeof os_error;
        under_way_--;
        if (getsockopt(connection.get(), SOL_SOCKET, SO_ERROR, &os_error, &len) != 0) {
            os_error = errno;
        }
        if (os_error != 0) {
            std::fprintf(stderr, "connect: %s\n", std::strerror(os_error));
            failed_++;
            // Closed, and its four-tuple given back.
            connection = portlease::Connection();
            return;
        }
        open_++;
        // A client of use would register EPOLLIN now. This one only keeps it open.
        if (epoll_ctl(epoll_.fd, EPOLL_CTL_DEL, connection.get(), nullptr) != 0) {
            std::perror("epoll_ctl");
            failed_++;
        }
    }

    bool wait_for_some() {
        epoll_event events[64];
        const int count = epoll_wait(epoll_.fd, events, 64, 10000);
        if (count < 0) return errno == EINTR || (std::perror("epoll_wait"), false);
        if (count == 0) {
            std::fprintf(stderr, "%d connections got no answer for 10 s\n", under_way_);
            return false;
        }
        for (int i = 0; i < count; i++) {
            finish(*static_cast<portlease::Connection *>(events[i].data.ptr));
        }
        return true;
    }

    Epoll epoll_;
    std::vector<portlease::Connection> connections_;
    int under_way_ = 0, open_ = 0, failed_ = 0;
};

} // namespace

int main(int argc, char **argv) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    const int count = argc > 4 ? std::atoi(argv[2]) : 0;
    if (count < 1 || inet_pton(AF_INET, argv[3], &to.sin_addr) != 1) {
        std::fprintf(stderr, "usage: %s SOURCES CONNECTIONS DESTINATION PORT [PORT ...]\n", argv[0]);
        return 2;
    }
    portlease::Config config;
    if (auto added = config.add_sources(argv[1]); !added) {
        return fail("sources", added.error()), 1;
    }
    auto pool = portlease::Pool::make(config);
    if (!pool) return fail("no pool", pool.error()), 1;
    std::vector<portlease::Destination> destinations;
    for (int i = 4; i < argc; i++) {
        to.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[i])));
        auto destination = pool->destination(PORTLEASE_PROTOCOL_TCP, to);
        if (!destination) return fail(argv[i], destination.error()), 1;
        destinations.push_back(std::move(*destination));
    }
    Client client(static_cast<size_t>(count));
    const bool well = client.run(destinations);
    std::printf("%d connected, %d failed\n", client.open(), client.failed());
    return well && client.failed() == 0 ? 0 : 1;
}
