//! Death of whoever reads a certain file, at once or later.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::time::Duration;

use libc::c_char;

use crate::fault;

/// Texts in paths, and how long whoever reads such a file lives.
static PLAN: OnceLock<Vec<(String, Duration)>> = OnceLock::new();

/// Takes note of the variable, in a process that serves.
pub(crate) fn read_plan() {
    if std::env::args().nth(1).as_deref() != Some("serve") {
        return;
    }
    let name = c"FIELDFARE_FAULT_READER";
    // SAFETY: this runs before `main`, in the only thread; what is found is copied at once.
    let text = unsafe {
        let value = libc::getenv(name.as_ptr());
        if value.is_null() {
            return;
        }
        CStr::from_ptr(value).to_string_lossy().into_owned()
    };
    let mut plan = Vec::new();
    for part in text.split(',') {
        let Some((texts, time)) = part.split_once(':') else {
            std::process::abort()
        };
        let Ok(time) = time.parse() else { std::process::abort() };
        plan.extend(
            texts
                .split('+')
                .map(|text| (text.to_owned(), Duration::from_millis(time))),
        );
    }
    let _ = PLAN.set(plan);
}

/// A file is about to be opened.
///
/// # Safety
/// `path` is a string.
pub(crate) unsafe fn opens(path: *const c_char) {
    let Some(plan) = PLAN.get() else { return };
    // SAFETY: as the caller promises.
    let path = unsafe { CStr::from_ptr(path) }.to_string_lossy();
    let Some((_, time)) = plan.iter().find(|(text, _)| path.contains(text.as_str())) else {
        return;
    };
    if time.is_zero() {
        fault::die();
    }
    let time = *time;
    std::thread::spawn(move || {
        std::thread::sleep(time);
        fault::die();
    });
}
