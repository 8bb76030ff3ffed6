//! Settings of a test's own network namespace.

/// Writes a sysctl of this namespace: `net.ipv4.tcp_tw_reuse`.
pub(crate) fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
}
