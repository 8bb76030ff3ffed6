//! Other processes of a test: its own program again, told by the environment which part it plays.
//! None outlives the thread that started it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

const PART: &str = "PORTLEASE_TEST_PART";

/// What this process is to do; `None` in the one that the test harness started.
pub(crate) fn part() -> Option<String> {
    let part = std::env::var(PART).ok()?;
    // SAFETY: takes no pointer.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    Some(part)
}

/// Says something to the process that started this one.
pub(crate) fn say(text: &str) {
    // Not `println`: what the harness has begun to print is not a line yet.
    let mut output = std::io::stdout().lock();
    output.write_all(format!("\n{text}\n").as_bytes()).and_then(|()| output.flush()).unwrap();
}

/// A process; killed when dropped.
pub(crate) struct Member {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Member {
    /// Starts this program again for the test `test` alone, with a part to play.
    pub(crate) fn start(test: &str, part: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// Waits for a line that begins with `word`; what follows on it.
    pub(crate) fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.said.read_line(&mut line).unwrap();
            assert!(read > 0, "no '{word}' from the other process");
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Kills it, and does not wait until it is dead.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Whether it has ended, by itself or because it was killed.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of the test's own, gone when this is.
pub(crate) struct Folder(std::path::PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("portlease-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// The shared file in it.
    pub(crate) fn file(&self) -> String {
        self.0.join("territory").to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
