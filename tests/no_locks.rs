//! A shared file where open-file-description locks do not work is a clear error. No filesystem that
//! a test can mount refuses them, so a filter of system calls answers for one (seccomp(2)).

#[allow(dead_code)] // Other tests kill.
#[path = "common/crew.rs"]
mod crew;

use crew::{Folder, Member, part, say};
use portlease::{Error, Pool, Protocol};
use std::io;

const TEST: &str = "without_locks_there_is_no_shared_pool_and_it_is_said_why";

/// From now on each open-file-description lock is answered with `errno`, in this process.
fn refuse_locks(errno: i32) -> io::Result<()> {
    const NUMBER: u32 = 0;
    /// The low half of the second argument.
    const COMMAND: u32 = 16 + 8 + if cfg!(target_endian = "big") { 4 } else { 0 };
    let load = |k| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k };
    let if_equal = |k, jt, jf| libc::sock_filter { code: 0x15, jt, jf, k };
    let answer = |k| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k };
    let mut filter = [
        load(NUMBER),
        if_equal(libc::SYS_fcntl as u32, 0, 5),
        load(COMMAND),
        if_equal(libc::F_OFD_GETLK as u32, 2, 0),
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
        let (errno, file) = part.split_once(' ').unwrap();
        let errno: i32 = errno.parse().unwrap();
        let before = builder(file).build().unwrap();
        let filter = refuse_locks(errno);
        if let Err(error) = filter {
            return say(&format!("told SKIP {error}"));
        }
        // A pool that was there before leases no port that it could not lock.
        let to = "127.0.0.1:80".parse().unwrap();
        let error = before.acquire(Protocol::Tcp, to).unwrap_err();
        assert!(matches!(error, Error::SharedFile { .. }), "{error}");
        assert_eq!(before.blocks_held().unwrap(), Some(0));
        std::fs::remove_file(file).unwrap();
        let error = builder(file).build().unwrap_err();
        assert!(matches!(error, Error::SharedFile { .. }), "{error}");
        assert_eq!(error.raw_os_error(), Some(errno));
        // Without a file nothing needs a lock.
        let whole = Pool::builder().sources("127.0.0.2:20032-20287").build().unwrap();
        whole.acquire(Protocol::Tcp, to).unwrap().release();
        return say(&format!("told {error}"));
    }
    for (errno, told) in [
        (libc::EINVAL, "F_OFD_SETLK, since Linux 3.15"),
        (libc::ENOSYS, "name one on a local filesystem"),
        (libc::EOPNOTSUPP, "name one on a local filesystem"),
        (libc::ENOLCK, "out of memory for locks"),
        (libc::EIO, "cannot be locked"),
    ] {
        let folder = Folder::new(&format!("no-locks-{errno}"));
        let text = Member::start(TEST, &format!("{errno} {}", folder.file())).wait_for("told");
        if let Some(reason) = text.strip_prefix("SKIP ") {
            let line = format!("SKIP: {TEST}: no filter of system calls: {reason}\n");
            return io::Write::write_all(&mut io::stderr(), line.as_bytes()).unwrap();
        }
        assert!(text.contains(told) && text.contains(&folder.file()), "{text}");
        println!("{text}");
    }
}
