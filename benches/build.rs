//! Compiles the C side of the bench `c_face`.

fn main() {
    println!("cargo::rerun-if-changed=../bindings/c/bench.c");
    println!("cargo::rerun-if-changed=../include/portlease.h");
    cc::Build::new()
        .std("c99")
        .include("../include")
        .file("../bindings/c/bench.c")
        .compile("portlease_bench_c");
}
