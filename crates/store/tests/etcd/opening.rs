//! Opening: whose keys these are, and what is said where there is no store.

use fieldfare_store::{List, Location, OpenError, Prefix, Store};

use super::{chain, etcd, key, location, open, prefix, put, server};

async fn refusal(location: &Location) -> OpenError {
    match Store::open(location).await {
        Ok(store) => panic!("{store:?} was opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let Some(server) = server() else { return };
    put(&open(&server.url()).await, "/a", "1").await;
    let mut etcd = etcd(&server.url()).await;
    for (schema, expected) in [
        ("2", "schema version 2, newer than 1"),
        ("99999999999", "newer than 1"),
        ("0", "not a Fieldfare store: its schema version is \"0\""),
        ("one", "not a Fieldfare store: its schema version is \"one\""),
    ] {
        let revision = etcd.put("/fieldfare.schema", schema, None).await.unwrap();
        let error = refusal(&location(&server.url())).await.to_string();
        assert!(error.contains(expected) && error.contains(&server.url()), "{error}");
        let after = etcd.get("/", None).await.unwrap();
        assert_eq!(
            after.header().unwrap().revision(),
            revision.header().unwrap().revision()
        );
    }
    etcd.put("/fieldfare.schema", "1", None).await.unwrap();
    assert_eq!(
        open(&server.url()).await.get(&key("/a")).await.unwrap().unwrap().value,
        "1"
    );
}

#[tokio::test]
async fn keys_of_something_else_are_refused_and_left_alone() {
    let Some(server) = server() else { return };
    let mut etcd = etcd(&server.url()).await;
    etcd.put("/fieldfare/v1/acme/x", "not ours", None).await.unwrap();
    let error = refusal(&location(&server.url())).await;
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error:?}");
    assert!(
        error.to_string().contains("1 keys lie there, and no /fieldfare.schema"),
        "{error}"
    );
    assert_eq!(etcd.get("/", None).await.unwrap().header().unwrap().revision(), 2);
    // Beside it there is room.
    put(&open(&format!("{}?prefix=/fieldfare-2", server.url())).await, "/a", "1").await;
}

/// Stores of other prefixes, one of which begins with the other, and keys that are none: nobody sees what is not theirs.
#[tokio::test]
async fn stores_of_one_etcd_do_not_see_each_other() {
    let Some(server) = server() else { return };
    let (one, two) = (
        open(&format!("{}?prefix=/fleet", server.url())).await,
        open(&format!("{}?prefix=/fleet-2", server.url())).await,
    );
    let mut watch = one.watch(&Prefix::root(), one.revision().await.unwrap()).await.unwrap();
    put(&two, "/v1/a", "two").await;
    let mut etcd = etcd(&server.url()).await;
    for stranger in ["/fleet/", "/fleet//x", "/fleet/\u{7}", "/fleetx", "/other"] {
        etcd.put(stranger, "stranger", None).await.unwrap();
    }
    etcd.put(b"/fleet/v1/\xFF".to_vec(), "stranger", None).await.unwrap();
    let at = put(&one, "/v1/b", "one").await;
    assert_eq!(watch.next().await.unwrap().revision, at);
    let listing = one.list_all(&Prefix::root()).await.unwrap();
    let names: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(names, ["/v1/b"]);
    let page = one.list(List::under(&Prefix::root()).limit(1)).await.unwrap();
    assert_eq!(page.entries.len(), 1, "a page of strangers only was given out");
    assert_eq!(two.list_all(&prefix("/v1/")).await.unwrap().entries[0].value, "two");
}

#[tokio::test]
async fn an_etcd_that_does_not_answer_is_named_with_what_to_do() {
    let address = fieldfare_etcd_process::own_address();
    let nobody = location(&format!("http://{address}:2379"));
    let asked = tokio::time::Instant::now();
    let error = refusal(&nobody).await;
    assert!(matches!(error, OpenError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&format!(
            "etcd:http://{address}:2379 does not answer: check that etcd runs there"
        )),
        "{text}"
    );
    assert!(
        asked.elapsed() < 2 * fieldfare_store::limits::ETCD_OPEN_BUDGET,
        "{:?}",
        asked.elapsed()
    );
    assert!(chain(&error).contains("refused"), "{}", chain(&error));

    // Something answers, and it is no etcd.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail.example ESMTP\r\n").await;
        }
    });
    let error = refusal(&location(&format!("http://{address}"))).await;
    assert!(
        matches!(error, OpenError::Unreachable { .. } | OpenError::Etcd { .. }),
        "{error:?}"
    );
    answering.abort();
}

#[tokio::test]
async fn two_that_open_a_new_store_at_once_share_it() {
    let Some(server) = server() else { return };
    let url = server.url();
    let (one, two) = tokio::join!(open(&url), open(&url));
    let at = put(&one, "/a", "1").await;
    assert_eq!(two.get(&key("/a")).await.unwrap().unwrap().modified, at);
}
