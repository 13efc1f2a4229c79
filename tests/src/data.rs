//! Real models and texts, kept outside the repository.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The folder of shared test data: `FIELDFARE_TEST_DATA`, or `../shared/data` beside the checkout.
///
/// `None`, with a line that says so, where it is missing; with `CI=true` that is a failure.
///
/// # Panics
/// In CI, when the folder is missing.
#[allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests read their configuration, and say what they skip, here only"
)]
pub fn shared(test: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let folder = std::env::var("FIELDFARE_TEST_DATA").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    let missing = format!("{} is missing; set FIELDFARE_TEST_DATA", folder.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: {missing}");
    println!("skipped: {test}: {missing}");
    None
}

/// Text messages by sender, in the corpus' order, of the NUS SMS corpus (2015.03.09).
///
/// # Panics
/// When the archive is not what it was.
pub fn sms_by_sender(data: &Path) -> BTreeMap<String, Vec<String>> {
    let path = data.join("text/nus_sms/smsCorpus_en_xml_2015.03.09_all.zip");
    let file = std::fs::File::open(&path).expect("the SMS corpus");
    let mut archive = zip::ZipArchive::new(file).expect("a zip archive");
    let mut xml = String::new();
    archive
        .by_index(0)
        .expect("one file")
        .read_to_string(&mut xml)
        .expect("UTF-8");
    let mut senders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in xml.split("<message ").skip(1) {
        let (Some(text), Some(sender)) = (element(message, "text"), element(message, "srcNumber")) else {
            continue;
        };
        // Sender "0" stands for everybody unknown.
        if sender != "0" && !text.trim().is_empty() {
            senders.entry(sender).or_default().push(text);
        }
    }
    senders
}

/// Content of the first element of this name, with the five predefined entities resolved.
fn element(xml: &str, name: &str) -> Option<String> {
    let rest = &xml[xml.find(&format!("<{name}>"))? + name.len() + 2..];
    let content = &rest[..rest.find(&format!("</{name}>"))?];
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    Some(entities.iter().fold(content.to_owned(), |text, (entity, character)| {
        text.replace(entity, character)
    }))
}
