//! Links the unwinder into the library. As `libgcc_s.so` it would be one more file that every
//! program has to load, which takes longer than loading this library does.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let found = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    let path = found.map(|found| String::from_utf8_lossy(&found.stdout).trim().to_owned());
    // Where it is not there, or by another name, the shared one does as well.
    if path.is_ok_and(|path| Path::new(&path).is_absolute()) {
        let folder = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        // The linker takes a text of this name for what is to be linked in its place.
        let text = "GROUP ( -lgcc_eh -lgcc )\n";
        fs::write(Path::new(&folder).join("libgcc_s.so"), text).expect("OUT_DIR can be written");
        println!("cargo:rustc-link-search=native={folder}");
    }
}
