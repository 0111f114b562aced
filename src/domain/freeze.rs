//! Freeze windows: times in which nothing is changed, and whom they bind.

use crate::id::*;
use crate::time::Timestamp;
use std::collections::BTreeSet;
use uuid::Uuid;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    pub id: FreezeId,
    pub org: OrgId,
    /// `None` binds every project of the organisation.
    pub project: Option<ProjectId>,
    /// `None` binds every rollout; else those that have a target in this environment.
    pub environment: Option<Uuid>,
    pub name: String,
    pub reason: String,
    pub starts_at: Timestamp,
    /// `None`: until somebody ends it, the red button.
    pub ends_at: Option<Timestamp>,
    pub created_by: Option<Uuid>,
    pub inserted_at: Timestamp,
}

impl Freeze {
    pub fn holds(&self, now: Timestamp) -> bool {
        self.starts_at <= now && self.ends_at.is_none_or(|end| now < end)
    }

    pub fn binds_project(&self, org: OrgId, project: ProjectId) -> bool {
        self.org == org && self.project.is_none_or(|p| p == project)
    }
}

/// The first freeze that holds now for a rollout with targets in these environments. `overridden`: those that a person set aside
/// for this rollout; a later one holds all the same.
pub fn holding<'a>(
    freezes: impl IntoIterator<Item = &'a Freeze>,
    environments: &BTreeSet<Uuid>,
    overridden: &BTreeSet<FreezeId>,
    now: Timestamp,
) -> Option<&'a Freeze> {
    freezes
        .into_iter()
        .filter(|f| f.holds(now) && !overridden.contains(&f.id))
        .find(|f| f.environment.is_none_or(|e| environments.contains(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(n: u128, environment: Option<Uuid>, starts: i64, ends: Option<i64>) -> Freeze {
        Freeze {
            id: FreezeId(Uuid::from_u128(n)),
            org: OrgId::NIL,
            project: None,
            environment,
            name: "f".into(),
            reason: "r".into(),
            starts_at: Timestamp(starts),
            ends_at: ends.map(Timestamp),
            created_by: None,
            inserted_at: Timestamp(0),
        }
    }

    #[test]
    fn a_window_holds_from_its_start_up_to_its_end_and_a_hold_for_ever() {
        let f = freeze(1, None, 10, Some(20));
        let held: Vec<i64> = [9, 10, 19, 20].into_iter().filter(|t| f.holds(Timestamp(*t))).collect();
        assert_eq!(held, [10, 19]);
        assert!(freeze(1, None, 10, None).holds(Timestamp(i64::MAX)));
    }

    #[test]
    fn an_environments_freeze_binds_whoever_has_a_target_in_it() {
        let prod = Uuid::from_u128(7);
        let all = [freeze(1, Some(prod), 0, None)];
        let none = BTreeSet::new();
        assert!(holding(&all, &none, &BTreeSet::new(), Timestamp(5)).is_none());
        assert!(holding(&all, &[prod].into(), &BTreeSet::new(), Timestamp(5)).is_some());
    }

    #[test]
    fn an_override_sets_aside_what_was_there_and_not_what_comes_later() {
        let all = [freeze(1, None, 0, None), freeze(2, None, 50, None)];
        let overridden: BTreeSet<FreezeId> = [all[0].id].into();
        assert!(holding(&all, &BTreeSet::new(), &overridden, Timestamp(5)).is_none());
        let later = holding(&all, &BTreeSet::new(), &overridden, Timestamp(60)).map(|f| f.id);
        assert_eq!(later, Some(all[1].id));
    }

    #[test]
    fn a_freeze_of_another_project_binds_nobody_here() {
        let (a, b) = (ProjectId(Uuid::from_u128(1)), ProjectId(Uuid::from_u128(2)));
        let mut f = freeze(1, None, 0, None);
        assert!(f.binds_project(OrgId::NIL, a) && f.binds_project(OrgId::NIL, b));
        f.project = Some(a);
        assert!(f.binds_project(OrgId::NIL, a) && !f.binds_project(OrgId::NIL, b));
    }
}
