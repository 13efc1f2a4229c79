//! Peers without a certificate: few at once, fewer from one address, and the oldest gives way.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use crate::peer::{PeerIdentity, SeenPeer};

/// How many peers without a certificate may be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrangersMax {
    /// In all.
    pub connected: usize,
    /// From one IPv4 address or one IPv6 network of 64 bits, which is what one subscriber has.
    pub of_one_address: usize,
}

/// Those who are connected, the oldest first.
#[derive(Debug)]
pub(crate) struct Strangers {
    most: StrangersMax,
    connected: Mutex<VecDeque<(IpAddr, SeenPeer)>>,
}

impl Strangers {
    pub(crate) fn new(most: StrangersMax) -> Self {
        Self {
            most,
            connected: Mutex::default(),
        }
    }

    /// Lets one more in. Where there are too many, the oldest of its address or of all is hung up on; whether one was.
    pub(crate) fn admit(&self, peer: &PeerIdentity) -> bool {
        let address = subscriber(peer.address().ip());
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.retain(|(_, seen)| seen.connected().is_some());
        let neighbours = connected.iter().filter(|(of, _)| *of == address).count();
        let oldest = if neighbours >= self.most.of_one_address.max(1) {
            connected.iter().position(|(of, _)| *of == address)
        } else {
            (connected.len() >= self.most.connected.max(1)).then_some(0)
        };
        let displaced = oldest.and_then(|oldest| connected.remove(oldest));
        connected.push_back((address, peer.seen()));
        drop(connected);
        if let Some(oldest) = displaced.as_ref().and_then(|(_, seen)| seen.connected()) {
            oldest.hang_up();
        }
        displaced.is_some()
    }
}

/// The part of an address that is as scarce as an IPv4 address.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}
