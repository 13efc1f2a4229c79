//! Getting the file, and finding out whether it is a model.

use std::sync::Arc;

use fieldfare_lm::config::DecoderConfig;
use fieldfare_lm::engine::{Engine, Mapping};
use fieldfare_lm::gguf::Gguf;
use fieldfare_proto::v1::{ImportStage, import_spec};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::{Import, Source, digest, hub::HubFile};
use crate::artifacts::ArtifactsError;
use crate::download::{Download, DownloadError, Downloaded, Expected};
use crate::failure::{WorkError, chain};
use crate::limits::{PROGRESS_INTERVAL, SOURCE_BYTES_MAX};

impl Import<'_> {
    /// Fetches and validates the source. A hostile or truncated file ends the job with what is wrong with it.
    pub(super) async fn source(&self) -> Result<Source, WorkError> {
        let (file, name) = self.fetch().await?;
        let shown = name.clone();
        let validated = self.workshop.compute.run(move |_| validate(file, name)).await;
        let validated = validated.map_err(WorkError::computing("reading the source"))?;
        validated.map_err(|problem| WorkError::Impossible(format!("{shown} cannot be imported: {problem}")))
    }

    async fn fetch(&self) -> Result<(Downloaded, String), WorkError> {
        let (told, progress) = watch::channel((0, 0));
        let tell = move |received, total| {
            told.send_replace((received, total));
        };
        tokio::select! {
            fetched = self.download(tell) => fetched,
            error = self.tell_progress(progress) => Err(error),
        }
    }

    async fn download(&self, progress: impl FnMut(u64, u64)) -> Result<(Downloaded, String), WorkError> {
        let path = self.folder.join("source.gguf");
        match &self.spec.source {
            Some(import_spec::Source::Uploaded(uploaded)) => {
                let sha256 = digest("uploaded", &uploaded.sha256)?;
                if uploaded.length_bytes > SOURCE_BYTES_MAX {
                    return Err(WorkError::Impossible(format!(
                        "the source has more than {SOURCE_BYTES_MAX} bytes"
                    )));
                }
                let fetched = self
                    .workshop
                    .artifacts
                    .fetch(sha256, uploaded.length_bytes, &path, progress)
                    .await;
                Ok((fetched?, uploaded.file_name.clone()))
            }
            Some(import_spec::Source::HubUri(uri)) => {
                let file: HubFile = uri.parse().map_err(WorkError::impossible("field `hub_uri`"))?;
                let hub = &self.workshop.hub;
                let url = file
                    .url(&hub.endpoint)
                    .map_err(WorkError::impossible("the hub's address"))?;
                let (client, bearer) = (&self.workshop.internet, hub.token.as_deref());
                let download = Download {
                    client,
                    url,
                    bearer,
                    path: &path,
                    expected: Expected::Anything,
                };
                Ok((download.run(progress).await.map_err(judge)?, uri.clone()))
            }
            None => Err(WorkError::Impossible("field `source` is missing".to_owned())),
        }
    }

    /// Tells the controller how far the download is, until that fails.
    async fn tell_progress(&self, mut progress: watch::Receiver<(u64, u64)>) -> WorkError {
        let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if progress.changed().await.is_err() {
                // The download is over and will say so itself.
                std::future::pending::<()>().await;
            }
            let (received, total) = *progress.borrow_and_update();
            tracing::info!(received, total, "fetching the source");
            if let Err(error) = self.checkpoint(ImportStage::Fetching, received, total).await {
                return error;
            }
        }
    }
}

/// Whether another attempt could succeed: what a foreign server says about its own file is final.
fn judge(error: DownloadError) -> WorkError {
    match error {
        DownloadError::File(_) => WorkError::from(ArtifactsError::from(error)),
        error => WorkError::Impossible(format!("the source cannot be fetched: {}", chain(&error))),
    }
}

fn validate(file: Downloaded, name: String) -> Result<Source, String> {
    let mapping = Arc::new(Mapping::open(&file.path).map_err(|error| error.to_string())?);
    let gguf = Gguf::parse(mapping.as_bytes()).map_err(|error| chain(&error))?;
    let config = DecoderConfig::from_gguf(&gguf).map_err(|error| chain(&error))?;
    // Everything that serving needs is looked at: tensors, vocabulary, chat template.
    Engine::load(Arc::clone(&mapping)).map_err(|error| chain(&error))?;
    Ok(Source {
        file,
        name,
        mapping,
        gguf,
        config,
    })
}
