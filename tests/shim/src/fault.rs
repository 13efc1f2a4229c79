//! Death at a chosen call.

use std::ffi::CStr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use libc::{c_char, c_int, c_void};

use crate::next::next;

/// A plan is no longer than this.
const PLAN_BYTES: usize = 128;

/// Calls at which a process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sync,
    Rename,
    Send,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        match name {
            "sync" => Some(Self::Sync),
            "rename" => Some(Self::Rename),
            "send" => Some(Self::Send),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    Within,
    After,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Another number is another plan.
    number: u64,
    kind: Kind,
    call: u64,
    when: When,
}

/// Descriptor of the file with the plan.
static PLAN: OnceLock<c_int> = OnceLock::new();
/// Descriptor of the file that every call is entered in.
static TRACE: OnceLock<c_int> = OnceLock::new();
/// The number of the plan that is under way, and calls of its kind since.
static CALLS: Mutex<(u64, u64)> = Mutex::new((0, 0));

/// Takes a variable out of the environment.
pub(crate) fn take(name: &CStr) -> Option<String> {
    // SAFETY: this runs before `main`, in the only thread.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        if value.is_null() {
            return None;
        }
        let text = CStr::from_ptr(value).to_string_lossy().into_owned();
        libc::unsetenv(name.as_ptr());
        Some(text)
    }
}

static SLOW_SYNC: OnceLock<Duration> = OnceLock::new();

/// Waits as long as a slow disk would.
pub(crate) fn dawdle() {
    if let Some(time) = SLOW_SYNC.get() {
        std::thread::sleep(*time);
    }
}

pub(crate) fn take_plan() {
    if let Some(text) = take(c"FIELDFARE_FAULT_SLOW_SYNC_MS") {
        let Ok(time) = text.parse() else { std::process::abort() };
        let _ = SLOW_SYNC.set(Duration::from_millis(time));
    }
    let append = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND;
    for (variable, flags, descriptor) in [
        (c"FIELDFARE_FAULT_PLAN", libc::O_RDONLY, &PLAN),
        (c"FIELDFARE_FAULT_TRACE", append, &TRACE),
    ] {
        if let Some(path) = take(variable) {
            let _ = descriptor.set(open(path, flags));
        }
    }
}

fn open(path: String, flags: c_int) -> c_int {
    type Open = unsafe extern "C" fn(*const c_char, c_int, ...) -> c_int;
    let path = std::ffi::CString::new(path).unwrap_or_default();
    // SAFETY: the path is a string.
    let opened = unsafe { next::<Open>(c"open64")(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    if opened < 0 {
        std::process::abort();
    }
    opened
}

/// The plan of now, if it is one of this library's.
fn plan() -> Option<Plan> {
    let mut text = [0_u8; PLAN_BYTES];
    // SAFETY: the buffer is as long as is said.
    let length = unsafe { libc::pread(*PLAN.get()?, text.as_mut_ptr().cast(), text.len(), 0) };
    let text = std::str::from_utf8(text.get(..usize::try_from(length).ok()?)?).ok()?;
    let mut words = text.split_whitespace();
    let (number, plan, again) = (words.next()?, words.next()?, words.next()?);
    let mut parts = plan.split(':');
    let kind = Kind::named(parts.next()?)?;
    let call = parts.next()?.parse().ok()?;
    let when = match parts.next()? {
        "before" => When::Before,
        "within" => When::Within,
        "after" => When::After,
        _ => return None,
    };
    // A plan that is just being written has another number at its end.
    let number = number.parse().ok().filter(|_| number == again)?;
    Some(Plan {
        number,
        kind,
        call,
        when,
    })
}

fn trace(kind: Kind) {
    let Some(trace) = TRACE.get() else { return };
    type Write = unsafe extern "C" fn(c_int, *const c_void, usize) -> isize;
    let line = match kind {
        Kind::Sync => "sync\n",
        Kind::Rename => "rename\n",
        Kind::Send => "send\n",
    };
    // SAFETY: the buffer is the line's own. Whoever looks at it sees that a line is missing.
    unsafe { next::<Write>(c"write")(*trace, line.as_ptr().cast(), line.len()) };
}

/// What happens at this call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death(Option<When>);

/// Counts a call, and says whether it is the last one.
pub(crate) fn at(kind: Kind) -> Death {
    trace(kind);
    let Some(plan) = plan() else { return Death(None) };
    let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
    if calls.0 != plan.number {
        *calls = (plan.number, 0);
    }
    if plan.kind != kind {
        return Death(None);
    }
    calls.1 += 1;
    Death((calls.1 == plan.call).then_some(plan.when))
}

impl Death {
    pub(crate) fn before(self) {
        if self.0 == Some(When::Before) {
            die();
        }
    }

    pub(crate) fn is_within(self) -> bool {
        self.0 == Some(When::Within)
    }

    pub(crate) fn after(self) {
        if matches!(self.0, Some(When::After | When::Within)) {
            die();
        }
    }
}

/// Dies as by `kill -9`.
pub(crate) fn die() -> ! {
    // SAFETY: signalling oneself is always allowed, and SIGKILL does not return.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    loop {
        // SAFETY: waiting for a signal has no preconditions.
        unsafe { libc::pause() };
    }
}
