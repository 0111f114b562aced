//! What must always hold: of every state, and of every step from one state to the next.

use super::db::{Db, Holder};
use crate::id::*;
use crate::node::GateVerdict;
use crate::rollout::*;
use crate::time::Timestamp;

/// What breaks is named by its number in section 9 of the rules.
macro_rules! ensure {
    ($number:literal, $holds:expr, $($why:tt)+) => {
        if !$holds { return Err(format!("invariant {}: {}", $number, format!($($why)+))); }
    };
}

pub fn moves_nobody(m: &Member) -> bool {
    matches!(m.state, NodeState::Skipped { .. })
}

/// What holds of a rollout and the tables beside it, between any two decisions.
pub fn state(r: &Rollout, db: &Db) -> Result<(), String> {
    counters(r)?;
    ensure!(8, Rollout::load(r.rows()) == *r, "the indexes in memory differ from those rebuilt from the rows");
    ensure!(8, r.head.version == db.version, "version {} in memory, {} stored", r.head.version, db.version);
    reason(r)?;
    let h = &r.head;
    ensure!(
        6,
        (h.phase == Phase::Paused) == (h.phase != Phase::Completed && !h.causes.is_empty()),
        "causes {:?}",
        h.causes
    );
    for m in r.members.values() {
        let row = db.row(m.node);
        held(r, m, db)?;
        let live = h.phase.is_active() || h.phase == Phase::Completed;
        // Debts: exactly those of the owed, and of those owed their restore.
        let owes = match &m.state {
            NodeState::Owed => Some(false),
            NodeState::RollingBack { owed: true, .. } => Some(true),
            _ => None,
        };
        let debt = row.debt.filter(|d| d.ours).map(|d| d.restore);
        let taken_over = row.debt.is_some_and(|d| !d.ours) || (owes == Some(true) && !row.desired_by_us);
        ensure!(12, debt == owes || (owes.is_some() && taken_over), "{:?} owes {owes:?}, stored is {debt:?}", m.node);
        ensure!(12, m.state != NodeState::Owed || live, "an ended rollout owes {:?}", m.node);
        ensure!(12, m.state != NodeState::Owed || m.told != Told::Target, "{:?} is owed and assigned", m.node);
        // 11. At an end nothing unverified is desired on the bundle.
        let wants = row.desired_by_us && row.desired == Some(r.spec.bundle);
        let verified = matches!(m.state, NodeState::Verified { .. });
        let in_lane = h.phase == Phase::Completed && m.step.is_none() && m.state.in_flight();
        let named_by_others = matches!(m.state, NodeState::Skipped { reason } if reason.names_another());
        let was_verified = row.verified == row.desired;
        if h.phase.is_end() && wants {
            ensure!(
                11,
                verified || in_lane || named_by_others || was_verified,
                "{:?} ended desired on the bundle",
                m.node
            );
        }
        if row.desired_by_us && row.holder == Holder::Us {
            ensure!(4, m.weight == row.weight, "{:?}: weight {} known, {} stored", m.node, m.weight, row.weight);
        }
        if h.phase.is_end() && verified && m.told == Told::Target {
            ensure!(11, m.weight == FULL_WEIGHT, "{:?} is left at {} % of its traffic", m.node, m.weight);
        }
        if waits_back(m) {
            let fits = h.phase == Phase::RollingBack && r.spec.restarts && m.online && !m.health.is_bad();
            ensure!(1, fits, "{:?} waits to go back: {}, {:?}, online: {}", m.node, h.phase, m.health, m.online);
            // 5. What it waits for ends by itself, and there is no room for it.
            ensure!(5, going_back(r) > 0, "{:?} waits to go back, and nobody is under way", m.node);
            let free = back_limit(r).saturating_sub(h.unavailable);
            // A large portion is told a thousand at a time.
            let large = going_back(r) >= MAX_ASSIGN_PER_COMMIT as usize;
            ensure!(5, free == 0 || large, "{:?} waits to go back, and there is room for {free}", m.node);
        }
        if h.phase.is_end() {
            let open = !m.state.settled();
            let waits = h.phase == Phase::Completed && m.step.is_none();
            ensure!(11, !open || waits, "{:?} is open at the end: {:?}", m.node, m.state);
        }
    }
    Ok(())
}

/// Who is told anything is held, and an ended rollout holds only what its lane has under way.
fn held(r: &Rollout, m: &Member, db: &Db) -> Result<(), String> {
    let row = db.row(m.node);
    let on_its_way = m.state.in_flight() || (r.head.phase == Phase::RollingBack && is_restoring(m));
    ensure!(4, !on_its_way || row.holder == Holder::Us, "{:?} is {:?} and not held", m.node, m.state);
    if matches!(r.head.phase, Phase::Running | Phase::Paused) && !moves_nobody(m) {
        ensure!(4, row.holder == Holder::Us, "{:?} is a target and not held", m.node);
    }
    if row.holder == Holder::Us {
        ensure!(4, m.generation == row.generation, "{:?}: {} known, {} stored", m.node, m.generation, row.generation);
        ensure!(4, !r.head.phase.is_end() || m.state.in_flight(), "{:?} is held after the end", m.node);
        ensure!(4, r.head.phase != Phase::Pending, "{:?} is held before the start", m.node);
    }
    Ok(())
}

/// 10, and every other number that is kept incrementally.
fn counters(r: &Rollout) -> Result<(), String> {
    let h = &r.head;
    let mut counts = Counts::default();
    let (mut online, mut unavailable, mut failures, mut restoring, mut lane) = (0, 0, 0, 0, 0);
    let mut updating = 0;
    let mut open = vec![0u32; r.steps.len()];
    for m in r.members.values() {
        counts.total += 1;
        *counts.bucket(m.state.kind()) += 1;
        online += u32::from(m.online && !moves_nobody(m));
        unavailable += u32::from(is_unavailable(m));
        failures += u32::from(matches!(m.state, NodeState::Failed { .. }) && !m.accepted);
        restoring += u32::from(is_restoring(m));
        updating += u32::from((m.state.in_flight() && !m.first_config) || (is_restoring(m) && !waits_back(m)));
        lane += u32::from(m.step.is_none() && m.state.in_flight());
        if let Some(k) = m.step.filter(|_| !m.state.settled()) {
            open[k as usize] += 1;
        }
    }
    ensure!(10, h.counts == counts, "counts {:?}, recounted {counts:?}", h.counts);
    ensure!(10, h.counts.total == h.counts.sum(), "total {} is not the sum of the buckets", h.counts.total);
    let kept = (h.online, h.unavailable, h.failures, h.restoring, h.lane_open);
    let now = (online, unavailable, failures, restoring, lane);
    let unweighed = r.members.values().filter(|m| shift::is_unweighed(m)).count() as u32;
    ensure!(10, h.unweighed == unweighed, "{} have yet to take their weight, recounted {unweighed}", h.unweighed);
    ensure!(10, kept == now, "online, unavailable, failures, restoring, lane: {kept:?}, recounted {now:?}");
    ensure!(10, h.budget.updating == updating, "updating {}, recounted {updating}", h.budget.updating);
    for (s, open) in r.steps.iter().zip(open) {
        ensure!(10, s.open == open, "step {}: {} open, recounted {open}", s.index, s.open);
    }
    Ok(())
}

/// Exactly one reason, and one that fits the phase.
fn reason(r: &Rollout) -> Result<(), String> {
    let code = explain(r).code;
    let fits = match r.head.phase {
        Phase::Pending => matches!(code, "scheduled" | "awaiting_start" | "starting"),
        Phase::Running => matches!(
            code,
            "store_unavailable"
                | "artifact_unavailable"
                | "catch_up"
                | "no_reachable_target"
                | "max_unavailable"
                | "budget"
                | "step_in_progress"
                | "analysis"
                | "untouched_nodes"
                | "traffic"
        ),
        Phase::Paused => PauseCause::ALL.iter().any(|c| {
            r.head.causes.contains(c) && code == if *c == PauseCause::Presence { "presence_lost" } else { c.as_str() }
        }),
        Phase::RollingBack => code == "restoring",
        Phase::Completed | Phase::Failed | Phase::Cancelled | Phase::RolledBack => code == r.head.phase.as_str(),
    };
    ensure!(5, fits, "reason {code} while {}", r.head.phase);
    Ok(())
}

/// What holds of one decision: from `b` by `e` at `now` to `a`.
pub fn step(b: &Rollout, e: &Event, now: Timestamp, d: &Decision, a: &Rollout, db: &Db) -> Result<(), String> {
    limits(b, d, a)?;
    turns(b, e, d, a)?;
    order(d, a)?;
    unrevoked(d, a, db)?;
    for m in a.members.values() {
        let Some(old) = b.members.get(&m.node) else { continue };
        if old == m {
            continue;
        }
        evidence(b, old, m, e, now)?;
        // 12. A lost node is never owed; only a retry may begin anew.
        let retried = matches!(e, Event::Retry { .. } | Event::Resume { retry: true, .. });
        if m.state == NodeState::Owed && !retried {
            ensure!(12, !matches!(old.state, NodeState::Failed { .. }), "{:?} failed and is owed", m.node);
            let told = old.told == Told::Target && old.handed_over && old.state.in_flight();
            ensure!(12, !told, "{:?} was handed over and is owed", m.node);
        }
        ensure!(4, m.generation >= old.generation || !a.head.phase.is_active(), "{:?}: generation went down", m.node);
        // 13. Nothing automatic tries a failed node again.
        let failed = matches!(old.state, NodeState::Failed { reason, .. } if reason != FailReason::Lost);
        if failed && !retried {
            let stays = matches!(m.state.kind(), NodeStateKind::Failed | NodeStateKind::Skipped);
            let back = matches!(m.state.kind(), NodeStateKind::RollingBack);
            ensure!(13, stays || back, "{:?} failed and became {:?}", m.node, m.state);
        }
    }
    for m in assigned(d, a) {
        ensure!(13, !db.row(m.node).failed, "{:?} failed before and is assigned again", m.node);
    }
    facts(b, d, a)
}

/// 3. As far as the engine goes: after it has heard of a revocation it names the bundle to nobody.
fn unrevoked(d: &Decision, a: &Rollout, db: &Db) -> Result<(), String> {
    for c in &d.changes {
        if let Change::Desire { node, bundle: Some(b), .. } = c {
            // Who has verified it runs it: what is named anew is its full share of traffic.
            let runs = a.members.get(node).is_some_and(|m| matches!(m.state, NodeState::Verified { .. }));
            let revoked = db.revoked.contains(b) && !(runs && *b == a.spec.bundle);
            ensure!(3, !revoked, "{node:?} is told to run {b}, which is revoked");
        }
    }
    Ok(())
}

/// 1. No serving node is assigned beyond the limit.
fn limits(b: &Rollout, d: &Decision, a: &Rollout) -> Result<(), String> {
    let assigned: Vec<&Member> = assigned(d, a).collect();
    let Ledger { updating, capacity } = a.head.budget;
    let reserves = assigned.iter().any(|m| !m.first_config) && a.head.phase != Phase::RollingBack;
    ensure!(1, !reserves || capacity.is_none_or(|k| updating <= k), "{updating} are updating, granted {capacity:?}");
    let serving = |m: &&&Member| !m.health.is_bad() && !m.first_config;
    let was_serving =
        |m: &&&Member| b.members.get(&m.node).is_none_or(|o| !is_unavailable(o) || o.told == Told::Target);
    if !assigned.iter().filter(serving).any(|m| was_serving(&m)) {
        return Ok(());
    }
    let limit = match a.spec.max_unavailable {
        None | Some(crate::project::Amount::Count(0)) => return Ok(()),
        Some(amount) => amount.down(a.head.online, 1),
    };
    let exempt = assigned.iter().filter(|m| m.first_config).count() as u32;
    let out = a.head.unavailable - exempt;
    ensure!(1, out <= limit, "{out} online targets out of service, limit {limit}");
    Ok(())
}

/// 1. Where proxies restart, nobody who serves is told to go back beyond the limit. With no room at all it is one at a time.
fn turns(b: &Rollout, e: &Event, d: &Decision, a: &Rollout) -> Result<(), String> {
    let live_half = b.spec.strategy == StrategyKind::BlueGreen && b.head.step == 0;
    // A person who tries again does not wait, and what failed is out of service already.
    if !b.spec.restarts || a.head.phase != Phase::RollingBack || live_half || matches!(e, Event::Retry { .. }) {
        return Ok(());
    }
    let served = |m: &Member| {
        let runs_it = matches!(m.state, NodeState::Verified { .. } | NodeState::Activated { .. }) || waits_back(m);
        runs_it
            && m.told == Told::Target
            && !m.first_config
            && m.weight == FULL_WEIGHT
            && m.online
            && !m.health.is_bad()
    };
    let fails = |m: &Member| {
        let failed = |f: &Fact| matches!(f, Fact::NodeMoved { node, to: NodeStateKind::Failed, .. } if *node == m.node);
        d.facts.iter().any(failed)
    };
    let told = d.changes.iter().filter_map(|c| match c {
        Change::Desire { node, .. } => a.members.get(node).zip(b.members.get(node)),
        _ => None,
    });
    let told =
        told.filter(|(m, old)| m.online && !m.health.is_bad() && served(old) && !says_it_failed(e, old) && !fails(m));
    let told = told.filter(|(m, _)| is_restoring(m)).count();
    let (out, limit) = (a.head.unavailable, back_limit(a));
    let alone = told == 1 && going_back(a) == 1;
    ensure!(1, told == 0 || out <= limit || alone, "{told} told to go back, {out} out of service, limit {limit}");
    Ok(())
}

/// What `e` says of a node that goes back at once, in its turn or not.
fn says_it_failed(e: &Event, m: &Member) -> bool {
    match e {
        Event::Reports { reports } => {
            let fails = |s: &Said| matches!(s, Said::Failed { .. } | Said::Active { .. });
            reports.iter().any(|r| r.node == m.node && fails(&r.said))
        }
        Event::Gates { windows } => {
            let fails = |v: GateVerdict| matches!(v, GateVerdict::Fail | GateVerdict::Flapping);
            windows.iter().any(|w| w.node == m.node && fails(w.verdict))
        }
        _ => false,
    }
}

/// Told to go back, here, and not there yet.
fn going_back(r: &Rollout) -> usize {
    r.members.values().filter(|m| is_restoring(m) && !waits_back(m)).count()
}

/// `max_unavailable`; unset: the larger of the batch and a tenth.
fn back_limit(r: &Rollout) -> u32 {
    match r.spec.max_unavailable {
        None | Some(crate::project::Amount::Count(0)) => {
            r.spec.batch_size.up(r.head.planned.max(1)).max(r.head.online / 10).max(1)
        }
        Some(amount) => amount.down(r.head.online, 1),
    }
}

fn assigned<'a>(d: &'a Decision, a: &'a Rollout) -> impl Iterator<Item = &'a Member> {
    d.changes.iter().filter_map(|c| match c {
        // One that is verified runs it already: only its weight is another.
        Change::Desire { node, bundle, .. } if *bundle == Some(a.spec.bundle) => {
            a.members.get(node).filter(|m| !matches!(m.state, NodeState::Verified { .. }))
        }
        _ => None,
    })
}

/// 2. A step begins only when all before it have ended, and within the failures that are tolerated.
fn order(d: &Decision, a: &Rollout) -> Result<(), String> {
    let tolerated = a.spec.failure_threshold.down(a.head.planned, 0);
    for m in assigned(d, a) {
        ensure!(2, a.head.failures <= tolerated, "{:?} assigned beyond the failures that are tolerated", m.node);
        ensure!(2, m.attempt > 0 && m.state == NodeState::Assigned, "{:?} assigned and {:?}", m.node, m.state);
        let frozen = a.head.causes.contains(&PauseCause::Freeze) && !m.first_config;
        ensure!(2, !frozen, "{:?} assigned in a freeze", m.node);
        match a.head.phase {
            Phase::Running | Phase::Completed => {}
            other => return Err(format!("invariant 2: {:?} assigned while {other}", m.node)),
        }
        if let Some(k) = m.step {
            let ended = a.steps.iter().take(k as usize).all(|s| s.state == StepState::Completed && s.open == 0);
            ensure!(2, ended, "{:?} of step {k} assigned before an earlier step ended", m.node);
        }
    }
    Ok(())
}

/// 2. Who becomes verified was judged on data after activation, fresh, of this generation, for the whole soak.
fn evidence(b: &Rollout, old: &Member, new: &Member, e: &Event, now: Timestamp) -> Result<(), String> {
    if !matches!(new.state, NodeState::Verified { .. }) || matches!(old.state, NodeState::Verified { .. }) {
        return Ok(());
    }
    let NodeState::Activated { at, .. } = old.state else {
        return Err(format!("invariant 2: {:?} verified from {:?}", old.node, old.state));
    };
    let Event::Gates { windows } = e else {
        return Err(format!("invariant 2: {:?} verified by {}", old.node, e.name()));
    };
    let judge = &b.spec.judge;
    let proven = windows.iter().any(|w| {
        w.node == old.node
            && w.generation == old.generation
            && w.verdict == GateVerdict::Pass
            && w.first_pass.is_some_and(|t| t > at)
            && w.last_fresh > at
            && now.since(w.last_fresh) <= judge.freshness
            && w.soaked >= judge.soak
    });
    ensure!(2, proven, "{:?} verified without evidence", old.node);
    Ok(())
}

/// 2. A step of a canary, but the last, ends with an answer of its analysis that says so, or with a person's.
fn compared_before(d: &Decision, a: &Rollout) -> Result<(), String> {
    for f in &d.facts {
        let Fact::StepCompleted { step } = f else { continue };
        if a.spec.strategy != StrategyKind::Canary || *step + 1 >= a.steps.len() as u32 {
            continue;
        }
        let told = d.facts.iter().rev().find_map(|f| match f {
            Fact::Analysed { look } if look.step == *step => Some(look.outcome),
            _ => None,
        });
        let may = told.is_some_and(|o| {
            matches!(o, analysis::Outcome::Promote | analysis::Outcome::NoBaseline | analysis::Outcome::Overruled)
        });
        let known = a.head.analysis.is_some_and(|x| x.step == *step && x.done);
        ensure!(2, may || known, "step {step} ended, and its analysis said {told:?}");
    }
    Ok(())
}

/// 2. The half that is live is touched only when all traffic is on the other, as far as anybody there can take it.
fn shifted_before(d: &Decision, a: &Rollout) -> Result<(), String> {
    let ended = d.facts.iter().any(|f| matches!(f, Fact::StepCompleted { step: 0 }));
    if !ended || a.spec.strategy != StrategyKind::BlueGreen {
        return Ok(());
    }
    let verified = |m: &&Member| matches!(m.state, NodeState::Verified { .. }) && m.step == Some(0);
    for m in a.members.values().filter(verified) {
        ensure!(2, m.weight == FULL_WEIGHT, "{:?} still serves {} %", m.node, m.weight);
        ensure!(2, m.weighed || !m.online, "{:?} has not taken its weight", m.node);
    }
    Ok(())
}

/// 9. Every transition has its fact, and no fact is without its transition.
fn facts(b: &Rollout, d: &Decision, a: &Rollout) -> Result<(), String> {
    let mut at: std::collections::BTreeMap<NodeId, NodeStateKind> = Default::default();
    let mut others = 0;
    for f in &d.facts {
        let Fact::NodeMoved { node, from, to, .. } = f else {
            others += 1;
            continue;
        };
        let before = at.get(node).copied().or_else(|| b.members.get(node).map(|m| m.state.kind()));
        ensure!(9, before.is_none_or(|k| k == *from), "{node:?}: a fact from {from} where {before:?} was");
        at.insert(*node, *to);
    }
    for m in a.members.values() {
        let before = b.members.get(&m.node).map(|m| m.state.kind());
        let last = at.get(&m.node).copied().or(before);
        ensure!(9, last.is_none_or(|k| k == m.state.kind()), "{:?}: {last:?} told, {} is", m.node, m.state.kind());
    }
    compared_before(d, a)?;
    shifted_before(d, a)?;
    for (old, new) in b.steps.iter().zip(&a.steps) {
        let told = d.facts.iter().rev().find_map(|f| match f {
            Fact::StepStarted { step, .. } if *step == new.index => Some(StepState::Running),
            Fact::StepCompleted { step } if *step == new.index => Some(StepState::Completed),
            Fact::StepFailed { step, .. } if *step == new.index => Some(StepState::Failed),
            _ => None,
        });
        let reopened = new.state == StepState::Pending;
        ensure!(
            9,
            told.unwrap_or(old.state) == new.state || reopened,
            "step {}: {told:?} told, {} is",
            new.index,
            new.state
        );
    }
    ensure!(9, b.head.phase == a.head.phase || others > 0, "{} to {} without a fact", b.head.phase, a.head.phase);
    let ends = d.facts.iter().filter(|f| {
        matches!(f, Fact::Completed { .. } | Fact::Failed { .. } | Fact::Cancelled | Fact::RolledBack { .. })
    });
    ensure!(9, ends.count() <= 1, "more than one end in one decision");
    Ok(())
}

fn is_restoring(m: &Member) -> bool {
    matches!(m.state, NodeState::RollingBack { owed: false, .. })
}
