//! What must always hold (section 9 of the rules), each by its name, in two forms: over random histories, and over every order of events
//! of small fleets. The third form, whole instances that crash, is `tests/`: there 3 (the loader reads revocation anew) and 8 (`kill -9`)
//! have their outer halves. That each check can fail is shown by `src/docs/guards.md`.

use super::model::fleets;
use super::property;

/// Random histories for each invariant.
const CASES: u32 = 120;
/// States of each of the two fleets that are searched for each invariant.
const STATES: usize = 2_500;

macro_rules! invariants {
    ($($number:literal $name:ident),+ $(,)?) => {
        mod random {
            $(#[test] fn $name() {
                if let Err(e) = super::property::histories($number, super::CASES) { panic!("{e}") }
            })+
        }
        mod exhaustive {
            $(#[test] fn $name() {
                if let Err(e) = super::fleets::explore($number, super::STATES) { panic!("{e}") }
            })+
        }
    };
}

invariants! {
    1 invariant_01_at_most_max_unavailable_serving_nodes_are_out_of_service,
    2 invariant_02_a_step_begins_only_when_all_before_it_ended_on_evidence,
    3 invariant_03_a_revoked_bundle_is_named_to_nobody,
    4 invariant_04_generations_never_go_down_and_a_node_is_in_one_active_rollout,
    5 invariant_05_time_alone_brings_every_rollout_to_rest,
    6 invariant_06_pause_and_resume_restore_the_state_and_assign_nothing,
    7 invariant_07_replay_decides_the_same,
    8 invariant_08_what_is_stored_is_what_is_known,
    9 invariant_09_every_transition_has_exactly_one_fact,
    10 invariant_10_the_total_is_the_sum_of_the_buckets,
    11 invariant_11_at_an_end_nobody_is_desired_on_what_it_has_not_verified,
    12 invariant_12_a_lost_node_is_never_owed,
    13 invariant_13_nothing_automatic_repeats_a_failed_node,
}
