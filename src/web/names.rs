//! From row ids of bundles to what people know them by. A content id never changes, so what was found once is kept.

use crate::problem::Outcome;
use api::bundle::BundleBrief;
use dashmap::DashMap;
use domain::{BundleId, ContentId};
use std::collections::HashMap;
use store::Store;

/// Kept at once: 100,000 x about 100 bytes = 10 MB.
const MAX_KEPT: usize = 100_000;

#[derive(Clone, Debug)]
pub struct Name {
    pub content: ContentId,
    pub version: Option<String>,
}

#[derive(Default)]
pub struct Names {
    known: DashMap<BundleId, Name>,
}

/// The names of some bundles, for showing a page of something.
pub struct Named(HashMap<BundleId, Name>);

impl Named {
    /// The content id, or the row id of one that has none yet.
    pub fn text(&self, id: Option<BundleId>) -> Option<String> {
        id.map(|id| self.0.get(&id).map_or_else(|| id.to_string(), |n| n.content.to_string()))
    }

    pub fn version(&self, id: Option<BundleId>) -> Option<String> {
        id.and_then(|id| self.0.get(&id)).and_then(|n| n.version.clone())
    }
}

impl Names {
    /// One query for all that are not known yet.
    pub async fn of(&self, store: &Store, ids: impl IntoIterator<Item = BundleId>) -> Outcome<Named> {
        let mut found = HashMap::new();
        let mut missing = Vec::new();
        for id in ids {
            match self.known.get(&id) {
                Some(name) => {
                    found.insert(id, name.clone());
                }
                None => missing.push(id),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            if self.known.len() >= MAX_KEPT {
                self.known.clear();
            }
            for (facts, _) in store.bundle_facts(missing).await? {
                let Some(content) = facts.content_id else { continue };
                let name = Name { content, version: facts.version };
                // A version can still be given to a bundle that has none.
                if name.version.is_some() {
                    self.known.insert(facts.id, name.clone());
                }
                found.insert(facts.id, name);
            }
        }
        Ok(Named(found))
    }
}

pub fn brief(facts: &store::BundleFacts) -> BundleBrief {
    BundleBrief {
        id: facts.id,
        bundle_id: facts.content_id.map(|c| c.to_string()),
        version: facts.version.clone(),
        status: facts.status,
    }
}
