//! Environments: parts of a fleet that have rules of their own. One owns a selector, and binds every rollout with a target in it.

use crate::approval::Policy;
use crate::id::*;
use crate::node::{Labels, Selector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use uuid::Uuid;

/// What an environment asks of rollouts that reach into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnvironmentSettings {
    pub approval_required: bool,
    /// Different people; at least 1 when approval is required.
    pub approvals_needed: u32,
}

impl EnvironmentSettings {
    pub fn policy(&self) -> Policy {
        Policy { required: self.approval_required, needed: self.approvals_needed }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Environment {
    pub id: Uuid,
    pub name: String,
    pub slug: String,
    pub selector: Selector,
    pub settings: EnvironmentSettings,
}

/// The environments that a rollout with these targets reaches into.
pub fn reached<'a>(
    environments: &[Environment],
    targets: impl Iterator<Item = (NodeId, &'a Labels, &'a BTreeSet<String>)> + Clone,
) -> BTreeSet<Uuid> {
    environments
        .iter()
        .filter(|e| targets.clone().any(|(id, labels, groups)| e.selector.matches(id, labels, groups)))
        .map(|e| e.id)
        .collect()
}

/// The most that the project and any of these environments ask for.
pub fn people_needed(project: Policy, environments: &[Environment], reached: &BTreeSet<Uuid>) -> u32 {
    let asked = environments.iter().filter(|e| reached.contains(&e.id)).map(|e| e.settings.policy().people());
    asked.chain([project.people()]).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(n: u128, label: &str, needed: u32) -> Environment {
        Environment {
            id: Uuid::from_u128(n),
            name: label.into(),
            slug: label.into(),
            selector: Selector::Labels { labels: Labels::from([("env".to_string(), label.to_string())]) },
            settings: EnvironmentSettings { approval_required: needed > 0, approvals_needed: needed },
        }
    }

    #[test]
    fn one_target_inside_is_enough_and_the_strictest_rule_counts() {
        let all = [environment(1, "prod", 2), environment(2, "test", 0)];
        let labels = |v: &str| Labels::from([("env".to_string(), v.to_string())]);
        let (prod, test, none) = (labels("prod"), labels("test"), BTreeSet::new());
        let reach = |of: &[&Labels]| reached(&all, of.iter().map(|l| (NodeId::NIL, *l, &none)));
        assert_eq!(reach(&[&test]), [all[1].id].into());
        assert_eq!(reach(&[&test, &prod]), [all[0].id, all[1].id].into());
        let project = Policy { required: true, needed: 1 };
        assert_eq!(people_needed(project, &all, &reach(&[&test])), 1);
        assert_eq!(people_needed(project, &all, &reach(&[&test, &prod])), 2);
        assert_eq!(people_needed(Policy::default(), &all, &BTreeSet::new()), 0);
    }
}
