use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// What the umask of these tests leaves of a mode.
fn left(mode_asked_for: u32) -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("plain");
    fs::create_dir(&plain).unwrap();
    mode_asked_for & mode(&plain)
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_and_has_the_mode_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    for (name, secrecy, expected) in [
        ("key", Secrecy::Secret, 0o600),
        ("endpoints", Secrecy::Public, left(0o644)),
    ] {
        let path = folder.path().join(name);
        // What a crash before the rename leaves is not looked at, and gives neither its bytes nor its mode to the next.
        fs::write(staged(&path), "half of another, and longer").unwrap();
        fs::set_permissions(staged(&path), fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        for bytes in [&b"first"[..], b"second", b""] {
            replace(&path, bytes, secrecy).unwrap();
            assert_eq!(read(&path).unwrap().unwrap(), bytes);
            assert_eq!(mode(&path), expected, "{name}");
            assert_eq!(is_exposed(&path).unwrap(), expected & 0o077 != 0, "{name}");
        }
    }
    assert_eq!(
        names(folder.path()),
        ["endpoints", "key"],
        "nothing is left beside them"
    );
}

#[test]
fn the_old_file_stays_whole_until_the_new_one_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    replace(&path, b"old", Secrecy::Secret).unwrap();
    // What is in the way of the new file is no file.
    fs::create_dir(staged(&path)).unwrap();
    let error = replace(&path, b"new", Secrecy::Secret).unwrap_err();
    assert_eq!((error.action, &error.path), ("remove", &staged(&path)));
    assert_eq!(read(&path).unwrap().unwrap(), b"old");
    fs::remove_dir(staged(&path)).unwrap();
    let waiting = Staged::write(&path, b"new", Secrecy::Secret).unwrap();
    assert_eq!(read(&path).unwrap().unwrap(), b"old");
    waiting.place().unwrap();
    assert_eq!(read(&path).unwrap().unwrap(), b"new");
    assert_eq!(names(folder.path()), ["state"]);
}

#[test]
fn folders_are_made_down_to_the_last_and_what_is_in_their_way_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, secrecy, expected) in [
        ("keys", Secrecy::Secret, 0o700),
        ("blobs", Secrecy::Public, left(0o755)),
    ] {
        let path = folder.path().join(name).join("a/b");
        make_folder(&path, secrecy).unwrap();
        assert_eq!((mode(&path), mode(&folder.path().join(name))), (expected, expected));
    }
    // One that is there keeps its mode.
    make_folder(&folder.path().join("blobs"), Secrecy::Secret).unwrap();
    assert_eq!(mode(&folder.path().join("blobs")), left(0o755));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("a/b")] {
        let error = make_folder(&path, Secrecy::Secret).unwrap_err();
        let said = (error.action, &error.path, error.source.kind());
        assert_eq!(said, ("make", &file, io::ErrorKind::AlreadyExists));
    }
}

#[test]
fn a_path_of_one_name_is_in_the_present_folder() {
    // Nothing of that name is there: only the folder around it is synced.
    sync_parent(Path::new("no-such-file")).unwrap();
    sync_folder(Path::new("")).unwrap();
    make_folder(Path::new(""), Secrecy::Secret).unwrap();
    assert_eq!(staged(Path::new("key.pem")), Path::new("key.pem.new"));
}

#[test]
fn a_file_that_is_missing_damaged_or_endless_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), None);
    replace_json(&path, &vec![4], Secrecy::Secret).unwrap();
    assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), Some(vec![4]));
    let refused = |action, kind| {
        let error = read_json::<Vec<u32>>(&path).unwrap_err();
        assert_eq!(
            (error.action, &error.path, error.source.kind()),
            (action, &path, kind),
            "{error}"
        );
        assert!(error.to_string().ends_with("state.json"), "{error}");
    };
    fs::write(&path, "[1,").unwrap();
    refused("parse", io::ErrorKind::UnexpectedEof);
    fs::write(&path, "[\"one\"]").unwrap();
    refused("parse", io::ErrorKind::InvalidData);
    fs::write(&path, [0xff]).unwrap();
    assert_eq!(read_text(&path).unwrap_err().source.kind(), io::ErrorKind::InvalidData);
    File::create(&path).unwrap().set_len(STATE_FILE_BYTES_MAX + 1).unwrap();
    refused("read", io::ErrorKind::FileTooLarge);
    assert_eq!(
        read_start(&path, 3).unwrap().unwrap(),
        [0; 3],
        "who wants its start has it"
    );
}

#[test]
fn what_is_renamed_or_removed_is_elsewhere_or_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("next"), folder.path().join("present"));
    replace(&from, b"next", Secrecy::Secret).unwrap();
    replace(&to, b"present", Secrecy::Secret).unwrap();
    rename(&from, &to).unwrap();
    assert_eq!(read(&to).unwrap().unwrap(), b"next");
    let again = rename(&from, &to).unwrap_err();
    assert_eq!((&again.path, again.source.kind()), (&from, io::ErrorKind::NotFound));
    for _ in 0..2 {
        remove(&to).unwrap();
        remove_folder(folder.path()).unwrap();
    }
    assert!(!folder.path().exists());
}
