//! Tests in network namespaces of their own, as root or as an ordinary user.

use std::process::Command;

/// Runs `body` in a new network namespace with `lo` up, by running the test `name` (as
/// `cargo test` prints it) again under `unshare`.
pub(crate) fn in_namespace(name: &str, body: impl FnOnce()) {
    const INSIDE: &str = "PORTLEASE_TEST_NAMESPACE";
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return body();
    }
    if !Command::new("unshare").args(["-Urn", "true"]).status().is_ok_and(|it| it.success()) {
        println!("SKIP: unshare -Urn is refused here");
        return;
    }
    let output = Command::new("unshare")
        .args(["-Urn", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(std::env::current_exe().expect("the test binary"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .output()
        .expect("unshare ran before");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{name} failed inside");
}

/// Sets `net.ipv4.NAME` of this test's namespace.
pub(crate) fn set_ipv4(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
        .unwrap_or_else(|error| panic!("net.ipv4.{name} = {value}: {error}"));
}
