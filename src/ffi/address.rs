//! `sockaddr` in and out: any alignment, any length, nothing believed.

use super::status::Failure;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

/// Reads an address of `len` bytes.
///
/// # Safety
///
/// `address` is NULL or points to `len` readable bytes.
#[inline]
pub(super) unsafe fn read(
    argument: &'static str,
    address: *const libc::sockaddr,
    len: libc::socklen_t,
) -> Result<SocketAddr, Failure> {
    if address.is_null() {
        return Err(Failure::Null(argument));
    }
    let len = len as usize;
    if len < size_of::<libc::sa_family_t>() {
        return Err(short(argument, len, size_of::<libc::sockaddr_in>()));
    }
    // SAFETY: `len` bytes are readable, and those of the family, which come first (sockaddr(3type)),
    // are among them. C may have it at any alignment.
    let family = unsafe { address.cast::<libc::sa_family_t>().read_unaligned() };
    match i32::from(family) {
        libc::AF_INET => {
            if len < size_of::<libc::sockaddr_in>() {
                return Err(short(argument, len, size_of::<libc::sockaddr_in>()));
            }
            // SAFETY: so many bytes are readable, and every bit pattern is a `sockaddr_in`.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            let ip = u32::from_be(v4.sin_addr.s_addr).into();
            Ok(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            if len < size_of::<libc::sockaddr_in6>() {
                return Err(short(argument, len, size_of::<libc::sockaddr_in6>()));
            }
            // SAFETY: so many bytes are readable, and every bit pattern is a `sockaddr_in6`.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            let (ip, port) = (v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port));
            Ok(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id)))
        }
        other => Err(Failure::Address(format!(
            "{argument} has the address family {other}: it takes AF_INET ({}) or AF_INET6 ({})",
            libc::AF_INET,
            libc::AF_INET6
        ))),
    }
}

#[cold]
fn short(argument: &'static str, len: usize, least: usize) -> Failure {
    Failure::Address(format!("{argument} has {len} bytes: its family takes at least {least}"))
}

/// A `sockaddr_storage` with `address` in it, and how many of its bytes mean something.
pub(super) fn storage(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    let address = socket2::SockAddr::from(address);
    // SAFETY: all zeros is a `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    // SAFETY: `address` has so many bytes, never more than a `sockaddr_storage`, and the two do not
    // overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            address.len() as usize,
        );
    }
    (storage, address.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_out_and_in_at_any_alignment() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:443"] {
            let address: SocketAddr = text.parse().unwrap();
            let (out, len) = storage(address);
            let mut bytes = [0u8; size_of::<libc::sockaddr_storage>() + 1];
            for shift in 0..2 {
                // SAFETY: the storage fits behind `shift` bytes.
                unsafe {
                    bytes
                        .as_mut_ptr()
                        .add(shift)
                        .cast::<libc::sockaddr_storage>()
                        .write_unaligned(out)
                };
                // SAFETY: `len` bytes from there are readable.
                let read = unsafe { read("dst", bytes.as_ptr().add(shift).cast(), len) };
                assert_eq!(read.unwrap(), address);
            }
        }
    }

    #[test]
    fn what_is_too_short_is_told() {
        for text in ["127.0.0.1:80", "[2001:db8::1]:65535"] {
            let (out, len) = storage(text.parse().unwrap());
            for short in 0..len {
                // SAFETY: `short` bytes are readable.
                let read = unsafe { read("dst", (&raw const out).cast(), short) };
                assert!(matches!(read, Err(Failure::Address(_))), "{short}");
            }
        }
    }
}
