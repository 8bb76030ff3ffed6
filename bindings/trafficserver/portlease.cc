// portlease for Apache Traffic Server: each connection to an origin comes from a source of the
// pool's, and holds its lease until it is closed.
//
// Traffic Server makes the sockets, and tells no plugin when it closes one. So a connection is
// known by its descriptor and the kernel's cookie of the socket, which no two sockets share: when
// another socket has the descriptor, or none, the connection is closed, and its lease is released.
// That is looked at when a transaction ends, when a descriptor is met again, before "exhausted" is
// said, and every second.

#include <portlease.hpp>

#include <ts/ts.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace {

using Clock = std::chrono::steady_clock;

constexpr char NAME[] = "portlease";
constexpr TSHRTime SWEEP_MS = 1000;
/// How long a lease is kept whose connection may be closing still.
constexpr std::chrono::milliseconds CLOSING{2000};

/// The kernel's number for the socket behind a descriptor, of Linux 4.12; 0 where there is none.
uint64_t cookie_of(int fd) {
    uint64_t cookie = 0;
    socklen_t len = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}

bool is_ip(const sockaddr *address) {
    return address && (address->sa_family == AF_INET || address->sa_family == AF_INET6);
}

socklen_t length_of(const sockaddr *address) {
    return address->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
}

/// Address and port, as something to compare.
std::string text_of(const sockaddr *address) {
    if (address->sa_family == AF_INET) {
        const auto *v4 = reinterpret_cast<const sockaddr_in *>(address);
        std::string text(reinterpret_cast<const char *>(&v4->sin_addr), sizeof v4->sin_addr);
        return text.append(reinterpret_cast<const char *>(&v4->sin_port), sizeof v4->sin_port);
    }
    const auto *v6 = reinterpret_cast<const sockaddr_in6 *>(address);
    std::string text(reinterpret_cast<const char *>(&v6->sin6_addr), sizeof v6->sin6_addr);
    return text.append(reinterpret_cast<const char *>(&v6->sin6_port), sizeof v6->sin6_port);
}

template <class T> const sockaddr *plain(const T &address) {
    return reinterpret_cast<const sockaddr *>(&address);
}

/// Gives a lease back after its socket was closed.
void release(portlease::Lease &lease, portlease_closed closed) {
    if (auto released = lease.release(closed); !released) {
        TSError("[%s] %s", NAME, released.error().message());
    }
}

/// What a transaction has until it ends.
struct Transaction {
    /// For a connection that is not there yet.
    portlease::Lease lease;
    /// The connection that it uses.
    int fd = -1;
};

/// A connection and its lease.
struct Connection {
    portlease::Lease lease;
    uint64_t cookie;
    portlease_closed closed;
    std::string destination;
    /// Transactions that use it; without any it is kept for the next one.
    int users;

    bool is_open(int fd) const { return cookie_of(fd) == cookie; }
};

/// What a transaction is told before it connects.
enum class Answer { Go, Exhausted };

class Leases {
public:
    explicit Leases(portlease::Pool pool) : pool_(std::move(pool)) {}

    /// Chooses the source of a connection to an origin, should the transaction need a new one.
    Answer choose(TSHttpTxn txn, Transaction &transaction, const sockaddr *destination) {
        // This is another try, and the socket of the one before may be closing still.
        set_aside(std::move(transaction.lease));
        auto lease = usable(destination);
        if (!lease && lease.error().status() == PORTLEASE_EXHAUSTED) {
            sweep();
            lease = usable(destination);
        }
        if (lease) {
            transaction.lease = std::move(*lease);
            if (auto source = transaction.lease.source()) {
                TSHttpTxnOutgoingAddrSet(txn, plain(*source));
            }
            return Answer::Go;
        }
        // One that is kept may serve; where it may not, the address is ours all the same.
        sockaddr_storage source;
        if (kept_from(destination, source)) {
            TSHttpTxnOutgoingAddrSet(txn, plain(source));
            return Answer::Go;
        }
        TSError("[%s] %s", NAME, lease.error().message());
        return Answer::Exhausted;
    }

    /// The transaction has its connection, a new one or one that was kept.
    void connected(Transaction &transaction, int fd) {
        const uint64_t cookie = cookie_of(fd);
        std::lock_guard guard(mutex_);
        if (auto known = open_.find(fd); known != open_.end()) {
            if (known->second.cookie == cookie) {
                use(transaction, fd, known->second);
                if (transaction.lease) release(transaction.lease, PORTLEASE_CLOSED_UNUSED);
                return;
            }
            close(known);
        }
        portlease::Lease lease = lease_of(transaction, fd);
        if (!lease) return;
        auto closed = lease.closing(fd);
        sockaddr_storage peer{};
        socklen_t len = sizeof peer;
        getpeername(fd, reinterpret_cast<sockaddr *>(&peer), &len);
        Connection made{std::move(lease), cookie, closed ? *closed : PORTLEASE_CLOSED_UNKNOWN,
                        text_of(plain(peer)), 0};
        use(transaction, fd, open_.emplace(fd, std::move(made)).first->second);
    }

    /// The transaction is over: its connection is kept, or closed.
    void over(Transaction &transaction) {
        set_aside(std::move(transaction.lease));
        std::lock_guard guard(mutex_);
        auto known = open_.find(transaction.fd);
        if (known == open_.end()) return;
        if (!known->second.is_open(transaction.fd)) {
            close(known);
        } else if (known->second.users > 0) {
            known->second.users--;
        }
    }

    /// Releases what is closed.
    void sweep() {
        std::lock_guard guard(mutex_);
        for (auto next = open_.begin(); next != open_.end();) {
            const auto known = next++;
            if (!known->second.is_open(known->first)) close(known);
        }
        while (!aside_.empty() && aside_.front().first + CLOSING < Clock::now()) {
            release(aside_.front().second, PORTLEASE_CLOSED_UNKNOWN);
            aside_.pop_front();
        }
    }

    /// What has to be done now and then.
    void maintain() {
        sweep();
        portlease_error error;
        if (portlease_pool_maintain(pool_.get(), &error)) TSError("[%s] %s", NAME, error.message);
    }

private:
    using Open = std::unordered_map<int, Connection>;

    /// A lease that Traffic Server can use at the first try: it would make the next from the same
    /// source. What the kernel holds for somebody else is passed over.
    portlease::Result<portlease::Lease> usable(const sockaddr *destination) {
        auto lease = pool_.acquire(PORTLEASE_PROTOCOL_TCP, {destination, length_of(destination)});
        while (lease) {
            const int probe = socket(destination->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            auto free = lease->bind(probe);
            ::close(probe);
            auto call = PORTLEASE_CALL_BIND;
            if (free) {
                free = lease->probe();
                call = PORTLEASE_CALL_CONNECT;
            }
            // Where the kernel does not tell, the try itself has to show it.
            if (free || free.error().status() == PORTLEASE_UNSUPPORTED) return lease;
            if (free.error().status() != PORTLEASE_OS) return portlease::detail::fail(free.error());
            auto verdict = lease->report(call, free.error().os_error());
            if (!verdict) return portlease::detail::fail(verdict.error());
            if (*verdict == PORTLEASE_VERDICT_GIVE_UP) return portlease::detail::fail(free.error());
        }
        return lease;
    }

    /// Keeps the lease of a socket that nobody sees until that is closed for certain.
    void set_aside(portlease::Lease lease) {
        if (!lease) return;
        std::lock_guard guard(mutex_);
        aside_.emplace_back(Clock::now(), std::move(lease));
    }

    /// The source address of a connection to the destination that no transaction uses.
    bool kept_from(const sockaddr *destination, sockaddr_storage &source) {
        const std::string wanted = text_of(destination);
        std::lock_guard guard(mutex_);
        for (const auto &[fd, known] : open_) {
            if (known.users > 0 || known.destination != wanted) continue;
            auto from = known.lease.source();
            if (!from) continue;
            source = *from;
            // The port is at the same place in both families.
            reinterpret_cast<sockaddr_in &>(source).sin_port = 0;
            return true;
        }
        return false;
    }

    /// The lease of a new connection: the transaction's, or, where Traffic Server has gone another
    /// way than was foreseen, one for the source that the connection has.
    portlease::Lease lease_of(Transaction &transaction, int fd) {
        sockaddr_storage from{}, to{};
        socklen_t from_len = sizeof from, to_len = sizeof to;
        getsockname(fd, reinterpret_cast<sockaddr *>(&from), &from_len);
        getpeername(fd, reinterpret_cast<sockaddr *>(&to), &to_len);
        if (transaction.lease && is_ip(plain(from)) && is_ip(plain(to))) {
            auto source = transaction.lease.source();
            sockaddr_storage destination{};
            portlease_lease_destination(pool_.get(), &transaction.lease.get(), &destination,
                                        nullptr, nullptr, nullptr);
            if (source && text_of(plain(*source)) == text_of(plain(from)) &&
                text_of(plain(destination)) == text_of(plain(to))) {
                return std::move(transaction.lease);
            }
        }
        portlease_lease adopted;
        if (portlease_pool_adopt(pool_.get(), fd, &adopted, nullptr)) return {};
        return {pool_.get(), adopted};
    }

    static void use(Transaction &transaction, int fd, Connection &connection) {
        if (transaction.fd != fd) connection.users++;
        transaction.fd = fd;
    }

    void close(Open::iterator known) {
        release(known->second.lease, known->second.closed);
        open_.erase(known);
    }

    const portlease::Pool pool_;
    std::mutex mutex_;
    Open open_;
    /// In the order in which they came.
    std::deque<std::pair<Clock::time_point, portlease::Lease>> aside_;
};

/// Lives as long as the process: connections may outlast everything else.
Leases *leases;
int slot;

Transaction *transaction_of(TSHttpTxn txn) {
    return static_cast<Transaction *>(TSUserArgGet(txn, slot));
}

int on_origin_address(TSHttpTxn txn) {
    const sockaddr *destination = TSHttpTxnServerAddrGet(txn);
    if (!is_ip(destination)) return TS_EVENT_HTTP_CONTINUE;
    Transaction *transaction = transaction_of(txn);
    if (!transaction) {
        transaction = new Transaction;
        TSUserArgSet(txn, slot, transaction);
    }
    if (leases->choose(txn, *transaction, destination) == Answer::Go) {
        return TS_EVENT_HTTP_CONTINUE;
    }
    TSHttpTxnStatusSet(txn, TS_HTTP_STATUS_SERVICE_UNAVAILABLE);
    return TS_EVENT_HTTP_ERROR;
}

int on_event(TSCont, TSEvent event, void *data) {
    if (event == TS_EVENT_TIMEOUT) {
        leases->maintain();
        return 0;
    }
    const auto txn = static_cast<TSHttpTxn>(data);
    int next = TS_EVENT_HTTP_CONTINUE;
    switch (event) {
    case TS_EVENT_HTTP_OS_DNS:
        next = on_origin_address(txn);
        break;
    case TS_EVENT_HTTP_SEND_REQUEST_HDR:
        int fd;
        if (auto *transaction = transaction_of(txn);
            transaction && TSHttpTxnServerFdGet(txn, &fd) == TS_SUCCESS) {
            leases->connected(*transaction, fd);
        }
        break;
    case TS_EVENT_HTTP_TXN_CLOSE:
        if (std::unique_ptr<Transaction> transaction{transaction_of(txn)}) {
            TSUserArgSet(txn, slot, nullptr);
            leases->over(*transaction);
        }
        break;
    default:
        break;
    }
    TSHttpTxnReenable(txn, static_cast<TSEvent>(next));
    return 0;
}

/// Reads the arguments of plugin.config. What is wrong ends the server: it must not go on with
/// other sources than it was told to.
portlease::Pool pool_of(int argc, const char *argv[]) {
    portlease::Config config;
    const auto check = [](const auto &result) {
        if (!result) TSEmergency("[%s] %s", NAME, result.error().message());
    };
    const auto value_of = [](const char *argument, const char *name) -> const char * {
        const size_t len = std::strlen(name);
        return std::strncmp(argument, name, len) == 0 ? argument + len : nullptr;
    };
    // Traffic Server binds explicitly. Below the usual range of automatic choice it is in nobody's way.
    unsigned first = 1024, last = 32767;
    unsigned long rest_ms = 1000;
    check(config.set_mode(PORTLEASE_MODE_EXPLICIT));
    for (int i = 1; i < argc; i++) {
        char end = 0;
        if (const char *ports = value_of(argv[i], "--ports=")) {
            if (std::sscanf(ports, "%u-%u%c", &first, &last, &end) != 2 || last > 65535 || first > 65535) {
                TSEmergency("[%s] '%s' is not --ports=FIRST-LAST, with ports from 1 to 65535", NAME, argv[i]);
            }
        } else if (const char *rest = value_of(argv[i], "--rest-ms=")) {
            if (std::sscanf(rest, "%lu%c", &rest_ms, &end) != 1) {
                TSEmergency("[%s] '%s' is not --rest-ms=MILLISECONDS", NAME, argv[i]);
            }
        } else if (const char *shared = value_of(argv[i], "--shared=")) {
            check(config.set_shared(shared));
        } else if (argv[i][0] == '-') {
            TSEmergency("[%s] unknown option '%s': there are --ports=FIRST-LAST, --rest-ms=MILLISECONDS "
                        "and --shared=FILE", NAME, argv[i]);
        } else {
            check(config.add_sources(argv[i]));
        }
    }
    check(config.set_ports(static_cast<uint16_t>(first), static_cast<uint16_t>(last)));
    check(config.set_rest_ms(rest_ms));
    auto pool = portlease::Pool::make(config);
    check(pool);
    return std::move(*pool);
}

} // namespace

void TSPluginInit(int argc, const char *argv[]) {
    TSPluginRegistrationInfo info;
    info.plugin_name = NAME;
    info.vendor_name = "portlease";
    info.support_email = "";
    if (TSPluginRegister(&info) != TS_SUCCESS) {
        TSEmergency("[%s] cannot be registered", NAME);
    }
    if (TSUserArgIndexReserve(TS_USER_ARGS_TXN, NAME, "source port leases", &slot) != TS_SUCCESS) {
        TSEmergency("[%s] no place for a transaction's lease", NAME);
    }
    leases = new Leases(pool_of(argc, argv));
    TSCont hooks = TSContCreate(on_event, nullptr);
    TSHttpHookAdd(TS_HTTP_OS_DNS_HOOK, hooks);
    TSHttpHookAdd(TS_HTTP_SEND_REQUEST_HDR_HOOK, hooks);
    TSHttpHookAdd(TS_HTTP_TXN_CLOSE_HOOK, hooks);
    TSContScheduleEveryOnPool(TSContCreate(on_event, TSMutexCreate()), SWEEP_MS, TS_THREAD_POOL_TASK);
}
