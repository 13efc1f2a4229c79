//! The target that this binary is named after.
#![no_main]

use std::sync::LazyLock;

use fieldfare_fuzz::Target;
use fieldfare_fuzz::targets::target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| target(env!("CARGO_BIN_NAME")));

fuzz_target!(|bytes: &[u8]| {
    (TARGET.take)(bytes);
});
