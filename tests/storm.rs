//! `portlease storm` as its user meets it: what it prints, with which status it ends, and that
//! nothing stays behind.
#![cfg(feature = "cli")]

mod common;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_portlease");
/// Far beyond what anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn storm(line: &str) -> Output {
    Command::new(PROGRAM).arg("storm").args(line.split_whitespace()).output().unwrap()
}

/// The same where a process may hold `descriptors`.
fn storm_within(descriptors: u32, line: &str) -> Output {
    let script = format!("ulimit -n {descriptors} && exec {PROGRAM} storm {line}");
    Command::new("sh").args(["-c", &script]).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The one JSON object that standard output holds.
#[track_caller]
fn json(output: &Output) -> Value {
    let text = out(output);
    let told = err(output);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{told}"));
    assert!(value.is_object(), "{text}");
    value
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    assert_eq!(output.status.code(), Some(status), "{}{}", out(output), err(output));
}

/// The shape of one run's report, with `opened` of `requested`.
#[track_caller]
fn assert_run(run: &Value, requested: u64, opened: u64) {
    assert_eq!(run["requested"], requested, "{run}");
    assert_eq!(run["opened"], opened, "{run}");
    assert_eq!(run["failed"], requested - opened, "{run}");
    for number in ["seconds", "rate"] {
        assert!(run[number].as_f64().is_some_and(|number| number > 0.0), "{number}: {run}");
    }
    for count in ["processes", "sources"] {
        assert!(run[count].as_u64().is_some_and(|count| count > 0), "{count}: {run}");
    }
    let us = |name: &str| run["connect_us"][name].as_f64().unwrap();
    assert!(0.0 < us("p50") && us("p50") <= us("p99") && us("p99") <= us("max"), "{run}");
}

/// Ten tenths, the occupancy of each above the last, the end at `occupancy`.
#[track_caller]
fn assert_tenths(run: &Value, occupancy: f64) {
    let tenths = run["tenths"].as_array().unwrap();
    assert_eq!(tenths.len(), 10, "{run}");
    let mut before = 0.0;
    for tenth in tenths {
        let now = tenth["occupancy"].as_f64().unwrap();
        assert!(before < now && now <= 1.0, "{run}");
        before = now;
        let us = |name: &str| tenth[name].as_f64().unwrap();
        assert!(0.0 < us("p50_us") && us("p50_us") <= us("p99_us"), "{run}");
    }
    assert!((before - occupancy).abs() < 1e-4, "{run}");
}

#[test]
fn many_processes_open_what_one_could_not() {
    let output = storm_within(100, "-n 300 --ports 20000-20299 --sources 127.70.0.2 --json");
    assert_status(&output, 0);
    assert_eq!(err(&output), "");
    let run = json(&output);
    assert_run(&run, 300, 300);
    assert_tenths(&run, 1.0);
    assert_eq!(run["held"], 300);
    assert_eq!(run["by"], "portlease");
    assert_eq!(run["processes"], 12, "{run}");
    assert_eq!(run["problem"], Value::Null);
}

#[test]
fn workers_share_a_file_and_leave_none() {
    let folder = std::env::temp_dir().join(format!("portlease-storm-test-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let place = format!("TMPDIR={}", folder.display());
    let line = "-n 900 --sources 127.77.0.2-127.77.0.3 --ports 20032-21055 --json";
    let script = format!("ulimit -n 200 && {place} exec {PROGRAM} storm {line}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_status(&output, 0);
    assert_run(&json(&output), 900, 900);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

    let file = folder.join("territory");
    let output = storm(&format!("-n 100 --sources 127.77.0.2 --shared {} --json", file.display()));
    assert_status(&output, 0);
    assert_run(&json(&output), 100, 100);
    assert!(file.exists());
    fs::remove_dir_all(&folder).unwrap();
    assert_status(&storm("-n 10 --shared /dev/null"), 2);
    assert_status(&storm("-n 10 --by kernel --shared /dev/null"), 2);
}

#[test]
fn slice_is_a_part_of_what_there_is() {
    let line = "--sources 127.78.0.2-127.78.0.3 --ports 20000-20099 --mode explicit --json";
    let run = json(&storm(&format!("-n 50 --slice 2/4 {line}")));
    assert_run(&run, 50, 50);
    assert_eq!(run["capacity"], 50);
    let output = storm(&format!("-n 51 --slice 2/4 {line}"));
    assert_status(&output, 2);
    assert!(err(&output).contains("give 50;"), "{}", err(&output));
    assert_status(&storm(&format!("-n 5 --slice 5/4 {line}")), 2);
}

#[test]
fn table_is_for_people_and_a_pipe_gets_no_bar() {
    let output = storm("-n 40 --sources 127.70.1.2-127.70.1.3");
    assert_status(&output, 0);
    assert_eq!(err(&output), "");
    let table = out(&output);
    for part in ["opened     40 of 40", "failed     0", "2 sources (127.70.1.2 to 127.70.1.3)"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains('\u{1b}'), "{table}");
}

#[test]
fn kernel_chooses_for_comparison() {
    let run = json(&storm("-n 50 --by kernel --json"));
    assert_run(&run, 50, 50);
    assert_eq!((&run["by"], &run["held"]), (&Value::from("kernel"), &Value::from(50)));
}

#[test]
fn every_mode_opens() {
    for mode in ["by-port", "explicit", "late"] {
        let output = storm(&format!("-n 30 --mode {mode} --json"));
        assert_status(&output, 0);
        let run = json(&output);
        assert_run(&run, 30, 30);
        assert_eq!(run["mode"], mode);
    }
}

#[test]
fn target_may_be_somebody_elses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let output = storm(&format!("-n 20 --to {to} --json"));
    assert_status(&output, 0);
    let run = json(&output);
    assert_run(&run, 20, 20);
    assert_eq!((&run["held"], &run["to"]), (&Value::Null, &Value::from(to.to_string())));
    for _ in 0..20 {
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.2");
    }
}

#[test]
fn impossible_requests_are_told_with_the_number_and_the_way_out() {
    for (line, number, way_out) in [
        ("-n 11 --sources 127.0.0.2 --ports 7000-7009", "gives 10;", "--sources"),
        ("--sources 192.0.2.77 -n 5", "192.0.2.77 is not an address of this host", "ip address"),
        ("--to 192.0.2.1:80 -n 5", "no sources are named", "--sources"),
        ("--to [::1]:80 --sources 127.0.0.2 -n 5", "no IPv6 source for [::1]:80", "--sources"),
        ("--sources 127.0.0.2,127.0.0.300", "'127.0.0.300' at byte 10", ""),
        ("--by kernel --sources 127.0.0.2:7-9,127.0.0.3:5 -n 2", "one range", "--ports"),
        ("-n 100000000000", "not 100,000,000,000", "-n"),
    ] {
        let output = storm(line);
        assert_status(&output, 2);
        let told = err(&output);
        assert!(told.contains(number) && told.contains(way_out), "{line}: {told}");
        assert_eq!(told.lines().count(), 1, "{line}: {told}");
        assert_eq!(out(&output), "", "{line}");
    }
    let told = err(&storm_within(60, "-n 1000"));
    assert!(told.contains("hard limit of 60 a process") && told.contains("ulimit"), "{told}");
}

#[test]
fn command_line_that_makes_no_sense_is_refused() {
    for line in ["--ports 9-8", "-n 0", "--seconds 3", "--compare --by kernel", "--to here"] {
        assert_status(&storm(line), 2);
    }
}

#[test]
fn refused_target_is_told_at_the_first_failure() {
    // Bound and not listening: nobody else gets the port.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let to = socket.local_addr().unwrap().as_socket().unwrap();
    let output = storm(&format!("-n 1000 --to {to} --json"));
    assert_status(&output, 1);
    let told = err(&output);
    for part in ["connection 1:", &to.to_string(), "Connection refused", "--to"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let run = json(&output);
    assert_eq!((&run["opened"], &run["failed"]), (&Value::from(0), &Value::from(1000)));
    assert!(run["problem"].as_str().unwrap().contains("Connection refused"), "{run}");
}

/// Listeners that take `ports` of `address` from everybody.
fn take(address: &str, ports: std::ops::Range<u16>) -> Vec<Socket> {
    ports
        .map(|port| {
            let at: SocketAddr = format!("{address}:{port}").parse().unwrap();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&at.into()).unwrap();
            socket.listen(1).unwrap();
            socket
        })
        .collect()
}

#[test]
fn port_that_somebody_holds_is_a_connection_less() {
    let _theirs = take("127.71.0.2", 20_001..20_002);
    let output = storm("-n 4 --sources 127.71.0.2 --ports 20000-20003 --json");
    assert_status(&output, 1);
    assert_run(&json(&output), 4, 3);
    let told = err(&output);
    assert!(told.contains("connection 4:") && told.contains("add sources or ports"), "{told}");
}

#[test]
fn other_workers_make_up_for_a_slice_that_is_short() {
    // Two workers with 65 ports and 52 connections each at most; 17 of the first one's are taken.
    let _theirs = take("127.72.0.2", 20_000..20_017);
    let output =
        storm_within(100, "-n 100 --sources 127.72.0.2 --ports 20000-20129 --mode explicit --json");
    assert_status(&output, 0);
    let run = json(&output);
    assert_run(&run, 100, 100);
    assert_eq!(run["workers"], 2);
}

/// Whether storm had to do without a namespace of its own; told where it is so.
fn had_no_namespace(test: &str, output: &Output) -> bool {
    let refused = err(output).contains("no network namespace of its own");
    if refused {
        // To the terminal itself: the test harness captures what a test prints.
        let line = format!("SKIP: {test}: {}", err(output));
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    refused
}

#[test]
fn comparison_gives_both_sides_the_same_range() {
    let output = storm("--compare --ports 20000-20199 --json");
    if had_no_namespace("comparison_gives_both_sides_the_same_range", &output) {
        return;
    }
    assert_status(&output, 0);
    let both = json(&output);
    for by in ["portlease", "kernel"] {
        assert_run(&both[by], 200, 200);
        assert_tenths(&both[by], 1.0);
        assert_eq!(both[by]["by"], by);
    }
    assert!(both["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0), "{both}");
}

#[test]
fn comparison_without_a_namespace_says_what_it_compares_instead() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let output = storm(&format!("--compare -n 30 --ports 20000-20199 --to {to} --json"));
    assert_status(&output, 0);
    let told = err(&output);
    assert!(told.contains("instead of 20000-20199"), "{told}");
    let both = json(&output);
    assert_run(&both["portlease"], 30, 30);
    assert_run(&both["kernel"], 30, 30);
}

#[test]
fn refused_namespaces_are_told_with_what_happens_instead() {
    common::in_namespace("refused_namespaces_are_told_with_what_happens_instead", || {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40999").unwrap();
        fs::write("/proc/sys/user/max_net_namespaces", "0").unwrap();
        let output = storm("--compare --ports 20000-20199 --json");
        assert_status(&output, 0);
        assert!(err(&output).contains("40000-40999 instead of 20000-20199"), "{}", err(&output));
        // All but 1 %, which others on the host may need.
        assert_run(&json(&output)["kernel"], 990, 990);
        assert_run(&json(&output)["portlease"], 990, 990);

        let output = storm("--churn --compare -n 100 --json");
        assert_status(&output, 0);
        assert!(err(&output).contains("from 40000-40999, portlease from 10000-12000"));
        assert_eq!(json(&output)["kernel"]["capacity"], 1000);
        assert_eq!(json(&output)["portlease"]["capacity"], 2001);
    });
}

#[test]
fn churning_counts_and_stops() {
    let output = storm("--churn --seconds 50 -n 3000 --sources 127.73.0.2 --json");
    assert_status(&output, 0);
    let run = json(&output);
    assert_run(&run, 3000, 3000);
    assert_eq!(run["tenths"], Value::Array(vec![]));
}

#[test]
fn churning_beats_the_kernel_where_ports_are_few() {
    let output = storm("--churn --compare --seconds 50 -n 3000 --json");
    if had_no_namespace("churning_beats_the_kernel_where_ports_are_few", &output) {
        return;
    }
    assert_status(&output, 0);
    let both = json(&output);
    assert_run(&both["portlease"], 3000, 3000);
    // The kernel uses each of the 2,001 ports once, and then nearly all are in TIME_WAIT.
    let kernel = &both["kernel"];
    assert_eq!((&kernel["capacity"], &kernel["requested"]), (&2001.into(), &3000.into()));
    assert!(kernel["failed"].as_u64().is_some_and(|failed| failed > 500), "{kernel}");
    assert!(both["ratio"].as_f64().is_some(), "{both}");
}

// ---- what ends a storm before its time ---------------------------------------------------------

/// A listener that takes two connections and then answers nobody.
fn tarpit() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(1).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

fn start(line: &str) -> Child {
    Command::new(PROGRAM)
        .arg("storm")
        .args(line.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The processes that the storm `pid` has started and that still run.
fn crew_of(pid: u32) -> usize {
    let parent = format!("--parent\0{pid}\0");
    let is_of_crew = |folder: fs::DirEntry| {
        let line = fs::read(folder.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&parent)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|folder| folder.file_name() != "self")
        .filter(|folder| folder.file_name().to_string_lossy().parse::<u32>().is_ok())
        .map(is_of_crew)
        .filter(|&is| is)
        .count()
}

/// Sockets from the address `source`, in any state, TIME_WAIT too.
fn sockets_from(source: [u8; 4]) -> usize {
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("{:08X}:", u32::from_ne_bytes(source));
    let locals = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    locals.filter(|address| address.starts_with(&local)).count()
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "still not: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn send(signal: &str, to: &Child) {
    let status = Command::new("kill").args([signal, &to.id().to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn interrupted_storm_leaves_nothing_behind() {
    for (number, (signal, status)) in [("-INT", 130), ("-TERM", 143)].into_iter().enumerate() {
        let (_listener, to) = tarpit();
        let source = [127, 74, 0, 2 + number as u8];
        let [a, b, c, d] = source;
        let storm = start(&format!("-n 50 --to {to} --sources {a}.{b}.{c}.{d} --json"));
        let pid = storm.id();
        wait_until("connections", || sockets_from(source) > 2);
        assert_eq!(crew_of(pid), 1);
        send(signal, &storm);
        let output = storm.wait_with_output().unwrap();
        assert_status(&output, status);
        assert_eq!(out(&output), "");
        assert!(err(&output).contains("signal"), "{}", err(&output));
        assert_eq!(crew_of(pid), 0);
        assert_eq!(sockets_from(source), 0);
    }
}

#[test]
fn storm_that_is_killed_takes_its_processes_along() {
    let mut storm = start("--churn --seconds 60 --sources 127.75.0.2");
    let pid = storm.id();
    wait_until("worker and target", || crew_of(pid) == 2);
    storm.kill().unwrap();
    assert_eq!(storm.wait().unwrap().signal(), Some(9));
    wait_until("nobody left", || crew_of(pid) == 0);
}

#[test]
fn storm_ends_when_its_time_is_over() {
    let (_listener, to) = tarpit();
    let output = storm(&format!("-n 50 --to {to} --sources 127.76.0.2 --timeout 1 --json"));
    assert_status(&output, 1);
    let told = err(&output);
    assert!(told.contains("not done after 1 seconds") && told.contains("--timeout"), "{told}");
    assert_eq!(json(&output)["requested"], 50);
    assert_eq!(sockets_from([127, 76, 0, 2]), 0);
}

#[test]
fn worker_without_its_storm_does_nothing() {
    let status = Command::new(PROGRAM)
        .args(["storm-worker", "--parent", "1"])
        .stdin(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}
