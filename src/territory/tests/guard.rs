//! Pools on different files: apart by their ports, or not at all.

use super::*;
use std::fs;

fn pool(folder: &Folder, name: &str, sources: &[Source]) -> Result<Pool, crate::Error> {
    Pool::as_is(&folder.0.join(name), &moved_to(&folder.0, sources))
}

fn is_refused(pool: Result<Pool, crate::Error>, address: &str) {
    let error = pool.err().expect("two files were in use for one port").to_string();
    assert!(error.contains("in use through another shared file"), "{error}");
    assert!(error.contains(address), "{error}");
}

#[test]
fn two_files_are_refused_for_one_block_and_taken_for_any_others() {
    for address in ["10.0.0.1", "2001:db8::1"] {
        let folder = Folder::new("files");
        let at = |ranges: &[RangeInclusive<u16>]| [source(address, ranges)];
        let wide = at(&[20_000..=29_999, 40_000..=40_000]);
        let told = moved_to(&folder.0, &wide)[0].address.to_string();
        let first = pool(&folder, "one", &wide).unwrap();
        let _with_first = pool(&folder, "one", &wide).unwrap();
        is_refused(pool(&folder, "two", &at(&[1024..=65535])), &told);
        // A block is 64 ports: 29,999 is in that of 29,952 to 30,015, and 40,000 in its own.
        is_refused(pool(&folder, "two", &at(&[30_015..=30_020])), &told);
        is_refused(pool(&folder, "two", &at(&[5_000..=5_000, 40_063..=40_063])), &told);
        let apart = at(&[1024..=19_967, 30_016..=39_999, 40_064..=65535]);
        let second = pool(&folder, "two", &apart).unwrap();
        is_refused(pool(&folder, "one", &at(&[1024..=1024])), &told);
        let other = if address.contains(':') { "2001:db8::2" } else { "10.0.0.2" };
        let _other = pool(&folder, "three", &[source(other, &[1024..=65535])]).unwrap();
        drop(first);
        is_refused(pool(&folder, "two", &wide).and(pool(&folder, "three", &wide)), &told);
        drop(second);
    }
}

#[test]
fn whoever_comes_to_a_replaced_file_is_refused_until_all_are_gone_that_have_the_old_one() {
    let sources = [source("10.0.0.1", &[1024..=4095]), source("::1", &[1024..=4095])];
    let path = |folder: &Folder| folder.0.join("territory");
    type Harm = fn(&Path);
    let replacements: [(&str, Harm); 3] = [
        ("renamed-over", |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("unlinked", |path| fs::remove_file(path).unwrap()),
        ("unlinked-and-made", |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, "").unwrap();
        }),
    ];
    for (name, replace) in replacements {
        let folder = Folder::new(name);
        let mut old = [(); 2].map(|()| pool(&folder, "territory", &sources).unwrap());
        let _ = old[0].grow();
        replace(&path(&folder));
        let told = moved_to(&folder.0, &sources)[0].address.to_string();
        for pool_of_old in old {
            // Not even looked for by its holder yet.
            is_refused(pool(&folder, "territory", &sources), &told);
            assert_eq!(path(&folder).exists(), name != "unlinked", "made, though refused");
            drop(pool_of_old);
        }
        assert_eq!(pool(&folder, "territory", &sources).unwrap().grow(), Growth::Grown(64));
    }
}
