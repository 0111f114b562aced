//! From a poll answer to an active bundle, and back when it fails.

use super::*;
use crate::scenario::{Moment, means};
use api::node::{PollAnswer, ReportAnswer};

impl Agent {
    pub(super) fn on_poll(&mut self, now: Timestamp, answer: PollAnswer, out: &mut Vec<Action>) {
        // A poll that was held to its end is repeated at once: the control plane has agreed to be waited on, and a
        // pause would be a time in which nothing can reach the node. One answered early (a draining or full instance,
        // or one that holds none) says when to come again.
        let wait = Span::secs(i64::from(self.profile.long_poll_s));
        let held = wait > Span::ZERO && now.since(self.poll_sent) + HELD_LEEWAY >= wait;
        let after = if held { Span::ZERO } else { Span::secs(i64::from(answer.poll_after_s)) };
        let spread = Span((after.0 as f64 * self.profile.jitter) as i64);
        let pause = after + self.dice.upto(spread);
        self.next_poll = (now + pause).max(self.poll_sent + MIN_POLL_GAP);
        match Order::read(answer) {
            Ok(None) => {}
            Ok(Some(order)) => {
                self.next_poll = self.next_poll.max(now + MIN_POLL_GAP);
                self.on_order(now, order, out);
            }
            Err(e) => {
                self.next_poll = self.retry_at(now, Lane::Poll, &e);
                out.push(Action::Note(Note::Misread(e.to_string())));
            }
        }
    }

    fn on_order(&mut self, now: Timestamp, order: Order, out: &mut Vec<Action>) {
        let Some(identity) = self.identity.clone() else { return };
        let here = now + self.behaviour.clock_skew;
        let evidence = match self.keeper.judge(identity.node, &order, here) {
            Ok(evidence) => evidence,
            Err(why) => return self.refuse(now, &order, why, out),
        };
        let says = (order.bundle, order.traffic_weight);
        if order.generation < self.accepted {
            let why = format!("stale_generation: {} is below the accepted {}", order.generation, self.accepted);
            return self.refuse(now, &order, why, out);
        }
        if order.generation == self.accepted && self.accepted > 0 {
            if says != self.desired {
                let why = format!("generation_reused: {} named something else before", order.generation);
                return self.refuse(now, &order, why, out);
            }
            let settled = self.failed_generation == order.generation || self.active == order.bundle;
            if self.work.is_some() || settled {
                out.push(Action::Note(Note::Repeated));
                // It asks again because it does not know: tell it.
                self.beat_now |= self.work.is_none();
                return;
            }
        }
        self.accepted = order.generation;
        self.desired = says;
        out.push(Action::Note(Note::Ordered {
            bundle: order.bundle,
            version: order.version.clone(),
            rollout: order.rollout,
            generation: order.generation,
        }));
        // A newer order ends the one in hand; its reports would only be called stale.
        self.work = None;
        self.outbox.retain(|o| o.generation >= order.generation);
        if self.dies(Moment::Handover, &order, now, out) {
            return;
        }
        if order.bundle == self.active {
            return self.keep(now, order, out);
        }
        let (at, staged) = match order.bundle {
            Some(_) => (At::Wanted { not_before: now, tries: 0 }, false),
            None => (At::Fetched { proof: Proof::BASELINE, until: now }, true),
        };
        self.work = Some(Box::new(Work { order: Box::new(order), evidence, received: now, at }));
        if staged {
            self.progress(now, out);
        }
    }

    /// The bundle runs already: a new weight, or a new generation for the same.
    fn keep(&mut self, now: Timestamp, order: Order, out: &mut Vec<Action>) {
        self.serve_until(now);
        if let Some(w) = order.traffic_weight
            && w != self.weight
        {
            self.weight = w;
            out.push(Action::Note(Note::WeightChanged(w)));
        }
        self.beat_now = true;
        self.report(now, &order, Report::Activated, None);
        if self.is_well() {
            self.report(now, &order, Report::Verified, None);
        }
        self.settle(now);
    }

    fn refuse(&mut self, now: Timestamp, order: &Order, why: String, out: &mut Vec<Action>) {
        self.report(now, order, Report::Failed, Some(&why));
        out.push(Action::Note(Note::Refused(why)));
    }

    /// Queues a report, as far as this node makes them.
    fn report(&mut self, now: Timestamp, order: &Order, report: Report, error: Option<&str>) {
        let made = match self.behaviour.reports {
            Reports::All => true,
            Reports::Brief => !matches!(report, Report::Downloaded | Report::Staged),
            Reports::None => false,
        };
        if !made {
            self.beat_now = true;
            self.untold = true;
            return;
        }
        let o = Outgoing {
            bundle: order.bundle,
            report,
            generation: order.generation,
            rollout: order.rollout,
            error: error.map(Into::into),
            due: now + self.behaviour.late_reports,
            tries: 0,
        };
        if self.behaviour.duplicate_reports {
            self.outbox.push_back(o.clone());
        }
        self.outbox.push_back(o);
    }

    pub(super) fn on_reported(
        &mut self,
        now: Timestamp,
        result: Result<ReportAnswer, CallError>,
        out: &mut Vec<Action>,
    ) {
        let Some(mut sent) = self.sending.take() else { return };
        let proceed = match result {
            Ok(a) => {
                if a.stale {
                    out.push(Action::Note(Note::Stale));
                }
                self.beat_now |= a.heartbeat_now;
                a.proceed
            }
            Err(e) => {
                sent.tries += 1;
                // One of an older generation would only be called stale.
                let current = sent.generation >= self.accepted;
                if current && !e.is_final() && sent.tries < MAX_REPORT_TRIES {
                    sent.due = self.retry_at(now, Lane::Report, &e);
                    self.outbox.push_front(sent);
                    return;
                }
                false
            }
        };
        if sent.report != Report::Staged {
            return;
        }
        let Some(w) = self.work.as_mut().filter(|w| w.order.generation == sent.generation) else { return };
        if let At::Asking { proof } = w.at {
            if proceed {
                w.at = At::Applying { proof, until: now + self.behaviour.apply_delay };
            } else {
                self.work = None;
                self.settle(now);
                self.next_poll = self.next_poll.max(self.poll_sent + MIN_POLL_GAP);
                out.push(Action::Note(Note::Withdrawn));
            }
        }
    }

    pub(super) fn on_fetched(&mut self, now: Timestamp, result: Result<Proof, FetchError>, out: &mut Vec<Action>) {
        // The answer of a download for the order before leaves this one wanted.
        let Some(w) = self.work.as_mut().filter(|w| w.order.generation == self.fetching) else { return };
        let At::Wanted { tries, .. } = w.at else { return };
        match result {
            Ok(proof) if proof.content() == w.order.bundle => {
                w.evidence = None;
                w.at = At::Fetched { proof, until: w.received + self.behaviour.download_delay };
            }
            Ok(_) => self.fail(now, "bundle_id: the download has other content".into(), out),
            Err(FetchError::Refused(why)) => {
                out.push(Action::Note(Note::Refused(why.clone())));
                self.fail(now, why, out);
            }
            Err(FetchError::Call(e)) if e.is_final() => self.fail(now, format!("download: {e}"), out),
            // No fault of the bundle: put down, as the real agent does; the next poll names it again, with a new address.
            Err(FetchError::Call(e)) if tries + 1 >= MAX_FETCHES => {
                self.next_poll = self.next_poll.max(self.retry_at(now, Lane::Fetch, &e));
                self.tries[Lane::Fetch as usize] = 0;
                self.work = None;
            }
            Err(FetchError::Call(e)) => {
                let not_before = self.retry_at(now, Lane::Fetch, &e);
                if let Some(w) = &mut self.work {
                    w.at = At::Wanted { not_before, tries: tries + 1 };
                }
            }
        }
    }

    /// Every local step whose time has come. Works off the net too.
    pub(super) fn progress(&mut self, now: Timestamp, out: &mut Vec<Action>) {
        while let Some(mut w) = self.work.take() {
            match w.at {
                At::Fetched { proof, until } if until <= now => {
                    self.report(now, &w.order, Report::Downloaded, None);
                    self.report(now, &w.order, Report::Staged, None);
                    w.at = match self.behaviour.reports {
                        Reports::All => At::Asking { proof },
                        Reports::Brief | Reports::None => {
                            At::Applying { proof, until: now + self.behaviour.apply_delay }
                        }
                    };
                    self.work = Some(w);
                }
                At::Applying { proof, until } if until <= now => self.activate(now, w, proof, out),
                At::Checking { until, ref back } if until <= now => {
                    let back = back.clone();
                    self.check(now, w, back, out);
                }
                At::Wanted { .. }
                | At::Fetched { .. }
                | At::Asking { .. }
                | At::Applying { .. }
                | At::Checking { .. } => {
                    self.work = Some(w);
                    return;
                }
            }
            if self.life != Life::Alive {
                return;
            }
        }
    }

    /// The switch. On failure the bundle before goes on serving.
    fn activate(&mut self, now: Timestamp, mut w: Box<Work>, proof: Proof, out: &mut Vec<Action>) {
        if self.dies(Moment::Activation, &w.order, now, out) {
            return;
        }
        let scripted = means(&self.behaviour.fail_on, w.order.bundle, w.order.version.as_deref());
        if self.dice.chance(self.behaviour.failure_rate) || scripted {
            self.work = Some(w);
            return self.fail(now, self.behaviour.fail_error.clone(), out);
        }
        self.serve_until(now);
        let back = Back { bundle: self.active, version: self.active_version.take() };
        self.active = proof.content();
        self.active_version = w.order.version.as_deref().map(Into::into);
        self.weight = w.order.traffic_weight.unwrap_or(self.weight);
        self.last_failed = None;
        self.report(now, &w.order, Report::Activated, None);
        out.push(Action::Note(Note::Activated {
            bundle: self.active,
            generation: w.order.generation,
            after: now.since(w.received),
        }));
        w.at = At::Checking { until: now + self.behaviour.check_delay, back };
        self.work = Some(w);
    }

    /// The node's own verdict on what it runs now.
    fn check(&mut self, now: Timestamp, w: Box<Work>, back: Back, out: &mut Vec<Action>) {
        if means(&self.behaviour.fall_back_on, w.order.bundle, w.order.version.as_deref()) {
            self.serve_until(now);
            self.active = back.bundle;
            self.active_version = back.version;
            self.work = Some(w);
            out.push(Action::Note(Note::FellBack));
            return self.fail(now, "the node's own check failed after activation; it went back".into(), out);
        }
        if self.is_well() {
            self.report(now, &w.order, Report::Verified, None);
            out.push(Action::Note(Note::Verified));
        }
        self.settle(now);
    }

    /// The bundle in hand is given up; what was active stays so.
    fn fail(&mut self, now: Timestamp, why: String, out: &mut Vec<Action>) {
        let Some(w) = self.work.take() else { return };
        self.failed_generation = w.order.generation;
        self.last_failed = w.order.bundle;
        self.report(now, &w.order, Report::Failed, Some(&why));
        out.push(Action::Note(Note::Failed(why)));
        self.settle(now);
    }

    /// Nothing in hand any more: ask at once what is next, as soon as what happened was told.
    fn settle(&mut self, now: Timestamp) {
        self.next_poll = self.next_poll.min(now.max(self.poll_sent));
    }

    fn dies(&mut self, moment: Moment, order: &Order, now: Timestamp, out: &mut Vec<Action>) -> bool {
        let Some(death) = self.behaviour.dies.as_ref().filter(|d| d.at == moment) else { return false };
        let meant = death.when.0.is_empty() || means(&death.when, order.bundle, order.version.as_deref());
        if !meant || self.died_for == order.generation {
            return false;
        }
        let until = death.silent_for.map(|s| now + s);
        self.died_for = order.generation;
        self.die(until, out);
        true
    }
}
