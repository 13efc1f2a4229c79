//! Loaded before the C library (`LD_PRELOAD`) into a process under test, which is then the very binary that ships.
//!
//! `FIELDFARE_FAULT_PLAN=FILE` is where a test writes what the process dies of, now or later: `NUMBER KIND:N:WHEN NUMBER`, where a new
//! number is a new plan. It is then killed with SIGKILL at its N-th call (from 1, over all threads, since it saw the plan) of a kind:
//! `sync` (fsync, fdatasync), `rename`, or `send` (bytes to a socket). WHEN is `before`, `after`, or for sends `within`: half of the
//! bytes have left then. Every such call is a line with its kind in `FIELDFARE_FAULT_TRACE=FILE`. `FIELDFARE_FAULT_RECORD=FILE` and
//! `FIELDFARE_FAULT_FOLDER=DIR` write down every change of files below DIR, in order, for a test to replay as much of it as a power
//! loss might have left; see [`record`].
//!
//! `FIELDFARE_FAULT_SLOW_SYNC_MS=N` lets every sync take N milliseconds longer.
//!
//! `FIELDFARE_FAULT_READER=TEXT+TEXT...:N,...` kills a process whose first argument is `serve`, N milliseconds after it opened a file
//! whose path contains one of the texts: it is for the children of the process, and stays in the environment.
//!
//! The other variables are taken out of the environment at once: the children of the process are not meant.
#![allow(
    unsafe_code,
    reason = "calls of the C library are taken over and passed on; each block says why it is sound"
)]
#![allow(clippy::missing_safety_doc, reason = "the contracts are those of POSIX")]

mod fault;
mod next;
mod reader;
mod record;

use libc::{c_char, c_int, c_void, iovec, msghdr, off_t, size_t, ssize_t};

use fault::Kind;
use next::next;

/// Runs before `main`: the dynamic loader calls what is listed in this section.
#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    fault::take_plan();
    record::take_plan();
    reader::read_plan();
}

fn is_socket(fd: c_int) -> bool {
    // SAFETY: all zeroes is a `stat`, and fstat writes no more than one.
    unsafe {
        let mut facts: libc::stat = std::mem::zeroed();
        libc::fstat(fd, &raw mut facts) == 0 && facts.st_mode & libc::S_IFMT == libc::S_IFSOCK
    }
}

/// POSIX `fsync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    synced(fd, c"fsync")
}

/// POSIX `fdatasync`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    synced(fd, c"fdatasync")
}

fn synced(fd: c_int, name: &'static std::ffi::CStr) -> c_int {
    let death = fault::at(Kind::Sync);
    death.before();
    fault::dawdle();
    // SAFETY: both calls have this signature, and any number may be handed to them as a descriptor.
    let result = unsafe { next::<unsafe extern "C" fn(c_int) -> c_int>(name)(fd) };
    if result == 0 {
        record::synced(fd);
    }
    death.after();
    result
}

/// POSIX `rename`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let death = fault::at(Kind::Rename);
    death.before();
    // SAFETY: the caller's pointers are passed on as they are.
    let result = unsafe { next::<unsafe extern "C" fn(*const c_char, *const c_char) -> c_int>(c"rename")(from, to) };
    if result == 0 {
        // SAFETY: the C library has just read both as strings.
        unsafe { record::renamed(from, to) };
    }
    death.after();
    result
}

/// POSIX `linkat`: what the standard library makes hard links with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn linkat(
    from_folder: c_int,
    from: *const c_char,
    to_folder: c_int,
    to: *const c_char,
    flags: c_int,
) -> c_int {
    type Link = unsafe extern "C" fn(c_int, *const c_char, c_int, *const c_char, c_int) -> c_int;
    let death = fault::at(Kind::Rename);
    death.before();
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { next::<Link>(c"linkat")(from_folder, from, to_folder, to, flags) };
    if result == 0 {
        // SAFETY: the C library has just read both as strings.
        unsafe { record::linked(from, to) };
    }
    death.after();
    result
}

/// POSIX `unlink`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's pointer is passed on as it is.
    let result = unsafe { next::<unsafe extern "C" fn(*const c_char) -> c_int>(c"unlink")(path) };
    if result == 0 {
        // SAFETY: the C library has just read it as a string.
        unsafe { record::removed(path) };
    }
    result
}

/// POSIX `rmdir`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's pointer is passed on as it is.
    let result = unsafe { next::<unsafe extern "C" fn(*const c_char) -> c_int>(c"rmdir")(path) };
    if result == 0 {
        // SAFETY: the C library has just read it as a string.
        unsafe { record::removed(path) };
    }
    result
}

/// POSIX `unlinkat`: what the standard library empties folders with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    type Unlink = unsafe extern "C" fn(c_int, *const c_char, c_int) -> c_int;
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { next::<Unlink>(c"unlinkat")(folder, path, flags) };
    if result == 0 {
        // SAFETY: the C library has just read it as a string.
        unsafe { record::removed_at(folder, path) };
    }
    result
}

/// POSIX `mkdir`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { next::<unsafe extern "C" fn(*const c_char, libc::mode_t) -> c_int>(c"mkdir")(path, mode) };
    if result == 0 {
        // SAFETY: the C library has just read it as a string.
        unsafe { record::made_folder(path) };
    }
    result
}

/// POSIX `send`: what the standard library writes to a stream with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(fd: c_int, buffer: *const c_void, length: size_t, flags: c_int) -> ssize_t {
    type Send = unsafe extern "C" fn(c_int, *const c_void, size_t, c_int) -> ssize_t;
    // SAFETY: the type of `send`.
    let call = unsafe { next::<Send>(c"send") };
    let death = fault::at(Kind::Send);
    death.before();
    if death.is_within() {
        // SAFETY: half of the caller's buffer is within it.
        unsafe { call(fd, buffer, length / 2, flags) };
        fault::die();
    }
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { call(fd, buffer, length, flags) };
    death.after();
    result
}

/// POSIX `sendmsg`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    let death = fault::at(Kind::Send);
    death.before();
    // SAFETY: the caller's arguments are passed on as they are.
    let result =
        unsafe { next::<unsafe extern "C" fn(c_int, *const msghdr, c_int) -> ssize_t>(c"sendmsg")(fd, message, flags) };
    death.after();
    result
}

/// POSIX `writev`, which the standard library uses for sockets and for files.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the type of `writev`.
    let call = unsafe { next::<unsafe extern "C" fn(c_int, *const iovec, c_int) -> ssize_t>(c"writev") };
    if !is_socket(fd) {
        let place = record::end_of(fd);
        // SAFETY: the caller's arguments are passed on as they are.
        let result = unsafe { call(fd, parts, count) };
        // SAFETY: the C library has just read that many bytes from these parts.
        unsafe { record::wrote_parts(fd, place, parts, count, result) };
        return result;
    }
    let death = fault::at(Kind::Send);
    death.before();
    if death.is_within() && count > 0 {
        // SAFETY: the first part is one of the caller's.
        unsafe { call(fd, parts, 1) };
        fault::die();
    }
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { call(fd, parts, count) };
    death.after();
    result
}

/// POSIX `write`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buffer: *const c_void, length: size_t) -> ssize_t {
    let place = record::end_of(fd);
    // SAFETY: the caller's arguments are passed on as they are.
    let result =
        unsafe { next::<unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t>(c"write")(fd, buffer, length) };
    // SAFETY: the C library has just read that many bytes from the buffer.
    unsafe { record::wrote(fd, place, buffer, result) };
    result
}

/// POSIX `pwrite`, under the name that it has where offsets are 64 bits wide.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, buffer: *const c_void, length: size_t, offset: off_t) -> ssize_t {
    type Write = unsafe extern "C" fn(c_int, *const c_void, size_t, off_t) -> ssize_t;
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { next::<Write>(c"pwrite64")(fd, buffer, length, offset) };
    // SAFETY: the C library has just read that many bytes from the buffer.
    unsafe { record::wrote(fd, Some(offset), buffer, result) };
    result
}

/// POSIX `ftruncate`, under the name that it has where offsets are 64 bits wide.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    // SAFETY: the caller's arguments are passed on as they are.
    let result = unsafe { next::<unsafe extern "C" fn(c_int, off_t) -> c_int>(c"ftruncate64")(fd, length) };
    if result == 0 {
        record::resized(fd, length);
    }
    result
}

/// POSIX `open`, under the name that it has where offsets are 64 bits wide.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: libc::mode_t) -> c_int {
    // SAFETY: the caller hands over a string, as `open` asks.
    unsafe { reader::opens(path) };
    // SAFETY: `open` reads a third argument only where its flags say that there is one; passing one always is what every
    // calling convention of Linux allows.
    let result =
        unsafe { next::<unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int>(c"open64")(path, flags, mode) };
    if result >= 0 {
        record::opened(result, flags);
    }
    result
}
