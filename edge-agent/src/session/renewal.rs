//! Keeping the certificate current: renewed at half its life, and also when it has expired within the controller's grace.

use fieldfare_tls::{IdentityHandle, TimeSource};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use crate::clock;
use crate::config::AgentConfig;
use crate::enrolment::renew;
use crate::folder::Folder;
use crate::limits::RENEWAL_CHECK;
use crate::process;

/// Looks at the certificate again and again, and renews it when it is time, until it is told to stop.
pub async fn keep_certificate(
    folder: Folder,
    config: AgentConfig,
    identity: IdentityHandle,
    time: TimeSource,
    stop: CancellationToken,
) {
    let gateways = config.gateways().unwrap_or_default();
    let mut backoff = Backoff::default();
    let mut turn = 0_usize;
    loop {
        let mut wait = RENEWAL_CHECK;
        if identity.current().needs_renewal(time.now())
            && let Some(gateway) = gateways.get(turn % gateways.len().max(1))
        {
            match renew(&folder, &identity, gateway, &time).await {
                Ok(renewed) => {
                    backoff.succeeded();
                    tracing::info!(until = %renewed.certificate().validity.not_after(), "the certificate was renewed");
                }
                Err(error) => {
                    tracing::warn!(error = process::chain(&error), "the certificate cannot be renewed yet");
                    turn = turn.wrapping_add(1);
                    wait = backoff.failed(clock::jitter());
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}
