// The C++ face: what each wrapper returns, and that each gives back what it holds.

#include "check.h"
#include <fcntl.h>
#include <portlease.hpp>
#include <type_traits>

using namespace portlease;

// Move-only, and cheap to move.
template <class T>
constexpr bool moves = std::is_nothrow_move_constructible_v<T> && std::is_nothrow_move_assignable_v<T> &&
                       !std::is_copy_constructible_v<T> && !std::is_copy_assignable_v<T>;
static_assert(moves<Pool> && moves<Lease> && moves<Connection> && moves<Destination> && moves<Config>);

static const auto TCP = PORTLEASE_PROTOCOL_TCP;

static Pool make(const char *sources, unsigned rest_ms = 0) {
    Config config;
    CHECK(config.add_sources(std::string(sources)).has_value());
    CHECK(config.set_mode(PORTLEASE_MODE_EXPLICIT).has_value());
    CHECK(config.set_rest_ms(rest_ms).has_value());
    CHECK(config.set_slice(1, 1).has_value() && !config.set_slice(2, 1).has_value());
    CHECK(config.set_shared(nullptr).has_value());
    CHECK(config.set_ports(2000, 2003).has_value());
    CHECK(config.set_flags(0).has_value());
    CHECK(config.set_flags(v4("127.0.0.2", 0), 0).has_value());
    CHECK(config.set_privileged_ports(PORTLEASE_PRIVILEGED_REFUSE).has_value());
    auto pool = Pool::make(config);
    CHECK(pool.has_value());
    return std::move(*pool);
}

static void errors_carry_their_numbers() {
    Config config;
    auto bad = config.add_sources("127.0.0.2, nonsense");
    CHECK(!bad && bad.error().status() == PORTLEASE_BAD_SOURCES);
    CHECK(bad.error().get().offset == 11 && strstr(bad.error().message(), "nonsense"));
    CHECK(config.set_ports(2, 1).error().status() == PORTLEASE_BAD_NUMBER);
    CHECK(Pool::make(config).error().status() == PORTLEASE_BAD_CONFIG);
    CHECK(text(PORTLEASE_OK) == "success");

    Pool pool = make("127.0.0.2:5000");
    auto to = v4("127.0.0.1", 80);
    auto lease = pool.acquire(TCP, to);
    auto none = pool.acquire(TCP, to);
    CHECK(lease && !none && none.error().get().leased == 1);
    auto connection = pool.connect(to);
    CHECK(!connection && connection.error().status() == PORTLEASE_EXHAUSTED);
}

static void leases_are_given_back() {
    Pool pool = make("127.0.0.2:5000-5003", 60000);
    auto to = v4("127.0.0.1", 80), from = v4("127.0.0.2", 0);
    auto leased = [&] { return pool.census(TCP, to).value().leased; };
    auto resting = [&] { return pool.census(TCP, to).value().resting; };
    {
        Lease lease = pool.acquire(TCP, to).value();
        CHECK(lease && lease.pool() == pool.get() && leased() == 1);
        auto source = lease.source();
        CHECK(source && source->ss_family == AF_INET);
        Lease moved = std::move(lease);
        CHECK(!lease && moved && leased() == 1);
        lease = pool.acquire_from(from, TCP, to).value();
        CHECK(leased() == 2);
        moved = std::move(lease);
        CHECK(leased() == 1 && resting() == 1);
    }
    CHECK(leased() == 0 && resting() == 2);
    Lease lease = pool.acquire(TCP, to).value();
    CHECK(lease.release(PORTLEASE_CLOSED_UNUSED).has_value() && !lease);
    CHECK(leased() == 0 && resting() == 2);
    CHECK(lease.release(PORTLEASE_CLOSED_UNUSED).error().status() == PORTLEASE_NULL_ARGUMENT);

    auto handle = pool.destination(TCP, to);
    CHECK(handle.has_value());
    lease = handle->acquire().value();
    portlease_lease raw = std::move(lease).into_raw();
    CHECK(!lease && leased() == 1);
    { Lease back(pool.get(), raw); }
    CHECK(leased() == 0);

    lease = pool.acquire(TCP, to).value();
    auto verdict = lease.report(PORTLEASE_CALL_CONNECT, ECONNREFUSED);
    CHECK(verdict.has_value() && *verdict == PORTLEASE_VERDICT_GIVE_UP && !lease && leased() == 0);
}

static void connections_close_before_they_release() {
    sockaddr_in to;
    int accepting = listener(&to);
    Pool pool = make("127.0.0.2:5000-5007, 127.0.0.3:5000");
    auto handle = pool.destination(TCP, to);
    // All connections but the last are from the first source.
    Lease kept = pool.acquire_from(v4("127.0.0.3", 0), TCP, to).value();
    CHECK(handle.has_value());
    auto leased = [&] { return handle->census().value().leased - (kept ? 1 : 0); };
    int fd;
    {
        Connection connection = pool.connect(to).value();
        fd = connection.get();
        CHECK(connection && !connection.in_progress() && leased() == 1);
        Connection moved = std::move(connection);
        CHECK(!connection && moved.get() == fd && moved.lease());
        connection = handle->connect(SOCK_NONBLOCK).value();
        CHECK((fcntl(connection.get(), F_GETFL) & O_NONBLOCK) && leased() == 2);
        CHECK(connection.close().has_value() && connection.close().has_value());
        CHECK(!connection && leased() == 1);
    }
    CHECK(fcntl(fd, F_GETFD) == -1 && leased() == 0);

    auto [raw, lease] = std::move(pool.connect(to).value()).into_parts();
    CHECK(fcntl(raw, F_GETFD) != -1 && leased() == 1);
    close(raw);
    CHECK(lease.release(PORTLEASE_CLOSED_US).has_value() && leased() == 0);

    // Of another source: what the kernel still holds of the connections above is not in its way.
    CHECK(kept.release(PORTLEASE_CLOSED_UNUSED).has_value());
    lease = pool.acquire_from(v4("127.0.0.3", 0), TCP, to).value();
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(lease.bind(fd).has_value());
    CHECK(connect(fd, reinterpret_cast<sockaddr *>(&to), sizeof to) == 0);
    { Connection joined(fd, std::move(lease), PORTLEASE_PROGRESS_CONNECTED); }
    CHECK(fcntl(fd, F_GETFD) == -1 && leased() == 0);
    close(accepting);
}

int main() {
    errors_carry_their_numbers();
    leases_are_given_back();
    connections_close_before_they_release();
    puts("raii: all as they should be");
}
