//! From one release to another and back: the order of steps, as a state machine without IO, clock or processes.
//!
//! Invariants (the tests crash it at every step): whatever happens, the end is a release that was proved to serve, or the one
//! before; the intent is on disk before anything is switched and leaves the disk only with the result; an intent that is found
//! at start without its marker means going back.

use crate::layout::Release;
use domain::{RolloutId, Timestamp};
use serde::{Deserialize, Serialize};

/// Times a step of going back, or the last record, is tried before it is given up. The shell pauses a second between.
const MAX_TRIES: u32 = 60;

/// What is going on, on disk while it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub target: Release,
    /// What served before, and will again if this fails.
    pub previous: Release,
    pub generation: u64,
    pub rollout: Option<RolloutId>,
    /// A signal is not enough for what differs.
    pub restart: bool,
    pub began: Timestamp,
    /// Set: it failed for this reason and is being undone.
    #[serde(default)]
    pub back: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// SIGHUP; a start when no proxy runs.
    Reload,
    Restart,
}

/// What the shell does next. It then calls [`Activation::done`] with how it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Put the intent on disk.
    Record(Intent),
    Switch(Release),
    Apply(Release, How),
    /// Wait until the release's marker answers from the right process.
    Prove(Release),
    /// Watch real and smoke requests for a while.
    Soak(Release),
    /// Put the result on disk, without the intent.
    Commit(Release),
    End(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Activated,
    /// Nothing was touched.
    NotBegun(String),
    /// The previous release serves again; `proved` says whether its marker was seen.
    FellBack {
        why: String,
        proved: bool,
        interrupted: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Record,
    Switch,
    Apply,
    Prove,
    Soak,
    Commit,
    BackRecord,
    BackSwitch,
    BackApply,
    BackProve,
    BackRestart,
    BackProveAgain,
    BackCommit,
    Ended,
}

#[derive(Clone, Debug)]
pub struct Activation {
    intent: Intent,
    phase: Phase,
    tries: u32,
    proved: bool,
    interrupted: bool,
    not_begun: Option<String>,
}

impl Activation {
    pub fn new(intent: Intent) -> Activation {
        Activation { intent, phase: Phase::Record, tries: 0, proved: true, interrupted: false, not_begun: None }
    }

    /// The agent (or its host) died in the middle. `marker`: the target is selected and its marker answers right now.
    pub fn recover(mut intent: Intent, marker: bool) -> Activation {
        let forward = marker && intent.back.is_none();
        let interrupted = intent.back.is_none();
        if !forward && intent.back.is_none() {
            intent.back = Some("the agent stopped in the middle of the activation".into());
        }
        let phase = if forward { Phase::Soak } else { Phase::BackRecord };
        Activation { intent, phase, tries: 0, proved: true, interrupted, not_begun: None }
    }

    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// It was cut off by a crash, and is not being undone for a reason of its own.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    pub fn next(&self) -> Do {
        let i = &self.intent;
        let how = if i.restart { How::Restart } else { How::Reload };
        match self.phase {
            Phase::Record | Phase::BackRecord => Do::Record(i.clone()),
            Phase::Switch => Do::Switch(i.target),
            Phase::Apply => Do::Apply(i.target, how),
            Phase::Prove => Do::Prove(i.target),
            Phase::Soak => Do::Soak(i.target),
            Phase::Commit => Do::Commit(i.target),
            Phase::BackSwitch => Do::Switch(i.previous),
            Phase::BackApply => Do::Apply(i.previous, how),
            Phase::BackRestart => Do::Apply(i.previous, How::Restart),
            Phase::BackProve | Phase::BackProveAgain => Do::Prove(i.previous),
            Phase::BackCommit => Do::Commit(i.previous),
            Phase::Ended => Do::End(self.outcome()),
        }
    }

    fn outcome(&self) -> Outcome {
        if let Some(why) = &self.not_begun {
            return Outcome::NotBegun(why.clone());
        }
        match &self.intent.back {
            None => Outcome::Activated,
            Some(why) => Outcome::FellBack { why: why.clone(), proved: self.proved, interrupted: self.interrupted },
        }
    }

    /// How the step that [`Activation::next`] named went.
    pub fn done(&mut self, result: Result<(), String>) {
        let tried = std::mem::take(&mut self.tries) + 1;
        self.phase = match (self.phase, result) {
            (Phase::Record, Ok(())) => Phase::Switch,
            (Phase::Record, Err(why)) => {
                self.not_begun = Some(why);
                Phase::Ended
            }
            (Phase::Switch, Ok(())) => Phase::Apply,
            (Phase::Apply, Ok(())) => Phase::Prove,
            (Phase::Prove, Ok(())) => Phase::Soak,
            (Phase::Soak, Ok(())) => Phase::Commit,
            (Phase::Switch | Phase::Apply | Phase::Prove | Phase::Soak, Err(why)) => {
                self.intent.back = Some(why);
                Phase::BackRecord
            }
            // If it cannot be written the old record stands, and that too means going back.
            (Phase::BackRecord, _) => Phase::BackSwitch,
            (Phase::BackSwitch, Ok(())) => Phase::BackApply,
            (Phase::BackApply, Ok(())) => Phase::BackProve,
            (Phase::BackApply, Err(_)) => Phase::BackRestart,
            (Phase::BackProve, Ok(())) => Phase::BackCommit,
            (Phase::BackProve, Err(_)) => Phase::BackRestart,
            (Phase::BackRestart, Ok(())) => Phase::BackProveAgain,
            (Phase::BackRestart | Phase::BackProveAgain, Err(_)) => {
                self.proved = false;
                Phase::BackCommit
            }
            (Phase::BackProveAgain, Ok(())) => Phase::BackCommit,
            (Phase::Commit | Phase::BackCommit, Ok(())) => Phase::Ended,
            // The disk is full, say. What serves does not change by that; the truth is written when it can be.
            (phase @ (Phase::Commit | Phase::BackCommit | Phase::BackSwitch), Err(_)) if tried < MAX_TRIES => {
                self.tries = tried;
                phase
            }
            (Phase::BackSwitch, Err(_)) => Phase::BackApply,
            (Phase::Commit | Phase::BackCommit | Phase::Ended, _) => Phase::Ended,
        };
    }

    /// The step is being tried again: the shell waits a second first.
    pub fn is_retry(&self) -> bool {
        self.tries > 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use domain::Digest;

    const OLD: Release = Release::Baseline;
    const NEW: Release = Release::Bundle(Digest([1; 32]));

    /// The host: what is on disk and what the proxy really serves.
    #[derive(Clone, Debug)]
    struct Host {
        intent: Option<Intent>,
        active: Release,
        link: Release,
        serves: Option<Release>,
        /// What is wrong with the new release.
        fault: Fault,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        None,
        /// A reload is ignored: the old goes on.
        Refused,
        /// The proxy dies of it.
        Kills,
        /// It serves, and its requests fail.
        Soak,
    }

    impl Host {
        fn new(fault: Fault) -> Host {
            Host { intent: None, active: OLD, link: OLD, serves: Some(OLD), fault }
        }

        fn act(&mut self, step: &Do) -> Result<(), String> {
            match step {
                Do::Record(i) => self.intent = Some(i.clone()),
                Do::Switch(r) => self.link = *r,
                Do::Apply(r, how) => {
                    assert_eq!(self.link, *r, "applied before it was selected");
                    if *how == How::Restart {
                        self.serves = None;
                    }
                    match self.fault {
                        Fault::Refused if *r == NEW && self.serves.is_some() => {}
                        Fault::Kills | Fault::Refused if *r == NEW => self.serves = None,
                        _ => self.serves = Some(*r),
                    }
                }
                Do::Prove(r) if self.serves == Some(*r) => {}
                Do::Prove(_) => return Err("no marker".into()),
                Do::Soak(_) if self.fault == Fault::Soak => return Err("errors".into()),
                Do::Soak(_) => {}
                Do::Commit(r) => {
                    assert_eq!(self.serves, Some(*r), "committed what does not serve");
                    self.active = *r;
                    self.intent = None;
                }
                Do::End(_) => unreachable!(),
            }
            Ok(())
        }
    }

    fn intent(restart: bool) -> Intent {
        let began = Timestamp::ZERO;
        Intent { target: NEW, previous: OLD, generation: 3, rollout: None, restart, began, back: None }
    }

    /// Runs to the end, or for `steps` steps.
    fn run(a: &mut Activation, host: &mut Host, steps: usize) -> Option<Outcome> {
        for _ in 0..steps {
            let step = a.next();
            if let Do::End(o) = step {
                return Some(o);
            }
            let result = host.act(&step);
            a.done(result);
        }
        if let Do::End(o) = a.next() { Some(o) } else { None }
    }

    fn settled(host: &Host, what: &str) {
        assert_eq!(host.intent, None, "{what}: {host:?}");
        assert_eq!((host.link, host.serves), (host.active, Some(host.active)), "{what}: {host:?}");
        if host.fault != Fault::None {
            assert_eq!(host.active, OLD, "{what}: {host:?}");
        }
    }

    #[test]
    fn a_good_release_is_activated_and_a_bad_one_taken_back() {
        for restart in [false, true] {
            for fault in [Fault::None, Fault::Refused, Fault::Kills, Fault::Soak] {
                let mut host = Host::new(fault);
                let outcome = run(&mut Activation::new(intent(restart)), &mut host, 100).unwrap();
                settled(&host, &format!("{fault:?} {restart}"));
                assert_eq!(outcome == Outcome::Activated, fault == Fault::None, "{outcome:?}");
                let clean = matches!(outcome, Outcome::FellBack { proved: true, interrupted: false, .. });
                assert_eq!(clean, fault != Fault::None, "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_crash_of_the_agent_at_any_step_ends_on_a_release_that_serves() {
        let mut crashes = 0;
        for restart in [false, true] {
            for fault in [Fault::None, Fault::Refused, Fault::Kills, Fault::Soak] {
                for first in 0..16 {
                    // The second crash comes while the first is being recovered from.
                    for second in 0..12 {
                        for (reboot, half) in [(false, false), (true, false), (false, true), (true, true)] {
                            let mut host = Host::new(fault);
                            let mut a = Activation::new(intent(restart));
                            for steps in [first, second] {
                                run(&mut a, &mut host, steps);
                                // Killed after the deed and before it was told.
                                let next = a.next();
                                if half && !matches!(next, Do::End(_)) {
                                    let _ = host.act(&next);
                                }
                                if reboot {
                                    // The proxy is started again from what is selected.
                                    host.serves = match (host.link, fault) {
                                        (NEW, Fault::Kills | Fault::Refused) => None,
                                        (r, _) => Some(r),
                                    };
                                }
                                let Some(left) = host.intent.clone() else { break };
                                crashes += 1;
                                let marker = host.link == left.target && host.serves == Some(left.target);
                                a = Activation::recover(left, marker);
                            }
                            if host.intent.is_some() {
                                run(&mut a, &mut host, 100).unwrap();
                            }
                            settled(&host, &format!("{fault:?} restart {restart} after {first} and {second} steps"));
                        }
                    }
                }
            }
        }
        assert!(crashes > 1_000, "{crashes}");
    }

    #[test]
    fn nothing_is_touched_when_the_intent_cannot_be_written() {
        let mut a = Activation::new(intent(false));
        assert!(matches!(a.next(), Do::Record(_)));
        a.done(Err("no space left".into()));
        assert_eq!(a.next(), Do::End(Outcome::NotBegun("no space left".into())));
    }

    #[test]
    fn a_result_that_cannot_be_written_is_tried_again_and_does_not_undo_what_serves() {
        let mut host = Host::new(Fault::None);
        let mut a = Activation::new(intent(false));
        while !matches!(a.next(), Do::Commit(_)) {
            let step = a.next();
            let result = host.act(&step);
            a.done(result);
        }
        for _ in 0..3 {
            a.done(Err("no space left".into()));
            assert!(a.is_retry());
            assert_eq!(a.next(), Do::Commit(NEW));
        }
        run(&mut a, &mut host, 10);
        settled(&host, "after the disk had room again");
    }

    #[test]
    fn a_previous_release_that_no_longer_answers_is_restarted_once_and_then_said_to_be_unproved() {
        let mut a = Activation::new(intent(false));
        let mut steps = Vec::new();
        loop {
            let step = a.next();
            if let Do::End(o) = step {
                assert!(matches!(o, Outcome::FellBack { proved: false, .. }), "{o:?}");
                break;
            }
            let result = if matches!(step, Do::Prove(_)) { Err("no answer".into()) } else { Ok(()) };
            steps.push(step);
            a.done(result);
        }
        assert_eq!(steps.iter().filter(|s| **s == Do::Apply(OLD, How::Restart)).count(), 1, "{steps:?}");
        assert_eq!(steps.last(), Some(&Do::Commit(OLD)));
    }
}
