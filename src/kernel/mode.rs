//! The two ways to get a source port.

/// How a socket gets its source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BindMode {
    /// `bind(address, port)` with `SO_REUSEADDR`: the port is ours from `bind` on, and nobody else
    /// on the host is given it. For ports that the kernel does not choose by itself.
    Explicit,
    /// `bind(address, 0)` with `IP_BIND_ADDRESS_NO_PORT` and `IP_LOCAL_PORT_RANGE` of one port:
    /// `connect` takes it, beside whoever uses it towards other destinations. For ports of
    /// `net.ipv4.ip_local_port_range`; TCP, Linux 6.3.
    Late,
}

/// Who chooses the [`BindMode`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ModeChoice {
    /// The port: late inside `ip_local_port_range` and not reserved, else explicit. So neither the
    /// pool nor other programs get in each other's way. Explicit on kernels before 6.3, and for UDP.
    #[default]
    ByPort,
    /// Explicit everywhere. Inside of `net.ipv4.ip_local_port_range` this takes each port from
    /// all programs of the host, on every address, for as long as one socket has it.
    Explicit,
    /// Late for all TCP ports; UDP has no such way. Ports that are named and cannot be late-bound
    /// are an error.
    Late,
}
