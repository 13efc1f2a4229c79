//! Death at a chosen call.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Calls at which a process can be made to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Sync,
    Rename,
    Send,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    Within,
    After,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: Kind,
    call: u64,
    when: When,
}

static PLAN: OnceLock<Plan> = OnceLock::new();
static CALLS: AtomicU64 = AtomicU64::new(0);

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
    let Some(text) = take(c"FIELDFARE_FAULT") else { return };
    let mut parts = text.split(':');
    let kind = match parts.next() {
        Some("sync") => Kind::Sync,
        Some("rename") => Kind::Rename,
        Some("send") => Kind::Send,
        _ => std::process::abort(),
    };
    let Some(call) = parts.next().and_then(|call| call.parse().ok()) else {
        std::process::abort()
    };
    let when = match parts.next() {
        Some("before") => When::Before,
        Some("within") => When::Within,
        Some("after") => When::After,
        _ => std::process::abort(),
    };
    let _ = PLAN.set(Plan { kind, call, when });
}

/// What happens at this call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Death(Option<When>);

/// Counts a call, and says whether it is the last one.
pub(crate) fn at(kind: Kind) -> Death {
    let planned = PLAN.get().filter(|plan| plan.kind == kind);
    Death(planned.and_then(|plan| (CALLS.fetch_add(1, Ordering::SeqCst) + 1 == plan.call).then_some(plan.when)))
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
