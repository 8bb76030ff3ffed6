// portlease for C++17 and later: objects that give back what they hold, on top of portlease.h.
//
// Everything is move-only, nothing throws but std::bad_alloc, and get() is the way out to C.
// Calls that can fail return a Result: std::expected<T, Error> where the compiler has it,
// otherwise a class with the same has_value(), operator*, operator->, value() and error().
//
// What may be called by several threads at once is const, as in C. A Lease keeps no pool alive:
// the pool outlives its leases and connections.

#ifndef PORTLEASE_HPP
#define PORTLEASE_HPP

#include <portlease.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#if __has_include(<version>)
#include <version>
#endif
#ifdef __cpp_lib_expected
#include <expected>
#endif

namespace portlease {

/// Why a call failed: status, errno, the numbers, and a sentence for the log.
class [[nodiscard]] Error {
public:
    Error() noexcept : error_{} {}

    portlease_status status() const noexcept { return error_.status; }
    int os_error() const noexcept { return error_.os_error; }
    const char *message() const noexcept { return error_.message; }
    /// All of it.
    const portlease_error &get() const noexcept { return error_; }
    /// For a call of C that fills it.
    portlease_error *out() noexcept { return &error_; }

private:
    portlease_error error_;
};

#ifdef __cpp_lib_expected

template <class T> using Result = std::expected<T, Error>;

namespace detail {
inline std::unexpected<Error> fail(const Error &error) { return std::unexpected<Error>(error); }
} // namespace detail

#else

/// A value or the reason why there is none.
template <class T> class [[nodiscard]] Result {
public:
    using value_type = T;

    Result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    Result(const Error &error) : held_(std::in_place_index<1>, error) {}

    bool has_value() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }

    T &operator*() & noexcept { return *std::get_if<0>(&held_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&held_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&held_)); }
    T *operator->() noexcept { return std::get_if<0>(&held_); }
    const T *operator->() const noexcept { return std::get_if<0>(&held_); }

    /// The value; without one the program ends here.
    T &value() & { return has_value() ? **this : (std::abort(), **this); }
    const T &value() const & { return has_value() ? **this : (std::abort(), **this); }
    T &&value() && { return std::move(value()); }

    const Error &error() const noexcept { return *std::get_if<1>(&held_); }

private:
    std::variant<T, Error> held_;
};

template <> class [[nodiscard]] Result<void> {
public:
    using value_type = void;

    Result() noexcept = default;
    Result(const Error &error) : error_(error) {}

    bool has_value() const noexcept { return !error_; }
    explicit operator bool() const noexcept { return has_value(); }
    void operator*() const noexcept {}
    /// Without success the program ends here.
    void value() const {
        if (error_) std::abort();
    }
    const Error &error() const noexcept { return *error_; }

private:
    std::optional<Error> error_;
};

namespace detail {
inline const Error &fail(const Error &error) noexcept { return error; }
} // namespace detail

#endif

/// A socket address of the caller's: anything that has `sockaddr` at its beginning.
class Address {
public:
    template <class T>
    Address(const T &address) noexcept
        : address_(reinterpret_cast<const sockaddr *>(&address)), len_(sizeof address) {}
    Address(const sockaddr *address, socklen_t len) noexcept : address_(address), len_(len) {}

    const sockaddr *get() const noexcept { return address_; }
    socklen_t len() const noexcept { return len_; }

private:
    const sockaddr *address_;
    socklen_t len_;
};

/// Where a lease leads.
struct Target {
    sockaddr_storage address;
    /// How many bytes of the address count.
    socklen_t len;
    portlease_protocol protocol;
};

/// The counts of a whole pool.
struct PoolCensus {
    /// How many destinations have a lease, rest something or have a handle.
    uint64_t destinations;
    /// Their counts, added up.
    portlease_census sum;
};

/// The right to use one four-tuple; released when it is destroyed, as one that a socket may have
/// used. Close the socket before.
class [[nodiscard]] Lease {
public:
    /// A lease of nothing.
    Lease() noexcept = default;
    /// Takes over a lease of C.
    Lease(const portlease_pool *pool, const portlease_lease &lease) noexcept
        : pool_(pool), lease_(lease) {}
    Lease(Lease &&other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), lease_(other.lease_) {}
    Lease &operator=(Lease &&other) noexcept {
        Lease gone(std::move(*this));
        pool_ = std::exchange(other.pool_, nullptr);
        lease_ = other.lease_;
        return *this;
    }
    ~Lease() {
        if (pool_) portlease_pool_release(pool_, &lease_, PORTLEASE_CLOSED_UNKNOWN, nullptr);
    }

    /// Whether it is a lease of something.
    explicit operator bool() const noexcept { return pool_ != nullptr; }
    const portlease_lease &get() const noexcept { return lease_; }
    const portlease_pool *pool() const noexcept { return pool_; }

    /// The source address and port.
    [[nodiscard]] Result<sockaddr_storage> source() const {
        Error error;
        sockaddr_storage source;
        if (portlease_lease_source(pool_, &lease_, &source, nullptr, error.out())) {
            return detail::fail(error);
        }
        return source;
    }

    /// The destination, and by which protocol.
    [[nodiscard]] Result<Target> destination() const {
        Error error;
        Target to;
        int32_t protocol;
        if (portlease_lease_destination(pool_, &lease_, &to.address, &to.len, &protocol,
                                        error.out())) {
            return detail::fail(error);
        }
        to.protocol = static_cast<portlease_protocol>(protocol);
        return to;
    }

    /// Binds a new socket to the source.
    [[nodiscard]] Result<void> bind(int fd) const {
        Error error;
        if (portlease_lease_bind(pool_, &lease_, fd, error.out())) return detail::fail(error);
        return {};
    }

    /// Whether the kernel still has the four-tuple for another socket, for who leaves connect(2) to
    /// somebody else.
    [[nodiscard]] Result<void> probe() const {
        Error error;
        if (portlease_lease_probe(pool_, &lease_, error.out())) return detail::fail(error);
        return {};
    }

    /// Whose end is closed first, asked just before the caller closes the socket; for `release`.
    [[nodiscard]] Result<portlease_closed> closing(int fd) const {
        Error error;
        portlease_closed closed;
        if (portlease_lease_closing(pool_, &lease_, fd, &closed, error.out())) {
            return detail::fail(error);
        }
        return closed;
    }

    /// Tells that a call failed for a socket of this lease, which is closed by now. The lease is
    /// for another four-tuple then, or of nothing where the verdict is to give up.
    [[nodiscard]] Result<portlease_verdict> report(portlease_call call, int os_error) {
        Error error;
        portlease_verdict verdict;
        if (portlease_pool_report(pool_, &lease_, call, os_error, &verdict, error.out())) {
            return detail::fail(error);
        }
        if (verdict == PORTLEASE_VERDICT_GIVE_UP) pool_ = nullptr;
        return verdict;
    }

    /// Gives the four-tuple back, after its socket was closed.
    [[nodiscard]] Result<void> release(portlease_closed closed) {
        Error error;
        if (portlease_pool_release(pool_, &lease_, closed, error.out())) {
            return detail::fail(error);
        }
        pool_ = nullptr;
        return {};
    }

    /// Hands the lease over to C: it is the caller's to release.
    portlease_lease into_raw() && noexcept {
        pool_ = nullptr;
        return lease_;
    }

private:
    const portlease_pool *pool_ = nullptr;
    portlease_lease lease_{};
};

/// A socket and its lease. When it is destroyed the socket is closed first, and then the lease
/// is released.
class [[nodiscard]] Connection {
public:
    /// No connection.
    Connection() noexcept = default;
    /// Takes over a socket and the lease that it was connected under.
    Connection(int fd, Lease lease, portlease_progress progress) noexcept
        : fd_(fd), progress_(progress), lease_(std::move(lease)) {}
    Connection(Connection &&other) noexcept
        : fd_(std::exchange(other.fd_, -1)), progress_(other.progress_),
          lease_(std::move(other.lease_)) {}
    Connection &operator=(Connection &&other) noexcept {
        Connection gone(std::move(*this));
        fd_ = std::exchange(other.fd_, -1);
        progress_ = other.progress_;
        lease_ = std::move(other.lease_);
        return *this;
    }
    ~Connection() { static_cast<void>(close()); }

    explicit operator bool() const noexcept { return fd_ >= 0; }
    /// The descriptor.
    int get() const noexcept { return fd_; }
    const Lease &lease() const noexcept { return lease_; }
    /// Whether it was still on its way when it was made.
    bool in_progress() const noexcept { return progress_ == PORTLEASE_PROGRESS_IN_PROGRESS; }

    /// Closes the socket, and then releases the lease.
    [[nodiscard]] Result<void> close() {
        if (fd_ < 0) return {};
        Error error;
        const portlease_pool *pool = lease_.pool();
        const int fd = std::exchange(fd_, -1);
        const portlease_lease lease = std::move(lease_).into_raw();
        if (portlease_pool_close(pool, fd, &lease, error.out())) return detail::fail(error);
        return {};
    }

    /// Takes both apart: the caller closes the socket, and then releases the lease.
    std::pair<int, Lease> into_parts() && noexcept {
        return {std::exchange(fd_, -1), std::move(lease_)};
    }

private:
    int fd_ = -1;
    portlease_progress progress_ = PORTLEASE_PROGRESS_CONNECTED;
    Lease lease_;
};

/// What a pool is made of.
class Config {
public:
    Config() { portlease_config_new(&config_); }
    Config(Config &&other) noexcept : config_(std::exchange(other.config_, nullptr)) {}
    Config &operator=(Config &&other) noexcept {
        std::swap(config_, other.config_);
        return *this;
    }
    ~Config() { portlease_config_free(config_); }

    portlease_config *get() const noexcept { return config_; }

    [[nodiscard]] Result<void> add_sources(const char *sources) {
        return with(portlease_config_add_sources, sources);
    }
    [[nodiscard]] Result<void> add_sources(const std::string &sources) {
        return add_sources(sources.c_str());
    }
    [[nodiscard]] Result<void> set_ports(uint16_t first, uint16_t last) {
        return with(portlease_config_set_ports, first, last);
    }
    [[nodiscard]] Result<void> set_mode(portlease_mode mode) {
        return with(portlease_config_set_mode, mode);
    }
    [[nodiscard]] Result<void> set_rest_ms(uint64_t rest_ms) {
        return with(portlease_config_set_rest_ms, rest_ms);
    }
    [[nodiscard]] Result<void> set_privileged_ports(portlease_privileged privileged) {
        return with(portlease_config_set_privileged_ports, privileged);
    }
    /// Shares the ports with all pools of the host that name the file.
    [[nodiscard]] Result<void> set_shared(const char *path) {
        return with(portlease_config_set_shared, path);
    }
    [[nodiscard]] Result<void> set_maintenance(portlease_maintenance maintenance) {
        return with(portlease_config_set_maintenance, maintenance);
    }
    /// Only one of `count` slices, from 1.
    [[nodiscard]] Result<void> set_slice(uint32_t number, uint32_t count) {
        return with(portlease_config_set_slice, number, count);
    }
    /// The seed of all random choices, for runs that can be repeated.
    [[nodiscard]] Result<void> set_seed(const std::array<uint8_t, 32> &seed) {
        return with(portlease_config_set_seed, seed.data());
    }
    /// The flags of all sources that have no option of their own.
    [[nodiscard]] Result<void> set_flags(uint32_t flags) { return set_flags(none(), flags); }
    [[nodiscard]] Result<void> set_flags(Address source, uint32_t flags) {
        return with(portlease_config_set_source_flags, source.get(), source.len(), flags);
    }
    /// The interface of all sources that have no option of their own; nullptr is none.
    [[nodiscard]] Result<void> set_device(const char *device) { return set_device(none(), device); }
    [[nodiscard]] Result<void> set_device(Address source, const char *device) {
        return with(portlease_config_set_source_device, source.get(), source.len(), device);
    }
    /// The mark of all sources that have no option of their own.
    [[nodiscard]] Result<void> set_mark(uint32_t mark) { return set_mark(none(), mark); }
    [[nodiscard]] Result<void> set_mark(Address source, uint32_t mark) {
        return with(portlease_config_set_source_mark, source.get(), source.len(), mark);
    }

private:
    static Address none() noexcept { return Address(nullptr, 0); }

    template <class Call, class... Arguments>
    [[nodiscard]] Result<void> with(Call call, Arguments... arguments) {
        Error error;
        if (call(config_, arguments..., error.out())) return detail::fail(error);
        return {};
    }

    portlease_config *config_ = nullptr;
};

namespace detail {

/// Something of C's with a function that frees it.
template <class T, void (*Free)(T *)> class Owned {
public:
    Owned() noexcept = default;
    explicit Owned(T *object) noexcept : object_(object) {}
    Owned(Owned &&other) noexcept : object_(std::exchange(other.object_, nullptr)) {}
    Owned &operator=(Owned &&other) noexcept {
        std::swap(object_, other.object_);
        return *this;
    }
    ~Owned() { Free(object_); }

    T *get() const noexcept { return object_; }

private:
    T *object_ = nullptr;
};

} // namespace detail

/// One destination of a pool, looked up once. The pool outlives it here, for its leases' sake.
class Destination {
public:
    /// Takes over a handle of C, of this pool.
    Destination(const portlease_pool *pool, portlease_destination *destination) noexcept
        : pool_(pool), destination_(destination) {}

    const portlease_destination *get() const noexcept { return destination_.get(); }

    [[nodiscard]] Result<Lease> acquire() const {
        Error error;
        portlease_lease lease;
        if (portlease_destination_acquire(get(), &lease, error.out())) return detail::fail(error);
        return Lease(pool_, lease);
    }

    /// Gives back a lease of this destination, after its socket was closed. After a failure the
    /// lease is what it was.
    [[nodiscard]] Result<void> release(Lease &&lease, portlease_closed closed) const {
        Error error;
        if (portlease_destination_release(get(), &lease.get(), closed, error.out())) {
            return detail::fail(error);
        }
        static_cast<void>(std::move(lease).into_raw());
        return {};
    }

    /// Connects; flags are SOCK_NONBLOCK and SOCK_CLOEXEC.
    [[nodiscard]] Result<Connection> connect(int flags = SOCK_CLOEXEC) const {
        Error error;
        int32_t fd;
        portlease_lease lease;
        portlease_progress progress;
        if (portlease_destination_connect(get(), SOCK_STREAM | flags, &fd, &lease, &progress,
                                          error.out())) {
            return detail::fail(error);
        }
        return Connection(fd, Lease(pool_, lease), progress);
    }

    [[nodiscard]] Result<portlease_census> census() const {
        Error error;
        portlease_census census;
        if (portlease_destination_census(get(), &census, error.out())) return detail::fail(error);
        return census;
    }

private:
    const portlease_pool *pool_;
    detail::Owned<portlease_destination, portlease_destination_free> destination_;
};

/// A pool of source addresses and ports, leased per destination. Outlives its leases.
class Pool {
public:
    [[nodiscard]] static Result<Pool> make(const Config &config) {
        Error error;
        portlease_pool *pool;
        if (portlease_pool_new(config.get(), &pool, error.out())) return detail::fail(error);
        return Pool(pool);
    }

    const portlease_pool *get() const noexcept { return pool_.get(); }

    [[nodiscard]] Result<Lease> acquire(portlease_protocol protocol, Address destination) const {
        Error error;
        portlease_lease lease;
        if (portlease_pool_acquire(get(), protocol, destination.get(), destination.len(), &lease,
                                   error.out())) {
            return detail::fail(error);
        }
        return Lease(get(), lease);
    }

    [[nodiscard]] Result<Lease> acquire_from(Address source, portlease_protocol protocol,
                                             Address destination) const {
        Error error;
        portlease_lease lease;
        if (portlease_pool_acquire_from(get(), source.get(), source.len(), protocol,
                                        destination.get(), destination.len(), &lease,
                                        error.out())) {
            return detail::fail(error);
        }
        return Lease(get(), lease);
    }

    /// Connects; type is SOCK_STREAM or SOCK_DGRAM, with SOCK_NONBLOCK and SOCK_CLOEXEC.
    [[nodiscard]] Result<Connection> connect(Address destination,
                                             int type = SOCK_STREAM | SOCK_CLOEXEC) const {
        Error error;
        int32_t fd;
        portlease_lease lease;
        portlease_progress progress;
        if (portlease_pool_connect(get(), type, destination.get(), destination.len(), &fd, &lease,
                                   &progress, error.out())) {
            return detail::fail(error);
        }
        return Connection(fd, Lease(get(), lease), progress);
    }

    /// Takes over a connection that was made elsewhere; after a failure it stays the caller's.
    [[nodiscard]] Result<Connection> adopt(int fd) const {
        Error error;
        portlease_lease lease;
        if (portlease_pool_adopt(get(), fd, &lease, error.out())) return detail::fail(error);
        return Connection(fd, Lease(get(), lease), PORTLEASE_PROGRESS_CONNECTED);
    }

    /// Learns which four-tuples of its sources the kernel holds already; how many were new.
    [[nodiscard]] Result<uint64_t> import() const {
        Error error;
        uint64_t count;
        if (portlease_pool_import(get(), &count, error.out())) return detail::fail(error);
        return count;
    }

    /// Looks again who listens on its ports, and which imported four-tuples are still held.
    [[nodiscard]] Result<void> refresh() const {
        Error error;
        if (portlease_pool_refresh(get(), error.out())) return detail::fail(error);
        return {};
    }

    /// Gives back ports that other processes want, from a timer of a process that may fall silent.
    [[nodiscard]] Result<void> maintain() const {
        Error error;
        if (portlease_pool_maintain(get(), error.out())) return detail::fail(error);
        return {};
    }

    [[nodiscard]] Result<Destination> destination(portlease_protocol protocol,
                                                  Address destination) const {
        Error error;
        portlease_destination *handle;
        if (portlease_pool_destination(get(), protocol, destination.get(), destination.len(),
                                       &handle, error.out())) {
            return detail::fail(error);
        }
        return Destination(get(), handle);
    }

    /// The counts of all destinations.
    [[nodiscard]] Result<PoolCensus> census() const {
        Error error;
        PoolCensus census;
        if (portlease_pool_census(get(), &census.destinations, &census.sum, error.out())) {
            return detail::fail(error);
        }
        return census;
    }

    /// The counts of one destination.
    [[nodiscard]] Result<portlease_census> census(portlease_protocol protocol,
                                                  Address destination) const {
        Error error;
        portlease_census census;
        if (portlease_pool_census_of(get(), protocol, destination.get(), destination.len(),
                                     &census, error.out())) {
            return detail::fail(error);
        }
        return census;
    }

    /// Can be read when `maintain` is worth a call; the caller's to close.
    [[nodiscard]] Result<int> maintain_fd() const {
        Error error;
        int32_t fd;
        if (portlease_pool_maintain_fd(get(), &fd, error.out())) return detail::fail(error);
        return fd;
    }

private:
    explicit Pool(portlease_pool *pool) noexcept : pool_(pool) {}

    detail::Owned<portlease_pool, portlease_pool_free> pool_;
};

/// A few words for a status.
inline std::string_view text(portlease_status status) noexcept {
    return portlease_status_str(status);
}

/// The library's version, such as "0.1.0".
inline std::string_view version() noexcept { return portlease_version(); }

/// The version of the binary interface: the number in the library's SONAME.
inline uint32_t abi_version() noexcept { return portlease_abi_version(); }

} // namespace portlease

#endif
