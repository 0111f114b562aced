//! What a simulated node believes: the node-side library of `bundle`, or nothing at all for pure load.
//!
//! Invariant: a [`Proof`] is made here only, and without one nothing is activated.

use crate::wire::Order;
use bundle::trust::{Assignment, Envelope};
use bundle::verify::{NodeTrust, verify_archive};
use domain::{ContentId, Digest, NodeId, Timestamp};

/// That the content of a bundle was checked, or that this node does not check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(Option<ContentId>);

impl Proof {
    /// Which content; `None` is the baseline, which the node always had.
    pub fn content(&self) -> Option<ContentId> {
        self.0
    }

    pub(crate) const BASELINE: Proof = Proof(None);

    /// For nodes that do not verify, and for transports of tests.
    pub fn unchecked(content: ContentId) -> Proof {
        Proof(Some(content))
    }
}

/// What the check of a download needs besides the bytes.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub assignment: Assignment,
    pub trust: NodeTrust,
}

impl Evidence {
    /// Every byte of `archive` accounted for. Errors say why not, with a stable code in front. CPU-bound: milliseconds.
    pub fn prove(&self, archive: &[u8]) -> Result<Proof, String> {
        let b = verify_archive(archive, &self.assignment, &self.trust).map_err(|r| format!("{}: {r}", r.code()))?;
        Ok(Proof(Some(b.manifest.bundle_id)))
    }
}

/// A node's trust. It believes the first root it is shown unless one is pinned: a simulated node guards nothing.
#[derive(Clone, Debug)]
pub enum Keeper {
    /// Takes every order as it is.
    Credulous,
    /// Enrolled, and no assignment seen yet: the project is learned from the first.
    Enrolled(Box<(Option<Digest>, Vec<Envelope>)>),
    Pinned(Box<NodeTrust>),
}

impl Keeper {
    /// `trust` is the registration's: an envelope or a list of them. Errors: it is neither.
    pub fn enrol(root: Option<Digest>, trust: &serde_json::Value) -> Result<Keeper, String> {
        let chain: Vec<Envelope> = match trust {
            serde_json::Value::Array(_) => serde_json::from_value(trust.clone()),
            one => serde_json::from_value(one.clone()).map(|e| vec![e]),
        }
        .map_err(|e| format!("malformed: trust document: {e}"))?;
        Ok(Keeper::Enrolled(Box::new((root, chain))))
    }

    /// Judges the signed assignment of an order, and that the answer around it says the same.
    ///
    /// Changes what is remembered only when it accepts. `None`: this node does not check.
    pub fn judge(&mut self, node: NodeId, order: &Order, now: Timestamp) -> Result<Option<Box<Evidence>>, String> {
        if matches!(self, Keeper::Credulous) {
            return Ok(None);
        }
        let value = order.assignment.clone().ok_or("malformed: the update carries no assignment")?;
        let envelope: Envelope = serde_json::from_value(value).map_err(|e| format!("malformed: assignment: {e}"))?;
        let coded = |r: bundle::Refusal| format!("{}: {r}", r.code());
        let mut trust = match self {
            Keeper::Credulous => return Ok(None),
            Keeper::Pinned(trust) => trust.clone(),
            Keeper::Enrolled(known) => {
                let (root, chain) = known.as_ref();
                let project = envelope.decode::<Assignment>().map_err(|e| format!("malformed: {e}"))?.project_id;
                let first = chain.first().ok_or("malformed: no trust document")?;
                let doc: bundle::trust::TrustDoc = first.decode().map_err(|e| format!("malformed: {e}"))?;
                let shown = doc.roles.root.keys.first().and_then(|k| Digest::parse(&k.key_id()));
                let root = root.or(shown).ok_or("malformed: the trust document lists no root")?;
                Box::new(NodeTrust::pin(root, chain, node, project, now).map_err(coded)?)
            }
        };
        let accepted = trust.accept_assignment(&envelope, now).map_err(coded)?;
        let a = &accepted.assignment;
        let same = a.generation == order.generation
            && a.bundle_id == order.bundle
            && a.artifact_hash == order.artifact_hash
            && order.traffic_weight.is_none_or(|w| w == a.traffic_weight);
        if !same {
            return Err("malformed: the answer contradicts its assignment".into());
        }
        trust.commit(&accepted);
        let evidence = Evidence { assignment: accepted.assignment, trust: (*trust).clone() };
        *self = Keeper::Pinned(trust);
        Ok(Some(Box::new(evidence)))
    }
}
