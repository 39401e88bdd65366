//! Files that are written, replaced, left alone.

use super::*;

fn write(path: &Path, force: bool, text: &str) -> Result<(), AtomicError> {
    write_atomically(path, force, |out| {
        let source = match text {
            "fail" => Err(io::Error::other("no")),
            text => out.write_all(text.as_bytes()),
        };
        source.map_err(|source| AtomicError::Io {
            path: path.into(),
            source,
        })
    })
}

#[test]
fn whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    assert!(write(&path, false, "fail").is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    write(&path, false, "one").unwrap();
    assert!(matches!(
        write(&path, false, "two"),
        Err(AtomicError::Exists { .. })
    ));
    assert!(write(&path, true, "fail").is_err());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    write(&path, true, "two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_replaced_file_keeps_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.py");
    fs::write(&path, "old").unwrap();
    assert!(matches!(
        replace(&path, b"other", b"new"),
        Err(AtomicError::Changed { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"old");
    replace(&path, b"old", b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert!(replace(&directory.path().join("none"), b"", b"").is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn the_longest_names_can_be_written() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["x".repeat(255), "é".repeat(127)] {
        let path = directory.path().join(name);
        write(&path, false, "text").unwrap();
        replace(&path, b"text", b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
}

/// A process id names the temporary of a killed run for ever where every run has the same one.
#[test]
fn what_a_killed_run_left_is_removed_and_a_running_one_is_not_disturbed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let part = |name: &str| directory.path().join(name);
    let (dead, running) = (
        part(".model.gguf.aaaaaa.diffucoder"),
        part(".model.gguf.bbbbbb.diffucoder"),
    );
    let strangers = [
        part(".model.gguf.backup.part"),
        part(".other.cccccc.diffucoder"),
    ];
    for file in strangers.iter().chain([&dead]) {
        fs::write(file, "half").unwrap();
    }
    let lock = File::create(&running).unwrap();
    lock.lock().unwrap();
    write(&path, false, "whole").unwrap();
    assert!(!dead.exists());
    assert!(running.exists() && strangers.iter().all(|file| file.exists()));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[cfg(unix)]
#[test]
fn a_new_file_has_the_permissions_of_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let [atomic, plain] = ["atomic", "plain"].map(|name| directory.path().join(name));
    write(&atomic, false, "text").unwrap();
    fs::write(&plain, "text").unwrap();
    let permissions = |path| fs::metadata(path).unwrap().permissions();
    assert_eq!(permissions(&atomic), permissions(&plain));
}

/// One of them writes the file, and the others are told that it is not what they read.
#[test]
fn of_many_that_replace_a_file_at_once_one_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.py");
    for _ in 0..50 {
        fs::write(&path, "old").unwrap();
        let done = std::thread::scope(|scope| {
            let runs = (0..8).map(|number| {
                let (path, new) = (&path, format!("new {number}"));
                scope.spawn(move || replace(path, b"old", new.as_bytes()).map(|()| new))
            });
            let runs: Vec<_> = runs.collect();
            let done = runs.into_iter().map(|run| run.join().unwrap());
            done.collect::<Vec<_>>()
        });
        let is_refused = |run: &&Result<String, AtomicError>| match run {
            Err(AtomicError::Changed { .. }) => true,
            // Windows may not replace what another run has open.
            Err(_) => cfg!(windows),
            Ok(_) => false,
        };
        assert_eq!(done.iter().filter(is_refused).count(), 7, "{done:?}");
        let new = done.iter().flatten().next().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), *new);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}

/// What another program locks, for however long, is replaced all the same.
#[test]
fn another_programs_lock_is_not_waited_for_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.py");
    fs::write(&path, "old").unwrap();
    let other = File::open(&path).unwrap();
    other.lock().unwrap();
    lock(&path, Duration::from_millis(20)).unwrap();
}

/// An editor takes no locks. Elsewhere there is a moment between the look and the change.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
#[test]
fn what_an_editor_saves_meanwhile_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.py");
    for round in 0..200 {
        fs::write(&path, "old").unwrap();
        let draft = directory.path().join("draft");
        fs::write(&draft, "edited").unwrap();
        let replaced = std::thread::scope(|scope| {
            let editor = scope.spawn(|| fs::rename(&draft, &path).unwrap());
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            let replaced = replace(&path, b"old", b"new");
            editor.join().unwrap();
            replaced
        });
        match (replaced, &*fs::read(&path).unwrap()) {
            (Err(AtomicError::Changed { .. }), b"edited") => {}
            (Ok(()), b"edited") => {} // it came after
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o7777
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(unix)]
#[test]
fn what_is_secret_is_never_read_by_others() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret.py");
    fs::write(&path, "old").unwrap();
    for (old, new) in [(0o600, 0o600), (0o4751, 0o751), (0o2666, 0o666)] {
        set_mode(&path, old);
        write_atomically(&path, true, |out| {
            let entries = fs::read_dir(directory.path()).unwrap().flatten();
            let other = entries.map(|entry| entry.path()).find(|at| *at != path);
            assert_eq!(mode(&other.unwrap()), 0o600);
            out.write_all(b"new").map_err(AtomicError::io(&path))
        })
        .unwrap();
        assert_eq!(mode(&path), new, "and nobody runs it as somebody else");
    }
}

#[cfg(unix)]
#[test]
fn the_owner_stays_or_the_file_does() {
    use std::os::unix::fs::{MetadataExt, chown};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("theirs.py");
    fs::write(&path, "old").unwrap();
    if chown(&path, Some(1234), Some(2345)).is_err() {
        return; // only root can tell
    }
    replace(&path, b"old", b"new").unwrap();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.uid(), found.gid()), (1234, 2345));
}

#[cfg(target_os = "linux")]
#[test]
fn attributes_stay() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.py");
    fs::write(&path, "old").unwrap();
    if setxattr(&path, "user.note", b"ours", XattrFlags::empty()).is_err() {
        return; // not on this file system
    }
    replace(&path, b"old", b"new").unwrap();
    let mut value = [0; 8];
    let len = getxattr(&path, "user.note", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..len], b"ours");
}

#[cfg(unix)]
#[test]
fn a_file_with_two_names_is_not_parted() {
    let directory = tempfile::tempdir().unwrap();
    let [path, other] = ["one", "two"].map(|name| directory.path().join(name));
    fs::write(&path, "old").unwrap();
    fs::hard_link(&path, &other).unwrap();
    for result in [check_replaceable(&path), replace(&path, b"old", b"new")] {
        assert!(matches!(result, Err(AtomicError::Linked { links: 2, .. })));
    }
    assert_eq!(fs::read(&other).unwrap(), b"old");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_devices_written_into() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let [file, new, link, loose, device] =
        ["file", "new", "link", "loose", "device"].map(|name| directory.path().join(name));
    fs::write(&file, "old").unwrap();
    symlink("file", &link).unwrap();
    symlink(&new, &loose).unwrap();
    symlink("/dev/null", &device).unwrap();
    assert!(matches!(
        write(&link, false, "new"),
        Err(AtomicError::Exists { .. })
    ));
    for (path, force) in [(&link, true), (&loose, false), (&device, false)] {
        check(path, force).unwrap();
        write(path, force, "new").unwrap();
        assert!(path.symlink_metadata().unwrap().is_symlink());
    }
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(fs::read(&new).unwrap(), b"new");
    let null = fs::metadata("/dev/null").unwrap();
    assert!(null.file_type().is_char_device());
    symlink("circle", directory.path().join("circle")).unwrap();
    assert!(write(&directory.path().join("circle"), true, "new").is_err());
    assert!(write(directory.path(), true, "new").is_err());
}

#[cfg(unix)]
#[test]
fn permissions_and_links_stay() {
    let directory = tempfile::tempdir().unwrap();
    let [file, link] = ["run.py", "link"].map(|name| directory.path().join(name));
    fs::write(&file, "old").unwrap();
    set_mode(&file, 0o750);
    std::os::unix::fs::symlink("run.py", &link).unwrap();
    replace(&link, b"old", b"new").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(mode(&file), 0o750);
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("run.py"));
}

#[test]
fn what_is_there_is_refused_before_the_work_and_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    check(&path, false).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    let late = write_atomically(&path, false, |out| {
        fs::write(&path, "theirs").unwrap();
        out.write_all(b"ours").map_err(AtomicError::io(&path))
    });
    assert!(matches!(late, Err(AtomicError::Exists { path: at }) if at == path));
    assert!(matches!(
        check(&path, false),
        Err(AtomicError::Exists { .. })
    ));
    check(&path, true).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// An open file is written behind what it has; a folder that is called as theirs is makes none.
#[cfg(target_os = "linux")]
#[test]
fn an_open_file_is_written_into_by_any_of_its_names() {
    use std::os::fd::AsRawFd;
    let directory = tempfile::tempdir().unwrap();
    let [path, link] = ["log", "link"].map(|name| directory.path().join(name));
    fs::write(&path, "1").unwrap();
    let open = File::options().append(true).open(&path).unwrap();
    let descriptor = format!("/dev/fd/{}", open.as_raw_fd());
    std::os::unix::fs::symlink(&descriptor, &link).unwrap();
    write(Path::new(&descriptor), false, "2").unwrap();
    write(&link, false, "3").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"123");

    let folder = directory.path().join("fd");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("1");
    fs::write(&path, "old").unwrap();
    assert!(write(&path, false, "new").is_err());
    write(&path, true, "new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

/// A folder can give new files an access control list: version 2, then tag, permissions and id of
/// owner, group, mask, others and user 1234.
#[cfg(target_os = "linux")]
#[test]
fn what_a_folder_gives_its_new_files_is_not_added_to_an_old_one() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("part.py");
    fs::write(&path, "old").unwrap();
    let entry = |tag: u16, permissions: u16, id: u32| {
        [tag.to_le_bytes(), permissions.to_le_bytes()]
            .into_iter()
            .flatten()
            .chain(id.to_le_bytes())
            .collect::<Vec<_>>()
    };
    let nobody = u32::MAX;
    let list = [
        2u32.to_le_bytes().to_vec(),
        entry(0x01, 6, nobody),
        entry(0x02, 6, 1234),
        entry(0x04, 4, nobody),
        entry(0x10, 6, nobody),
        entry(0x20, 0, nobody),
    ]
    .concat();
    let default = "system.posix_acl_default";
    if setxattr(&path, "user.note", b"ours", XattrFlags::empty()).is_err()
        || setxattr(directory.path(), default, &list, XattrFlags::empty()).is_err()
    {
        return; // not on this file system
    }
    let access = |path: &Path| getxattr(path, "system.posix_acl_access", &mut [0; 64][..]);
    let other = directory.path().join("other");
    fs::write(&other, "new").unwrap();
    assert_eq!(access(&other), Ok(list.len()));
    replace(&path, b"old", b"new").unwrap();
    assert!(access(&path).is_err());
    assert_eq!(getxattr(&path, "user.note", &mut [0; 8][..]), Ok(4));
}

#[test]
fn a_folder_is_gone_with_what_is_in_it() {
    let folder = Folder::new().unwrap();
    let path = folder.path().to_path_buf();
    fs::write(path.join("file"), "text").unwrap();
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn a_name_alone_is_of_the_folder_that_one_is_in() {
    for (path, folder) in [("file", "."), ("a/file", "a"), ("/", ".")] {
        assert_eq!(directory_of(Path::new(path)), Path::new(folder));
    }
}

#[test]
fn a_hint_says_what_else_there_is_to_do() {
    let path = PathBuf::from("part.py");
    let hint = |error: AtomicError| error.hint().unwrap_or_default();
    let linked = AtomicError::Linked {
        path: path.clone(),
        links: 2,
    };
    assert!(hint(linked).contains("print the result"));
    assert!(hint(AtomicError::Changed { path: path.clone() }).contains("again"));
    assert_eq!(AtomicError::Exists { path }.hint(), None);
}
