//! Gives the shared library its name: the number is `portlease_abi_version()`.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libportlease.so.0");
}
