//! GGUF files that are cut off or hostile: refused by name, by everything that reads one.

use crate::binary::{Home, MODEL_FILE};

const HEADER: &[u8] = b"GGUF\x03\0\0\0";

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A header with these counts, and bytes behind it.
fn counted(tensors: u64, metadata: u64, rest: &[u8]) -> Vec<u8> {
    [HEADER, &tensors.to_le_bytes(), &metadata.to_le_bytes(), rest].concat()
}

/// One metadata entry of a kind, by its number.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key), &kind.to_le_bytes()[..], value].concat()
}

const ARRAY: u32 = 9;
const STRING: u32 = 8;
const U32: u32 = 4;

#[tokio::test]
async fn the_header_alone_is_enough() {
    let home = Home::new();
    let plans = home.json(&format!("plan {MODEL_FILE} --context-tokens 256")).await;
    assert_eq!(plans[0]["model"], "farm-alert-f16");
    let devices = plans[0]["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 5);
    assert!(devices.iter().all(|device| device["chosen"] == "f16"), "{plans}");
}

#[tokio::test]
async fn a_truncated_file_is_refused_by_name() {
    let home = Home::new();
    let whole = std::fs::read(MODEL_FILE).unwrap();
    for length in [0, 3, 4, 7, 8, 23, 24, 40, 1000, 10_000] {
        let file = home.write("cut.gguf", &whole[..length]);
        home.fails(1, &format!("plan {file}"), &["cut.gguf", "because: GGUF: "])
            .await;
    }
    // With the whole header, a plan needs no weights.
    let plan = |file: &str| format!("plan {file} --context-tokens 256");
    let of_all = home.json(&plan(MODEL_FILE)).await;
    let cut = home.write("cut.gguf", &whole[..whole.len() / 2]);
    assert_eq!(home.json(&plan(&cut)).await[0]["devices"], of_all[0]["devices"]);
}

#[tokio::test]
async fn metadata_that_no_decoder_has_or_that_its_tensors_belie_are_refused() {
    let home = Home::new();
    let whole = std::fs::read(MODEL_FILE).unwrap();
    for (key, value, expected) in [
        ("llama.embedding_length", 1 << 31, "no usable model"),
        (
            "llama.feed_forward_length",
            1 << 31,
            "llama.feed_forward_length is 2147483648, expected 1 to 1048576",
        ),
        ("llama.feed_forward_length", 4096, "and its tensors have"),
        ("llama.block_count", 900, "no usable model"),
    ] {
        let key: &str = key;
        let at = whole
            .windows(key.len())
            .position(|bytes| bytes == key.as_bytes())
            .unwrap();
        let mut patched = whole.clone();
        // A key is followed by the type of its value, which is U32.
        let at = at + key.len();
        assert_eq!(patched[at..at + 4], U32.to_le_bytes());
        patched[at + 4..at + 8].copy_from_slice(&u32::to_le_bytes(value));
        let file = home.write("patched.gguf", &patched);
        home.fails(1, &format!("plan {file}"), &["patched.gguf", expected])
            .await;
    }
}

#[tokio::test]
async fn a_plan_says_what_an_import_could_not_read() {
    const F16: u32 = 1;
    const IQ4_NL: u32 = 20;
    let home = Home::new();
    let mut patched = std::fs::read(MODEL_FILE).unwrap();
    let name = b"blk.0.attn_q.weight";
    let at = patched.windows(name.len()).position(|bytes| bytes == name).unwrap();
    // A name is followed by the number of dimensions, two of them, and the type.
    let at = at + name.len() + 4 + 2 * 8;
    assert_eq!(patched[at..at + 4], F16.to_le_bytes());
    patched[at..at + 4].copy_from_slice(&IQ4_NL.to_le_bytes());
    let plan = home.ok(&format!("plan {}", home.write("iq4.gguf", &patched))).await;
    assert!(plan.contains("blk.0.attn_q.weight has the format IQ4_NL"), "{plan}");
}

#[tokio::test]
async fn a_hostile_file_is_refused_by_name_and_costs_nothing() {
    let home = Home::new();
    let all = u64::MAX.to_le_bytes();
    let alignment = |value: u32| entry("general.alignment", U32, &value.to_le_bytes());
    let nested: Vec<u8> = (0..1000)
        .flat_map(|_| [&ARRAY.to_le_bytes()[..], &1_u64.to_le_bytes()].concat())
        .collect();
    let tensor = |dimensions: u32, size: u64| {
        let sizes: Vec<u8> = (0..dimensions).flat_map(|_| size.to_le_bytes()).collect();
        [
            &string("t"),
            &dimensions.to_le_bytes()[..],
            &sizes,
            &0_u32.to_le_bytes(),
            &0_u64.to_le_bytes(),
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("the file begins with", b"GGML\x03\0\0\0".to_vec()),
        ("version 99", b"GGUF\x63\0\0\0".to_vec()),
        ("number of tensors", counted(u64::MAX, 0, &[])),
        ("number of metadata entries", counted(0, u64::MAX, &[])),
        ("length of the key", counted(0, 1, &all)),
        ("length of", counted(0, 1, &entry("a", STRING, &all))),
        (
            "metadata a",
            counted(0, 1, &entry("a", ARRAY, &[&U32.to_le_bytes()[..], &all].concat())),
        ),
        (
            "metadata a",
            counted(
                0,
                1,
                &entry(
                    "a",
                    ARRAY,
                    &[&STRING.to_le_bytes()[..], &(4_u64 << 20).to_le_bytes()].concat(),
                ),
            ),
        ),
        ("metadata a", counted(0, 1, &entry("a", ARRAY, &nested))),
        ("metadata a", counted(0, 1, &entry("a", 77, &[]))),
        (
            "twice",
            counted(0, 2, &[entry("a", U32, &[0; 4]), entry("a", U32, &[0; 4])].concat()),
        ),
        ("general.alignment", counted(0, 1, &alignment(0))),
        ("general.alignment", counted(0, 1, &alignment(3))),
        ("general.alignment", counted(0, 1, &alignment(1 << 30))),
        ("tensor", counted(1, 0, &tensor(99, 1))),
        ("tensor", counted(1, 0, &tensor(4, u64::MAX))),
        ("tensor", counted(1, 0, &tensor(4, 1 << 31))),
    ];
    for (says, bytes) in cases {
        let file = home.write("hostile.gguf", bytes);
        home.fails(1, &format!("plan {file}"), &["hostile.gguf", "because: GGUF: ", says])
            .await;
    }
}

#[tokio::test]
async fn a_sound_file_without_a_model_names_what_is_missing() {
    let home = Home::new();
    let empty = home.write("empty.gguf", counted(0, 0, &[]));
    home.fails(1, &format!("plan {empty}"), &["empty.gguf", "general.architecture"])
        .await;
    let other = entry("general.architecture", STRING, &string("mamba"));
    let other = home.write("mamba.gguf", counted(0, 1, &other));
    home.fails(1, &format!("plan {other}"), &["mamba.gguf", "mamba"]).await;
    let folder = home.path("").to_str().unwrap().to_owned();
    home.fails(1, &format!("plan {folder}"), &["is no file"]).await;
}
