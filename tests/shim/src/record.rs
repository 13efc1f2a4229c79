//! What a process does to the files below a folder, in order.
//!
//! The record is a sequence of entries, each a header of little-endian numbers and two byte strings:
//! `u8 kind, u64 offset, u32 path length, u32 data length, path, data`. Kinds: 1 the file was created or emptied on opening
//! (offset 0 created, 1 emptied), 2 bytes were written at the offset, 3 its length was set to the offset, 4 it was synced (a folder: its entries were),
//! 5 it was renamed to the path in data, 6 it was removed, 7 bytes were written to standard output: what is told to the world,
//! 8 the path in data became another name of it, 9 it was made as a folder.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{c_char, c_int, c_void, iovec, off_t, ssize_t};

use crate::fault::take;
use crate::next::next;

struct Recorder {
    folder: PathBuf,
    /// Descriptor of the record.
    record: Mutex<c_int>,
}

static RECORDER: OnceLock<Recorder> = OnceLock::new();

pub(crate) fn take_plan() {
    let (Some(record), Some(folder)) = (take(c"FIELDFARE_FAULT_RECORD"), take(c"FIELDFARE_FAULT_FOLDER")) else {
        return;
    };
    let path = std::ffi::CString::new(record).unwrap_or_default();
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
    // SAFETY: the path is a string.
    let record = unsafe {
        next::<unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int>(c"open64")(path.as_ptr(), flags, 0o600)
    };
    if record < 0 {
        std::process::abort();
    }
    let folder = PathBuf::from(folder);
    let _ = RECORDER.set(Recorder {
        folder,
        record: Mutex::new(record),
    });
}

impl Recorder {
    fn enter(&self, kind: u8, offset: u64, path: &Path, data: &[u8]) {
        let Ok(relative) = path.strip_prefix(&self.folder) else {
            return;
        };
        self.put(kind, offset, relative.as_os_str().as_bytes(), data);
    }

    fn put(&self, kind: u8, offset: u64, path: &[u8], data: &[u8]) {
        let mut entry = vec![kind];
        entry.extend(offset.to_le_bytes());
        for length in [path.len(), data.len()] {
            entry.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        }
        entry.extend(path);
        entry.extend(data);
        // The lock keeps entries whole and in the order of the calls that they stand for, as far as there is one.
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> ssize_t;
        // SAFETY: the buffer is the entry's own.
        let written = unsafe { next::<Write>(c"write")(*record, entry.as_ptr().cast(), entry.len()) };
        if written != entry.len() as ssize_t {
            // A record with a gap would prove nothing.
            std::process::abort();
        }
    }
}

/// Where a descriptor leads, for files below the folder.
fn path_of(fd: c_int) -> Option<(&'static Recorder, PathBuf)> {
    let recorder = RECORDER.get()?;
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    path.starts_with(&recorder.folder).then_some((recorder, path))
}

/// The position at which the next `write` lands; nothing where nobody wants to know.
pub(crate) fn end_of(fd: c_int) -> Option<off_t> {
    RECORDER.get()?;
    // SAFETY: seeking by nothing changes nothing, and fails on what has no position.
    let appends = unsafe { libc::fcntl(fd, libc::F_GETFL) } & libc::O_APPEND != 0;
    let place = unsafe { libc::lseek(fd, 0, libc::SEEK_CUR) };
    if appends && place >= 0 {
        // SAFETY: all zeroes is a `stat`, and fstat writes no more than one.
        let facts = unsafe {
            let mut facts: libc::stat = std::mem::zeroed();
            libc::fstat(fd, &raw mut facts);
            facts
        };
        return Some(facts.st_size);
    }
    (place >= 0).then_some(place)
}

/// Bytes were written.
///
/// # Safety
/// `written` bytes, if above zero, can be read from `buffer`.
pub(crate) unsafe fn wrote(fd: c_int, place: Option<off_t>, buffer: *const c_void, written: ssize_t) {
    let (Some(recorder), Ok(length)) = (RECORDER.get(), usize::try_from(written)) else {
        return;
    };
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), length) };
    if fd == libc::STDOUT_FILENO {
        return recorder.put(7, 0, b"", bytes);
    }
    if let (Some((recorder, path)), Some(place)) = (path_of(fd), place) {
        recorder.enter(2, u64::try_from(place).unwrap_or_default(), &path, bytes);
    }
}

/// Bytes of several parts were written.
///
/// # Safety
/// `written` bytes, if above zero, can be read from the `count` parts.
pub(crate) unsafe fn wrote_parts(fd: c_int, place: Option<off_t>, parts: *const iovec, count: c_int, written: ssize_t) {
    if RECORDER.get().is_none() {
        return;
    }
    let (mut place, mut left) = (place, usize::try_from(written).unwrap_or_default());
    for index in 0..usize::try_from(count).unwrap_or_default() {
        // SAFETY: as the caller promises.
        let part = unsafe { &*parts.add(index) };
        let length = part.iov_len.min(left);
        // SAFETY: the part has at least that many bytes.
        unsafe { wrote(fd, place, part.iov_base, ssize_t::try_from(length).unwrap_or_default()) };
        left -= length;
        place = place.map(|place| place + off_t::try_from(length).unwrap_or_default());
    }
}

/// A file was opened.
pub(crate) fn opened(fd: c_int, flags: c_int) {
    if flags & (libc::O_CREAT | libc::O_TRUNC) == 0 {
        return;
    }
    if let Some((recorder, path)) = path_of(fd) {
        let emptied = flags & libc::O_TRUNC != 0;
        recorder.enter(1, u64::from(emptied), &path, b"");
    }
}

/// A file's length was set.
pub(crate) fn resized(fd: c_int, length: off_t) {
    if let Some((recorder, path)) = path_of(fd) {
        recorder.enter(3, u64::try_from(length).unwrap_or_default(), &path, b"");
    }
}

/// A file, or a folder, was synced.
pub(crate) fn synced(fd: c_int) {
    if let Some((recorder, path)) = path_of(fd) {
        recorder.enter(4, 0, &path, b"");
    }
}

/// A path as the kernel sees it, from the string of a call.
///
/// # Safety
/// `path` is a string.
unsafe fn absolute(path: *const c_char) -> PathBuf {
    // SAFETY: as the caller promises.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// A file was renamed.
///
/// # Safety
/// Both are strings.
pub(crate) unsafe fn renamed(from: *const c_char, to: *const c_char) {
    // SAFETY: as the caller promises.
    unsafe { two_names(5, from, to) }
}

/// A file got another name.
///
/// # Safety
/// Both are strings.
pub(crate) unsafe fn linked(from: *const c_char, to: *const c_char) {
    // SAFETY: as the caller promises.
    unsafe { two_names(8, from, to) }
}

/// Enters what involves two names.
///
/// # Safety
/// Both are strings.
unsafe fn two_names(kind: u8, from: *const c_char, to: *const c_char) {
    let Some(recorder) = RECORDER.get() else { return };
    // SAFETY: as the caller promises.
    let (from, to) = unsafe { (absolute(from), absolute(to)) };
    if let Ok(relative) = to.strip_prefix(&recorder.folder) {
        recorder.enter(kind, 0, &from, relative.as_os_str().as_bytes());
    }
}

/// A file was removed.
///
/// # Safety
/// It is a string.
pub(crate) unsafe fn removed(path: *const c_char) {
    let Some(recorder) = RECORDER.get() else { return };
    // SAFETY: as the caller promises.
    let path = unsafe { absolute(path) };
    recorder.enter(6, 0, &path, b"");
}

/// A file was removed from a folder that is open.
///
/// # Safety
/// It is a string.
pub(crate) unsafe fn removed_at(folder: c_int, path: *const c_char) {
    let Some(recorder) = RECORDER.get() else { return };
    // SAFETY: as the caller promises.
    let name = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    if folder == libc::AT_FDCWD || name.is_absolute() {
        // SAFETY: as the caller promises.
        return unsafe { removed(path) };
    }
    if let Ok(folder) = std::fs::read_link(format!("/proc/self/fd/{folder}")) {
        recorder.enter(6, 0, &folder.join(name), b"");
    }
}

/// A folder was made.
///
/// # Safety
/// It is a string.
pub(crate) unsafe fn made_folder(path: *const c_char) {
    let Some(recorder) = RECORDER.get() else { return };
    // SAFETY: as the caller promises.
    let path = unsafe { absolute(path) };
    recorder.enter(9, 0, &path, b"");
}
