//! The kernel's randomness.

use std::io;

/// A seed from getrandom(2), Linux 3.17; waits only while the host is still booting.
pub(crate) fn random_seed() -> io::Result<[u8; 32]> {
    let mut seed = [0; 32];
    loop {
        // SAFETY: the pointer and the length describe `seed`. Up to 256 bytes come whole.
        let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
        if got == seed.len() as isize {
            return Ok(seed);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
