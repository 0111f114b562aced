//! Exactly one primary reason in every state: what happens next, or what is awaited.

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Stable, for scripts.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

/// Why `r` is where it is.
pub fn explain(r: &Rollout) -> Reason {
    let open = r.steps.get(r.head.step as usize).map_or(0, |s| s.open);
    explain_head(&r.spec, &r.head, r.steps.len() as u32, open)
}

/// The same from the rows a list has: the head, the number of steps, and the open members of the current step.
pub fn explain_head(spec: &Spec, h: &Head, steps: u32, open: u32) -> Reason {
    let reason = |code, text: String| Reason { code, text };
    match h.phase {
        Phase::Pending => match spec.scheduled_at {
            Some(t) => reason("scheduled", format!("starts at {t}")),
            None if !spec.start => reason("awaiting_start", "waits for the command to start".into()),
            None => reason("starting", "starts at once".into()),
        },
        Phase::Running => {
            if let Some(w) = h.waits.first() {
                return reason(w.as_str(), format!("{}; deadlines stand still", blocker(*w)));
            }
            if h.asked.is_some() {
                let text = "too many nodes failed; before the change is taken back it is asked whether untouched ones fail too";
                return reason("untouched_nodes", text.into());
            }
            if h.step >= steps {
                return if h.lane_open > 0 {
                    reason("catch_up", format!("{} returned nodes are on their way", h.lane_open))
                } else {
                    reason(
                        "no_reachable_target",
                        "no target can be reached; the first to return is the next step".into(),
                    )
                };
            }
            if let Some(a) = h.analysis.filter(|a| a.step == h.step && !a.done && open == 0) {
                let text = match a.last {
                    Some(look) => look.describe(),
                    None => "waits for enough requests to compare new and old".to_string(),
                };
                return reason("analysis", text);
            }
            if let Some(s) = h.shift.filter(|_| h.step == 0 && open == 0) {
                let text = match h.unweighed {
                    0 if spec.blue_green.auto_advance => "is held for a while".to_string(),
                    0 => "waits for advance-traffic".to_string(),
                    n => format!("{n} nodes have yet to take it"),
                };
                return reason("traffic", format!("{} % of its traffic on the standby half: {text}", s.weight));
            }
            if open > 0 && h.counts.assigned == 0 && h.budget.is_full() {
                return reason(
                    "budget",
                    "other rollouts of the project use up max_updating; the next is assigned when they free some"
                        .into(),
                );
            }
            if open > 0 && h.counts.assigned == 0 {
                return reason(
                    "max_unavailable",
                    format!(
                        "{} of {} online targets are out of service; the next is assigned when one serves again",
                        h.unavailable, h.online
                    ),
                );
            }
            reason("step_in_progress", format!("step {} of {}: {open} nodes to go", h.step + 1, steps))
        }
        Phase::Paused => {
            // The gravest first.
            const ORDER: [PauseCause; 8] = [
                PauseCause::Controller,
                PauseCause::FleetWide,
                PauseCause::Gate,
                PauseCause::Presence,
                PauseCause::NoEvidence,
                PauseCause::Inconclusive,
                PauseCause::Freeze,
                PauseCause::Person,
            ];
            let cause = ORDER.into_iter().find(|c| h.causes.contains(c)).unwrap_or(PauseCause::Person);
            let note = h.note.clone().map(|n| format!(": {n}")).unwrap_or_default();
            let (code, text) = match cause {
                PauseCause::Controller => ("controller", "the control plane gave this rollout up"),
                PauseCause::FleetWide => ("fleet_wide", "untouched nodes fail too"),
                PauseCause::Gate => ("gate", "too many nodes failed"),
                PauseCause::Presence => ("presence_lost", "too many nodes went silent together"),
                PauseCause::NoEvidence => ("no_evidence", "no node has verified yet"),
                PauseCause::Inconclusive => ("inconclusive", "the analysis has too little data"),
                PauseCause::Freeze => ("freeze", "a freeze window holds"),
                PauseCause::Person => ("person", "paused by a person"),
            };
            reason(code, format!("{text}{note}"))
        }
        Phase::RollingBack => {
            // Those that were told hold a reservation, those that wait for their turn do not.
            let told = if spec.restarts { h.budget.updating.min(h.restoring) } else { h.restoring };
            let text = match h.restoring - told {
                0 => format!("{told} nodes are going back"),
                n => format!("{told} nodes are going back, {n} wait for their turn: their proxies must restart"),
            };
            reason("restoring", text)
        }
        Phase::Completed => reason("completed", completed(h)),
        Phase::Failed => reason("failed", h.note.clone().unwrap_or_else(|| "failed".into())),
        Phase::Cancelled => reason("cancelled", h.note.clone().unwrap_or_else(|| "cancelled".into())),
        Phase::RolledBack if h.counts.rollback_failed > 0 => {
            reason("rolled_back", format!("rolled back; {} nodes could not be restored", h.counts.rollback_failed))
        }
        Phase::RolledBack => reason("rolled_back", "every touched node was restored or is owed the restore".into()),
    }
}

fn blocker(w: Wait) -> &'static str {
    match w {
        Wait::Store => "the database does not answer",
        Wait::Artifact => "the bundle's archive cannot be read, or nodes would refuse it",
    }
}

/// What a completed rollout came to, and what becomes of those that its lane has yet to serve.
fn completed(h: &Head) -> String {
    let c = &h.counts;
    let mut text = match (c.owed, c.failed) {
        (0, 0) => "every target verified".to_string(),
        (0, failed) => format!("completed; {failed} nodes failed"),
        (owed, 0) => format!("completed; {owed} nodes are owed the bundle"),
        (owed, failed) => format!("completed; {owed} nodes are owed the bundle, {failed} failed"),
    };
    let to_serve = c.owed + c.pending + c.assigned > 0;
    match h.waits.first() {
        _ if h.lane_halted => text += "; catching up was stopped by its failures",
        Some(w) if to_serve => text += &format!("; catching up waits: {}, deadlines stand still", blocker(*w)),
        Some(_) | None => {}
    }
    text
}
