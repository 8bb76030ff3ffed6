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

static Pool make(const char *sources, unsigned rest_ms = 0) {
    Config config;
    CHECK(config.add_sources(std::string(sources)).has_value());
    CHECK(config.set_mode(PORTLEASE_MODE_EXPLICIT).has_value());
    CHECK(config.set_rest_ms(rest_ms).has_value());
    CHECK(config.set_slice(1, 1).has_value() && !config.set_slice(2, 1).has_value());
    CHECK(config.set_shared(nullptr).has_value());
    CHECK(config.set_maintenance(PORTLEASE_MAINTENANCE_BY_THREAD).has_value());
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
    auto good = config.set_ports(1, 2);
    good.value();
    *good;

    Pool pool = make("127.0.0.2:5000");
    auto fd = pool.maintain_fd();
    CHECK(pool.maintain().has_value() && fd.has_value() && close(*fd) == 0);
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

static std::string ip(const sockaddr_storage &address) {
    char text[INET_ADDRSTRLEN];
    const auto &v4 = reinterpret_cast<const sockaddr_in &>(address);
    CHECK(inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text));
    return text;
}

static uint16_t port(const sockaddr_storage &address) {
    return ntohs(reinterpret_cast<const sockaddr_in &>(address).sin_port);
}

// Reads an option of a socket that a lease has bound; how long it is.
template <size_t Size>
static socklen_t option(const Pool &pool, const char *source, int name, char (&value)[Size]) {
    auto to = v4("127.0.0.1", 80);
    Lease lease = pool.acquire_from(v4(source, 0), TCP, to).value();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    socklen_t len = Size;
    CHECK(lease.bind(fd).has_value());
    CHECK(getsockopt(fd, SOL_SOCKET, name, value, &len) == 0);
    close(fd);
    CHECK(lease.release(PORTLEASE_CLOSED_UNUSED).has_value());
    return len;
}

static void an_address_is_what_it_was_made_of() {
    auto four = v4("127.0.0.1", 80);
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    six.sin6_addr = in6addr_loopback;
    six.sin6_port = htons(80);
    const Address of_four(four), of_six(six);
    CHECK(of_four.get() == reinterpret_cast<sockaddr *>(&four) && of_four.len() == sizeof four);
    CHECK(of_six.get() == reinterpret_cast<sockaddr *>(&six) && of_six.len() == sizeof six);

    // Of a length that only the caller knows, as accept(2) and getaddrinfo(3) give it.
    Pool pool = make("127.0.0.2:5000, [::1]:5000");
    sockaddr_storage both{};
    memcpy(&both, &four, sizeof four);
    auto at = reinterpret_cast<const sockaddr *>(&both);
    const Address first(at, sizeof four);
    CHECK(first.get() == at && first.len() == sizeof four);
    CHECK(pool.acquire(TCP, first).value().destination()->len == sizeof four);
    memcpy(&both, &six, sizeof six);
    CHECK(pool.acquire(TCP, Address(at, sizeof six)).value().destination()->len == sizeof six);
    CHECK(pool.acquire(TCP, Address(at, sizeof four)).error().status() == PORTLEASE_BAD_ADDRESS);
}

static void every_setting_reaches_the_pool() {
    auto to = v4("127.0.0.1", 80), second = v4("127.0.0.3", 0);
    // Two pools of one seed choose alike.
    uint16_t first_port[2];
    for (auto &chosen : first_port) {
        Config config;
        std::array<uint8_t, 32> seed{};
        seed[31] = 7;
        CHECK(config.add_sources("127.0.0.2:1024-65535").has_value());
        CHECK(config.set_seed(seed).has_value());
        Pool pool = Pool::make(config).value();
        chosen = port(*pool.acquire(TCP, to).value().source());
    }
    CHECK(first_port[0] == first_port[1]);

    Config config;
    CHECK(config.get() != nullptr);
    CHECK(config.add_sources("127.0.0.2:5000-5001, 127.0.0.3:5000-5001").has_value());
    CHECK(config.set_mode(PORTLEASE_MODE_EXPLICIT).has_value());
    CHECK(config.set_device("lo").has_value() && config.set_device(second, nullptr).has_value());
    char value[16] = "";
    {
        Pool pool = Pool::make(config).value();
        CHECK(option(pool, "127.0.0.2", SO_BINDTODEVICE, value) == 3 && !strcmp(value, "lo"));
        CHECK(option(pool, "127.0.0.3", SO_BINDTODEVICE, value) == 0);
    }
    CHECK(config.set_device(nullptr).has_value() && config.set_device(second, "nowhere0").has_value());
    auto none = Pool::make(config);
    CHECK(!none && strstr(none.error().message(), "nowhere0"));
    CHECK(config.set_device(second, "lo").has_value());
    CHECK(config.set_mark(7).has_value() && config.set_mark(second, 8).has_value());
    auto marked = Pool::make(config);
    if (!marked && strstr(marked.error().message(), "CAP_NET_ADMIN")) {
        puts("SKIP: the value of set_mark: no CAP_NET_ADMIN here");
    } else {
        uint32_t mark;
        char (&bytes)[sizeof mark] = reinterpret_cast<char (&)[sizeof mark]>(mark);
        CHECK(option(*marked, "127.0.0.2", SO_MARK, bytes) == sizeof mark && mark == 7);
        CHECK(option(*marked, "127.0.0.3", SO_MARK, bytes) == sizeof mark && mark == 8);
    }

    // Ports, privileges, slices and files: what is leased shows them.
    Config sliced;
    CHECK(sliced.add_sources("127.0.0.2").has_value() && sliced.set_ports(1022, 1025).has_value());
    CHECK(Pool::make(sliced).error().status() == PORTLEASE_BAD_CONFIG);
    CHECK(sliced.set_privileged_ports(PORTLEASE_PRIVILEGED_LEASE).has_value());
    CHECK(sliced.set_mode(PORTLEASE_MODE_EXPLICIT).has_value());
    CHECK(sliced.set_slice(2, 4).has_value());
    CHECK(port(*Pool::make(sliced).value().acquire(TCP, to).value().source()) == 1023);
    CHECK(sliced.set_shared("/proc/portlease").has_value());
    CHECK(Pool::make(sliced).error().status() == PORTLEASE_SHARED_FILE);
    Config moved(std::move(sliced)), other;
    other = std::move(moved);
    CHECK(other.get() && other.set_shared(nullptr).has_value());
    CHECK(Pool::make(other).value().census(TCP, to)->free == 4);

    // 192.0.2.0/24 is for documentation alone (RFC 5737).
    Config strange;
    CHECK(strange.add_sources("192.0.2.1").has_value());
    CHECK(Pool::make(strange).error().status() == PORTLEASE_BAD_CONFIG);
    CHECK(strange.set_flags(v4("192.0.2.1", 0), PORTLEASE_FREEBIND).has_value());
    CHECK(Pool::make(strange).has_value());
    CHECK(strange.set_flags(v4("192.0.2.1", 0), 0).has_value());
    CHECK(strange.set_flags(PORTLEASE_FREEBIND).has_value());
    CHECK(Pool::make(strange).error().status() == PORTLEASE_BAD_CONFIG);
}

static void a_lease_tells_its_ends() {
    Pool pool = make("127.0.0.2:5000");
    auto to = v4("127.0.0.1", 80);
    Lease lease = pool.acquire(UDP, to).value();
    auto from = lease.source().value();
    CHECK(ip(from) == "127.0.0.2" && port(from) == 5000);
    auto target = lease.destination().value();
    CHECK(ip(target.address) == "127.0.0.1" && port(target.address) == 80);
    CHECK(target.len == sizeof to && target.protocol == UDP);
    CHECK(Lease().source().error().status() == PORTLEASE_NULL_ARGUMENT);
    CHECK(Lease().destination().error().status() == PORTLEASE_NULL_ARGUMENT);
    CHECK(version() == portlease_version() && abi_version() == portlease_abi_version());
}

static void a_handle_takes_back_what_is_its_own() {
    Pool pool = make("127.0.0.2:5000-5003", 60000);
    auto to = v4("127.0.0.1", 80), elsewhere = v4("127.0.0.1", 81);
    auto here = pool.destination(TCP, to).value(), there = pool.destination(TCP, elsewhere).value();
    CHECK(here.get() && here.get() != there.get());
    Lease lease = pool.acquire(TCP, to).value();
    auto refused = there.release(std::move(lease), PORTLEASE_CLOSED_US);
    CHECK(refused.error().status() == PORTLEASE_STALE_LEASE && lease);
    CHECK(here.census()->leased == 1);
    CHECK(here.release(std::move(lease), PORTLEASE_CLOSED_US).has_value() && !lease);
    CHECK(here.census()->leased == 0 && here.census()->resting == 1);
    lease = here.acquire().value();
    CHECK(here.release(std::move(lease), PORTLEASE_CLOSED_UNUSED).has_value());
    CHECK(here.census()->leased == 0 && here.census()->resting == 1);

    lease = here.acquire().value();
    Lease other = there.acquire().value();
    auto all = pool.census().value();
    CHECK(all.destinations == 2 && all.sum.leased == 2 && all.sum.resting == 1);
    CHECK(all.sum.capacity == 8 && all.sum.free == 5);
    CHECK(pool.maintain().has_value());
}

// A socket that an ordinary program bound and connected, of which nothing stays when it is closed.
static int connected(const char *from, unsigned port, const sockaddr_in &to) {
    auto source = v4(from, port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    linger reset{1, 0};
    CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset) == 0);
    CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    CHECK(bind(fd, reinterpret_cast<sockaddr *>(&source), sizeof source) == 0);
    CHECK(connect(fd, reinterpret_cast<const sockaddr *>(&to), sizeof to) == 0);
    return fd;
}

static void a_pool_learns_what_is_there() {
    sockaddr_in to;
    int accepting = listener(&to);
    Pool pool = make("127.0.0.2:5100-5103, 127.0.0.3:5100");
    auto census = [&] { return pool.census(TCP, to).value(); };
    const auto free = census().free;

    int fd = connected("127.0.0.3", 5100, to);
    {
        Connection adopted = pool.adopt(fd).value();
        CHECK(adopted.get() == fd && !adopted.in_progress() && census().leased == 1);
        CHECK(pool.adopt(fd).error().status() == PORTLEASE_TAKEN);
        auto refused = pool.adopt(accepting);
        CHECK(refused.error().status() == PORTLEASE_OS && refused.error().os_error() == ENOTCONN);
    }
    CHECK(fcntl(fd, F_GETFD) == -1 && fcntl(accepting, F_GETFD) != -1 && census().leased == 0);

    fd = connected("127.0.0.2", 5100, to);
    auto learned = pool.import();
    if (!learned && learned.error().status() == PORTLEASE_UNSUPPORTED) {
        puts("SKIP: import and refresh: no sock_diag here");
    } else {
        CHECK(*learned == 1 && census().leased == 1 && census().free == free - 1);
        CHECK(pool.import().value() == 0);
        close(fd);
        fd = -1;
        CHECK(pool.refresh().has_value() && census().leased == 0);

        auto taken = v4("127.0.0.2", 5103);
        int other = socket(AF_INET, SOCK_STREAM, 0);
        CHECK(bind(other, reinterpret_cast<sockaddr *>(&taken), sizeof taken) == 0);
        CHECK(listen(other, 1) == 0 && pool.refresh().has_value() && census().excluded == 1);
        close(other);
        CHECK(pool.refresh().has_value() && census().excluded == 0);
    }
    if (fd >= 0) close(fd);
    close(accepting);
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
    auto probed = lease.probe();
    CHECK(!probed && probed.error().os_error() == EADDRNOTAVAIL);
    auto closed = lease.closing(raw);
    CHECK(closed.has_value() && *closed == PORTLEASE_CLOSED_US);
    close(raw);
    CHECK(lease.release(*closed).has_value() && leased() == 0);

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
    an_address_is_what_it_was_made_of();
    every_setting_reaches_the_pool();
    a_lease_tells_its_ends();
    a_handle_takes_back_what_is_its_own();
    a_pool_learns_what_is_there();
    leases_are_given_back();
    connections_close_before_they_release();
    puts("raii: all as they should be");
}
