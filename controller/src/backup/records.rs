//! Where the records come from: the store, or the running controller that has it open.

use anyhow::{Context, Result, bail};
use fieldfare_proto::v1::operator_client::OperatorClient;
use fieldfare_proto::v1::{ExportRecordsRequest, ExportRecordsResponse, StoredRecord};
use fieldfare_store::{Entry, List, ListError, Location, OpenError, Store};
use fieldfare_tls::TimeSource;
use tonic::transport::Channel;

use crate::folder::{FleetFile, Folder};
use crate::keys::Keys;
use crate::local;
use crate::refusal::Refusal;

/// One page of the records below the tenant's keys, at the revision of the first page. What vanishes with a lease is left out.
///
/// # Errors
/// The token is none of this store's, or its revision is no longer kept.
pub async fn page(store: &Store, keys: &Keys, token: &str) -> Result<ExportRecordsResponse, Refusal> {
    let mut request = List::under(keys.root());
    if !token.is_empty() {
        let after = token
            .parse()
            .map_err(|_| Refusal::invalid("page_token", "is no token of a page"))?;
        request = request.after(after);
    }
    let page = store.list(request).await.map_err(|error| match error {
        ListError::Compacted { .. } => {
            Refusal::Stale("the records of that moment are no longer kept: begin anew".to_owned())
        }
        ListError::BadContinuation | ListError::ForeignContinuation { .. } => Refusal::invalid("page_token", error),
        error => error.into(),
    })?;
    let record = |entry: Entry| StoredRecord {
        key: entry.key.as_str().to_owned(),
        value: entry.value.to_vec(),
    };
    let lasting = page.entries.into_iter().filter(|entry| entry.lease.is_none());
    Ok(ExportRecordsResponse {
        records: lasting.map(record).collect(),
        next_page_token: page.next.map(|next| next.to_string()).unwrap_or_default(),
    })
}

/// Whoever has the records.
#[derive(Debug)]
pub enum Records {
    /// The store, which nobody else needs for itself.
    Store(Store),
    /// The controller that has the store open.
    Controller(Box<OperatorClient<Channel>>),
}

impl Records {
    /// Opens the fleet's store, or asks the controller that serves from the same folder where that has it open.
    ///
    /// # Errors
    /// There is no store, or it is in use and no controller answers.
    pub async fn open(
        folder: &Folder,
        fleet: &FleetFile,
        store: Option<&Location>,
        clock: &TimeSource,
    ) -> Result<Self> {
        let location = folder.store(store);
        if let Location::Embedded(file) = &location
            && !file.exists()
        {
            bail!("--store: there is no {}", file.display());
        }
        match Store::open(&location).await {
            Ok(store) => Ok(Self::Store(store)),
            Err(error @ OpenError::AlreadyOpen { .. }) => {
                let controller = local::controller(folder, fleet, clock).await;
                let controller = controller.with_context(|| format!("{error}; asking the controller that runs"))?;
                Ok(Self::Controller(Box::new(controller)))
            }
            Err(error) => Err(error).context("--store"),
        }
    }

    /// One page.
    ///
    /// # Errors
    /// The store or the controller does not answer, or the records changed too much since the first page.
    pub async fn page(&mut self, keys: &Keys, page_token: String) -> Result<ExportRecordsResponse> {
        match self {
            Self::Store(store) => Ok(page(store, keys, &page_token).await?),
            Self::Controller(api) => {
                let answer = api.export_records(ExportRecordsRequest { page_token }).await;
                Ok(answer.context("asking the controller for its records")?.into_inner())
            }
        }
    }

    /// Lets the store go.
    ///
    /// # Errors
    /// It did not finish.
    pub async fn close(self) -> Result<()> {
        match self {
            Self::Store(store) => store.close().await.context("closing the store"),
            Self::Controller(_) => Ok(()),
        }
    }
}
