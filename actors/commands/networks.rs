//! From where people sign in: who comes from where they came before is let past a flood of strangers.
//!
//! Owns: the pairs seen lately, in memory. Rebuilt from: `sign_in_networks`.

use crate::command::CommandResult;
use crate::plane::ControlPlane;
use dashmap::DashMap;
use domain::*;
use std::net::IpAddr;

/// Pairs in memory; about 60 bytes each. Those beyond are asked of the database.
const REMEMBERED: usize = 65_536;
/// A network not signed in from for so long is forgotten.
pub const KEEP_NETWORKS: Span = Span::secs(90 * 24 * 3600);

#[derive(Default)]
pub(crate) struct Networks(DashMap<(UserId, IpAddr), ()>);

/// One customer of an IPv6 network has at least a /64: counting single addresses there counts nothing.
pub fn network_of(address: IpAddr) -> IpAddr {
    shortened(address, 64)
}

/// What one site of IPv6 is given at most: its customers could use 65,536 networks in turn.
pub fn site_of(address: IpAddr) -> IpAddr {
    shortened(address, 48)
}

fn shortened(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & (u128::MAX << (128 - bits))).into()),
    }
}

impl ControlPlane {
    /// Did this person sign in from the network of this address before?
    pub(super) async fn came_from(&self, user: UserId, address: Option<IpAddr>) -> CommandResult<bool> {
        let Some(network) = address.map(network_of) else { return Ok(false) };
        if self.inner.keys.doorman().networks.0.contains_key(&(user, network)) {
            return Ok(true);
        }
        Ok(self.inner.store.knows_network(user, &network.to_string()).await?)
    }

    /// After a right password. A failure is only logged: the person is signed in.
    pub(super) async fn remember_network(&self, user: UserId, address: Option<IpAddr>) {
        let Some(network) = address.map(network_of) else { return };
        let known = &self.inner.keys.doorman().networks.0;
        if known.contains_key(&(user, network)) {
            return;
        }
        match self.inner.store.note_network(user, &network.to_string(), self.now()).await {
            Ok(()) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert((user, network), ());
            }
            Err(why) => tracing::debug!(%why, "the network of a sign-in was not noted"),
        }
    }
}
