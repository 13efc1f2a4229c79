//! Downloads from servers that take their time.

use std::convert::Infallible;
use std::time::Duration;

use fieldfare_member::limits::DOWNLOAD_WINDOW;
use futures_util::{StreamExt, stream};

use super::*;

#[tokio::test(start_paused = true)]
async fn attack_a_download_of_a_byte_now_and_then_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (client, path) = (internet_client().unwrap(), folder.path().join("source.gguf"));
    let download = Download {
        client: &client,
        url: "https://hub.invalid/source.gguf".to_owned(),
        bearer: None,
        path: &path,
        expected: Expected::Anything,
    };
    let every = DOWNLOAD_SILENCE - Duration::from_secs(1);
    let bytes = stream::repeat(bytes::Bytes::from_static(b" ")).then(move |byte| async move {
        tokio::time::sleep(every).await;
        Ok::<_, Infallible>(byte)
    });
    let response = Response::from(http::Response::new(reqwest::Body::wrap_stream(bytes)));
    let begun = Instant::now();
    let mut pace = Pace::new(begun);
    let ended = download
        .receive(response, (0, 1 << 30), &mut pace, &mut |_, _| {})
        .await;
    assert!(matches!(ended, Ok(Ended::Broken(Broken::Trickles(_)))));
    assert!(begun.elapsed() < DOWNLOAD_WINDOW + every, "{:?}", begun.elapsed());
    assert!(download.received() > 0, "what came is kept");
}
