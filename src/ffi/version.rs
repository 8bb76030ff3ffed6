//! Versions

use std::ffi::c_char;

/// The library's version, such as "0.1.0", in static memory.
#[unsafe(no_mangle)]
pub extern "C" fn portlease_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The version of the binary interface, which is the number in the library's SONAME: programs
/// that were built with another one have to be compiled again.
#[unsafe(no_mangle)]
pub extern "C" fn portlease_abi_version() -> u32 {
    0
}
