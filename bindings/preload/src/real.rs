//! The functions that the hooks stand before: the next of their name, be it the C library's or
//! that of another preloaded library.

use libc::{FILE, c_int, c_uint, sockaddr, socklen_t};
use std::ffi::{CStr, c_void};
use std::mem::transmute;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Looked up when first called; a second look by another thread finds the same.
struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(std::ptr::null_mut()) }
    }

    fn address(&self) -> Option<*mut c_void> {
        // Relaxed: code is there before anyone knows its address.
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return Some(known);
        }
        // SAFETY: the name is a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        // Relaxed: as above.
        self.address.store(found, Ordering::Relaxed);
        (!found.is_null()).then_some(found)
    }
}

/// What a C library without the function would have said.
fn missing() -> c_int {
    super::inside::set_errno(libc::ENOSYS);
    -1
}

macro_rules! next {
    ($(fn $name:ident($($arg:ident: $type:ty),*);)*) => {$(
        /// The next function of this name.
        ///
        /// # Safety
        ///
        /// That of the function.
        pub(crate) unsafe fn $name($($arg: $type),*) -> c_int {
            static NEXT: Next = {
                // The name with its NUL.
                match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => Next::new(name),
                    Err(_) => panic!("a name has no NUL inside"),
                }
            };
            match NEXT.address() {
                // SAFETY: the function of this name has this type, by its manual page.
                Some(address) => unsafe {
                    transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> c_int>(address)(
                        $($arg),*
                    )
                },
                None => missing(),
            }
        }
    )*};
}

next! {
    fn connect(fd: c_int, address: *const sockaddr, len: socklen_t);
    fn bind(fd: c_int, address: *const sockaddr, len: socklen_t);
    fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t);
    fn close(fd: c_int);
    fn close_range(first: c_uint, last: c_uint, flags: c_int);
    fn dup(fd: c_int);
    fn dup2(old: c_int, new: c_int);
    fn dup3(old: c_int, new: c_int, flags: c_int);
    fn fclose(file: *mut FILE);
}

macro_rules! next_fcntl {
    ($($name:ident $text:literal)*) => {$(
        /// The next function of this name.
        ///
        /// # Safety
        ///
        /// That of fcntl(2).
        pub(crate) unsafe fn $name(fd: c_int, command: c_int, argument: usize) -> c_int {
            static NEXT: Next = Next::new($text);
            match NEXT.address() {
                // SAFETY: fcntl(2) is variadic, and takes an argument as wide as a pointer.
                Some(address) => unsafe {
                    transmute::<*mut c_void, unsafe extern "C" fn(c_int, c_int, ...) -> c_int>(
                        address,
                    )(fd, command, argument)
                },
                None => missing(),
            }
        }
    )*};
}

next_fcntl! {
    fcntl c"fcntl"
    fcntl64 c"fcntl64"
}
