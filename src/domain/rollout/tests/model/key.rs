//! What distinguishes two states of the model: everything the engine can tell apart, with times as ages.

use super::super::check::moves_nobody;
use super::super::db::{Holder, id};
use super::{State, UNIT};
use crate::id::BundleId;
use crate::rollout::*;
use crate::time::{Span, Timestamp};
use std::hash::{DefaultHasher, Hasher};

/// Ages are told apart up to this many units: the deadlines of the model's specifications are two.
const OLD: i64 = 3;

/// A silence older than this is judged, and counts for nothing else: the stale time is one unit.
const OLD_SILENCE: u8 = 2;

pub fn of(s: &State) -> u128 {
    let mut bytes = Vec::with_capacity(256);
    write(s, &mut bytes);
    let half = |seed: u8| {
        let mut h = DefaultHasher::new();
        h.write_u8(seed);
        h.write(&bytes);
        h.finish()
    };
    u128::from(half(1)) << 64 | u128::from(half(2))
}

fn write(s: &State, out: &mut Vec<u8>) {
    let h = &s.r.head;
    let age = |t: Timestamp| ((s.now.0 - t.0).clamp(0, OLD * UNIT.0) / UNIT.0) as u8;
    let since = |t: Option<Timestamp>| t.map_or(255, age);
    out.push(h.phase as u8);
    out.push(h.causes.iter().fold(0, |set, c| set | 1 << (*c as u8)));
    out.push(h.waits.len() as u8 | (s.db.revoked.len() as u8) << 4);
    out.push(h.step as u8);
    out.push(u8::from(h.lane_halted) | u8::from(h.clock.ticking_since.is_some()) << 1 | u8::from(h.revoked) << 2);
    // Silences up to this moment count no more; those from before the last stale time do not count anyway.
    out.push(h.silent_window.map(|w| age(w.0)).filter(|a| *a < OLD_SILENCE).unwrap_or(255));
    // What is reserved follows from the members.
    out.push(h.budget.capacity.map_or(255, |k| k as u8));
    out.push(since(h.rollback_since));
    out.push(since(h.asked));
    // Due or not, and how soon: late timers are states of their own.
    out.push(h.wake_at.map_or(255, |t| ((t.0 - s.now.0).clamp(-UNIT.0, OLD * UNIT.0) / UNIT.0 + 1) as u8));
    if let Some(a) = &h.analysis {
        out.push(a.step as u8 | a.looks << 3 | u8::from(a.done) << 7);
        out.push(a.last.map_or(255, |l| l.outcome as u8));
        out.push(((h.clock.read(s.now).0 - a.since.0).clamp(0, OLD * UNIT.0) / UNIT.0) as u8);
    }
    if let Some(x) = &h.shift {
        out.extend([x.weight, x.stage as u8, u8::from(x.cursor.is_some())]);
        out.push(((h.clock.read(s.now).0 - x.since.0).clamp(0, OLD * UNIT.0) / UNIT.0) as u8);
    }
    for step in &s.r.steps {
        out.push(step.state as u8 | u8::from(step.handed_over) << 3);
        out.push(step.cursor as u8);
    }
    let clock = h.clock.read(s.now);
    for n in 1..=s.db.rows.len() as u32 {
        let row = s.db.row(id(n));
        let flags = [
            row.desired_by_us,
            row.handed_over == row.generation,
            row.failed,
            row.verified == row.desired,
            row.running == row.desired,
            row.online,
            row.health.is_bad(),
        ];
        out.push(bits(&flags));
        out.push(which(row.desired));
        out.push(which(row.running));
        out.push(match row.holder {
            Holder::Nobody => 0,
            Holder::Us => 1,
            Holder::Another => 2,
        });
        out.push(row.debt.map_or(0, |d| 1 | u8::from(d.ours) << 1 | u8::from(d.restore) << 2));
        let Some(m) = s.r.members.get(&id(n)) else {
            out.push(255);
            continue;
        };
        member(m, clock, &age, out);
        out.push(u8::from(m.generation == row.generation));
    }
}

fn member(m: &Member, clock: Span, age: &impl Fn(Timestamp) -> u8, out: &mut Vec<u8>) {
    out.push(m.state.kind() as u8);
    match &m.state {
        NodeState::Activated { at, soaks_until } => {
            out.push(age(*at).min(1));
            out.push(soaks_until.map_or(255, |t| ((t.0 - clock.0).clamp(0, OLD * UNIT.0) / UNIT.0) as u8));
        }
        NodeState::Failed { reason, .. } => out.push(*reason as u8),
        NodeState::Skipped { reason } => out.push(*reason as u8),
        NodeState::RollingBack { to, activated, owed } => {
            out.push(which(*to));
            out.push(activated.map_or(255, |t| age(t).min(1)));
            out.push(u8::from(*owed));
        }
        NodeState::Pending
        | NodeState::Assigned
        | NodeState::Downloaded
        | NodeState::Staged
        | NodeState::Verified { .. }
        | NodeState::Owed
        | NodeState::RolledBack { .. }
        | NodeState::RollbackFailed { .. } => {}
    }
    out.push(match m.told {
        Told::Nothing => 0,
        Told::Target => 1,
        Told::Back(None) => 2,
        Told::Back(Some(_)) => 3,
    });
    out.push(m.step.map_or(255, |k| k as u8));
    out.push(bits(&[m.online, m.health.is_bad(), m.handed_over, m.accepted, m.first_config, moves_nobody(m)]));
    out.push(m.previous.len() as u8);
    out.extend([m.weight, u8::from(m.weighed)]);
    // A deadline matters only while the member is on its way.
    let idle =
        if m.state.in_flight() || !m.weighed { (clock.0 - m.moved.0).clamp(0, OLD * UNIT.0) / UNIT.0 } else { 0 };
    out.push(idle as u8);
    out.push(m.silent_since.map_or(255, |t| age(t).min(OLD_SILENCE)));
}

fn bits(flags: &[bool]) -> u8 {
    flags.iter().enumerate().fold(0, |set, (i, on)| set | u8::from(*on) << i)
}

fn which(bundle: Option<BundleId>) -> u8 {
    bundle.map_or(255, |b| b.0.as_u128() as u8)
}
