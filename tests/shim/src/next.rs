//! The calls that were taken over, as the C library has them.

use std::ffi::{CStr, c_void};

/// The C library's own function of this name.
///
/// # Safety
/// `F` is the type of a function pointer, the one that POSIX gives the function.
pub(crate) unsafe fn next<F: Copy>(name: &CStr) -> F {
    const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
    // SAFETY: the name is a string, and RTLD_NEXT means whoever comes after this library.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if found.is_null() {
        // Without the real call the process cannot go on, and there is nobody to tell.
        std::process::abort();
    }
    // SAFETY: an address that is not null, read as the pointer that the caller says it is.
    unsafe { std::mem::transmute_copy(&found) }
}
