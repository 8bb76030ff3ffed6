//! A shared file where open-file-description locks do not work is a clear error. No filesystem that
//! a test can mount refuses them, so a filter of system calls answers for one (seccomp(2)).

#[allow(dead_code)] // Other tests kill.
#[path = "common/crew.rs"]
mod crew;

use crew::{Folder, Member, part, say};
use portlease::{Error, Pool, Protocol};
use std::io;

const TEST: &str = "without_locks_there_is_no_shared_pool_and_it_is_said_why";

/// From now on each open-file-description lock is answered with `errno` in this process, but for
/// those on the descriptor `exempt`; each question about one too, where there are `no_answers`.
fn refuse_locks(errno: i32, exempt: u32, no_answers: bool) -> io::Result<()> {
    const NUMBER: u32 = 0;
    /// The low half of the first argument.
    const DESCRIPTOR: u32 = 16 + if cfg!(target_endian = "big") { 4 } else { 0 };
    /// The low half of the second argument.
    const COMMAND: u32 = 16 + 8 + if cfg!(target_endian = "big") { 4 } else { 0 };
    let load = |k| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k };
    let if_equal = |k, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k };
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut filter = [
        load(NUMBER),
        if_equal(libc::SYS_fcntl as u32, 0, 7),
        load(DESCRIPTOR),
        if_equal(exempt, 5, 0),
        load(COMMAND),
        if_equal(if no_answers { libc::F_OFD_GETLK as u32 } else { u32::MAX }, 2, 0),
        if_equal(libc::F_OFD_SETLK as u32, 1, 0),
        if_equal(libc::F_OFD_SETLKW as u32, 0, 1),
        answer(libc::SECCOMP_RET_ERRNO | errno as u32),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and `filter` live as long as the calls, which copy them.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program)
    };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn builder(file: &str) -> portlease::PoolBuilder {
    Pool::builder().sources("127.0.0.2:20032-20287").shared(file)
}

#[test]
fn without_locks_there_is_no_shared_pool_and_it_is_said_why() {
    if let Some(part) = part() {
        let [what, errno, file] = part.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
        let errno: i32 = errno.parse().unwrap();
        let before = builder(file).build().unwrap();
        // The namespace is opened first, by this pool and by the next.
        let namespace = before.shared_fds().min().unwrap() as u32;
        let exempt = if what == "namespace" { u32::MAX } else { namespace };
        let filter = refuse_locks(errno, exempt, what != "claim");
        // SAFETY: no argument is a pointer. Whoever tries again for ever is ended.
        unsafe { libc::alarm(20) };
        if let Err(error) = filter {
            return say(&format!("told SKIP {error}"));
        }
        // A pool that was there before leases no port that it could not lock.
        let to = "127.0.0.1:80".parse().unwrap();
        let error = before.acquire(Protocol::Tcp, to).unwrap_err();
        assert!(matches!(error, Error::SharedFile { .. }), "{error}");
        assert_eq!(before.blocks_held().unwrap(), Some(0));
        drop(before);
        std::fs::remove_file(file).unwrap();
        let error = builder(file).build().unwrap_err();
        assert!(matches!(error, Error::SharedFile { .. }), "{error}");
        assert_eq!(error.raw_os_error(), Some(errno));
        // Without a file nothing needs a lock.
        let whole = Pool::builder().sources("127.0.0.2:20032-20287").build().unwrap();
        whole.acquire(Protocol::Tcp, to).unwrap().release();
        return say(&format!("told {error}"));
    }
    for (what, errno, told) in [
        ("file", libc::EINVAL, "F_OFD_SETLK, since Linux 3.15"),
        ("file", libc::ENOSYS, "name one on a local filesystem"),
        ("file", libc::EOPNOTSUPP, "name one on a local filesystem"),
        ("file", libc::ENOLCK, "out of memory for locks"),
        // A security module says "no" to who locks, and nothing to who asks.
        ("claim", libc::EACCES, "cannot be locked: "),
        ("namespace", libc::EINVAL, "the network namespace cannot be locked"),
        ("namespace", libc::EACCES, "the network namespace cannot be locked"),
    ] {
        let folder = Folder::new(&format!("no-locks-{what}-{errno}"));
        let part = format!("{what} {errno} {}", folder.file());
        let text = Member::start(TEST, &part).wait_for("told");
        if let Some(reason) = text.strip_prefix("SKIP ") {
            let line = format!("SKIP: {TEST}: no filter of system calls: {reason}\n");
            return io::Write::write_all(&mut io::stderr(), line.as_bytes()).unwrap();
        }
        assert!(text.contains(told) && text.contains(&folder.file()), "{text}");
        println!("{text}");
    }
}
