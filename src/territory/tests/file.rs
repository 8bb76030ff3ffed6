//! What can be wrong with a shared file.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn sources() -> [Source; 1] {
    [source("10.0.0.1", &[1024..=4095])]
}

fn refusal(path: &Path) -> String {
    match Pool::new(path, &sources()) {
        Ok(_) => panic!("{} was taken", path.display()),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            text
        }
    }
}

#[test]
fn a_missing_file_is_created_for_its_owner_alone() {
    let folder = Folder::new("create");
    let _pool = Pool::new(&folder.file(), &sources()).unwrap();
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        fs::read_to_string(folder.file()).unwrap(),
        "portlease territory 1, blocks of 64 ports\n"
    );
}

#[test]
fn an_empty_file_that_was_prepared_keeps_its_mode() {
    let folder = Folder::new("prepared");
    fs::write(folder.file(), "").unwrap();
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o660)).unwrap();
    assert!(matches!(Pool::new(&folder.file(), &sources()).unwrap().grow(), Growth::Grown(64)));
    assert_eq!(fs::metadata(folder.file()).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_file_that_is_none_of_ours_is_refused_and_left_as_it_is() {
    let folder = Folder::new("foreign");
    for (content, told) in [
        ("portlease territory 2, blocks of 64 ports\n", "version '2, blocks of 64 ports'"),
        ("portlease territory 1, blocks of 128 ports\n", "version '1, blocks of 128 ports'"),
        ("portlease territory 1, blocks of 64 ports\nmore", "version"),
        ("portlease terr", "cut short"),
        ("root:x:0:0", "not the shared file"),
    ] {
        fs::write(folder.file(), content).unwrap();
        let text = refusal(&folder.file());
        assert!(text.contains(told), "{text}");
        assert_eq!(fs::read_to_string(folder.file()).unwrap(), content);
    }
    assert!(refusal(&folder.0).contains("directory"));
    assert!(refusal(&folder.0.join("none/territory")).contains("No such file"));
    assert!(refusal(Path::new("/dev/null")).contains("not a regular file"));
}

#[test]
fn a_file_that_may_not_be_read_or_written_is_refused() {
    let folder = Folder::new("unreadable");
    drop(Pool::new(&folder.file(), &sources()).unwrap());
    for mode in [0o000, 0o400, 0o200] {
        fs::set_permissions(folder.file(), fs::Permissions::from_mode(mode)).unwrap();
        if fs::File::options().read(true).write(true).open(folder.file()).is_ok() {
            let line = b"SKIP: a file that may not be read: this user may read all\n";
            return std::io::Write::write_all(&mut std::io::stderr(), line).unwrap();
        }
        let text = refusal(&folder.file());
        assert!(text.contains("cannot be opened for reading and writing"), "{text}");
    }
}

/// Does `harm` to the file of a pool that holds blocks, `cure`s it, and looks at both.
fn harmed(name: &str, told: &str, harm: impl Fn(&Path), cure: impl Fn(&Path)) {
    let folder = Folder::new(name);
    let mut pool = Pool::new(&folder.file(), &sources()).unwrap();
    let _ = pool.grow();
    harm(&folder.file());
    let error = pool.try_grow(Family::V4, From::AnySource).unwrap_err().to_string();
    assert!(error.contains(told), "{error}");
    assert!(pool.granted().is_empty(), "leases go on where another may lease too");
    pool.maintain(0).unwrap_err();
    cure(&folder.file());
    pool.maintain(1).unwrap();
    assert!(pool.granted().len() >= 64, "the locks were held all the time");
}

fn moved(path: &Path) -> PathBuf {
    path.with_extension("moved")
}

#[test]
fn a_file_that_is_moved_replaced_or_cut_grants_nothing_until_it_is_back() {
    let back = |path: &Path| fs::rename(moved(path), path).unwrap();
    harmed("moved", "is gone", |path| fs::rename(path, moved(path)).unwrap(), back);
    let replace = |path: &Path| {
        fs::rename(path, moved(path)).unwrap();
        fs::copy(moved(path), path).unwrap();
    };
    harmed("replaced", "was replaced", replace, back);
    let cut = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(3).unwrap();
    let mend =
        |path: &Path| fs::write(path, "portlease territory 1, blocks of 64 ports\n").unwrap();
    harmed("cut", "has 3 bytes instead of 42", cut, mend);
}

#[test]
fn a_file_that_was_emptied_still_keeps_two_pools_apart() {
    let folder = Folder::new("emptied");
    let mut first = Pool::new(&folder.file(), &sources()).unwrap();
    first.grow_to_the_end();
    fs::File::options().write(true).open(folder.file()).unwrap().set_len(0).unwrap();
    let mut second = Pool::new(&folder.file(), &sources()).unwrap();
    assert_eq!(second.grow(), Growth::NothingFree);
}
