//! The committed generated code is what the `.proto` files generate. `FIELDFARE_BLESS=1 cargo test -p fieldfare-proto-codegen` renews it.

use std::{fs, path::Path};

const FILES: [&str; 8] = [
    "fieldfare/v1/domain.proto",
    "fieldfare/v1/enrolment.proto",
    "fieldfare/v1/device.proto",
    "fieldfare/v1/rounds.proto",
    "fieldfare/v1/trainer.proto",
    "fieldfare/v1/operator.proto",
    "fieldfare/v1/state.proto",
    "fieldfare/v1/audit.proto",
];

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "the switch that renews the files is read here only"
)]
fn generated_code_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let descriptors = protox::compile(FILES, [root.join("proto")]).expect("the .proto files compile");

    let out = tempfile::tempdir().expect("a temporary folder");
    tonic_prost_build::configure()
        .out_dir(out.path())
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())
        .expect("the descriptors generate");
    let code = fs::read_to_string(out.path().join("fieldfare.v1.rs")).expect("generated code");
    let descriptor_bytes = prost::Message::encode_to_vec(&descriptors);

    let committed_code = root.join("src/generated/fieldfare.v1.rs");
    let committed_descriptors = root.join("src/generated/fieldfare.v1.descriptors");
    if std::env::var("FIELDFARE_BLESS").is_ok() {
        fs::write(&committed_code, &code).expect("the code is written");
        fs::write(&committed_descriptors, &descriptor_bytes).expect("the descriptors are written");
    }
    let hint = "renew it with FIELDFARE_BLESS=1 cargo test -p fieldfare-proto-codegen";
    assert!(
        fs::read_to_string(&committed_code).is_ok_and(|old| old == code),
        "generated code is stale: {hint}"
    );
    assert!(
        fs::read(&committed_descriptors).is_ok_and(|old| old == descriptor_bytes),
        "descriptors are stale: {hint}"
    );
}
