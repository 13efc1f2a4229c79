//! Connections to etcd.

use std::path::Path;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use crate::OpenError;
use crate::limits::{ETCD_CALL_TIMEOUT, ETCD_KEEP_ALIVE_INTERVAL, ETCD_KEEP_ALIVE_TIMEOUT};
use crate::location::{EtcdLocation, TlsFiles};

/// Makes connections, each to all the named servers.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    endpoints: Vec<String>,
    options: ConnectOptions,
}

impl Connector {
    /// Reads the certificates; connects to nothing yet.
    pub(super) async fn new(location: &EtcdLocation) -> Result<Connector, OpenError> {
        let options = ConnectOptions::new()
            .with_connect_timeout(ETCD_CALL_TIMEOUT)
            .with_keep_alive(ETCD_KEEP_ALIVE_INTERVAL, ETCD_KEEP_ALIVE_TIMEOUT)
            // etcd takes pings without a request under way for an attack.
            .with_keep_alive_while_idle(false)
            // A server without a leader says so, also on watches, instead of going quiet.
            .with_require_leader(true);
        let options = match &location.tls {
            None => options,
            Some(files) => options.with_tls(tls(files).await?),
        };
        Ok(Connector {
            endpoints: location.endpoints.clone(),
            options,
        })
    }

    /// A connection of its own, made at the first request.
    pub(super) async fn client(&self) -> Result<Client, etcd_client::Error> {
        Client::connect(&self.endpoints, Some(self.options.clone())).await
    }
}

async fn tls(files: &TlsFiles) -> Result<TlsOptions, OpenError> {
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&files.ca).await?));
    if let Some(client) = &files.client {
        tls = tls.identity(Identity::from_pem(
            read(&client.certificate).await?,
            read(&client.key).await?,
        ));
    }
    Ok(tls)
}

async fn read(path: &Path) -> Result<Vec<u8>, OpenError> {
    tokio::fs::read(path).await.map_err(|source| OpenError::File {
        path: path.to_owned(),
        source,
    })
}
