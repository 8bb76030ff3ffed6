//! Network namespaces of their own for tests with real sockets.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const INSIDE: &str = "PORTLEASE_TEST_INSIDE";

/// Runs `body` in a network namespace of its own, with `lo` up: the test's own program is started
/// again under `unshare -Urn`, for this one test. `test` is the test's full name.
///
/// Prints a `SKIP` line where the system has no namespaces for us.
pub(crate) fn in_namespace(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some_and(|inside| inside == test) {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.is_ok_and(|status| status.success()), "ip link set lo up");
        return body();
    }
    let may = Command::new("unshare")
        .args(["-Urn", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !may {
        return show(&format!("SKIP: {test}: no user and network namespaces (unshare -Urn)"));
    }
    let output = Command::new("unshare")
        .arg("-Urn")
        .arg(std::env::current_exe().expect("a test knows its program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, test)
        .stdin(Stdio::null())
        .output()
        .expect("unshare was there a moment ago");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{test} failed ({:?}):\n{out}\n{err}",
        output.status.code().or(output.status.signal())
    );
    assert!(out.contains("1 passed"), "{test}: no such test in this program:\n{out}");
    for line in out.lines().chain(err.lines()) {
        // The harness has begun the line with the test's name.
        let told = ["SKIP: ", "measured: "].iter().find_map(|word| line.find(word));
        told.into_iter().for_each(|from| show(&line[from..]));
    }
}

/// To the terminal itself: the test harness captures what a test prints.
fn show(line: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes());
}
