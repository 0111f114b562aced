//! HTTP probes: what rollouts ask of servers besides their nodes.
//!
//! Owns: the last answer of each probe, shared by all nodes and rollouts of this instance that ask the same. Rebuilt from:
//! nothing; a probe without an answer is asked again.
//! Invariants: a probe is sent only while some node is judged by it, and at most once in [`EVERY`]; of an answer nothing leaves
//! but whether it matched.

use crate::supervision::spawn_task;
use dashmap::DashMap;
use domain::node::Probed;
use domain::rollout::{HttpProbe, ProbeMethod};
use domain::{Span, Timestamp};
use egress::{Ask, Egress, EgressError, Expect};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Nodes that are being judged are heard every two seconds: each finds a newer answer.
const EVERY: Span = Span::secs(1);
/// Probes under way at once, of all rollouts together; what does not find room is asked at the next heartbeat.
const AT_ONCE: usize = 64;
/// Probes that are remembered, some 300 bytes each.
const MAX_KNOWN: usize = 1_000;
/// One that nobody asked for in this time is forgotten where room is needed.
const FORGET_AFTER: Span = Span::secs(600);

pub(crate) struct Probes {
    known: Arc<DashMap<HttpProbe, Known>>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Known {
    /// When it was sent last.
    asked: Timestamp,
    under_way: bool,
    /// The newest answer: when its question was sent, and why it did not match.
    last: Option<(Timestamp, Option<&'static str>)>,
}

impl Default for Probes {
    fn default() -> Probes {
        Probes { known: Arc::default(), room: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Probes {
    /// What is known of all of them; those whose answers are old are sent again meanwhile. `None`: one was never answered.
    pub(crate) fn read(&self, probes: &[HttpProbe], egress: &Egress, now: Timestamp) -> Option<Probed> {
        let mut all = Some(Probed { at: now, failed: None });
        for (i, probe) in probes.iter().enumerate() {
            let answer = self.one(probe, egress, now);
            all = match (all, answer) {
                (Some(all), Some((at, why))) => {
                    let failed = all.failed.or(why.map(|why| format!("probe {} {why}", i + 1)));
                    Some(Probed { at: all.at.min(at), failed })
                }
                (None, _) | (_, None) => None,
            };
        }
        all
    }

    fn one(&self, probe: &HttpProbe, egress: &Egress, now: Timestamp) -> Option<(Timestamp, Option<&'static str>)> {
        if let Some(known) = self.known.get(probe)
            && (known.under_way || now.since(known.asked) < EVERY)
        {
            return known.last;
        }
        self.send(probe, egress, now)
    }

    fn send(&self, probe: &HttpProbe, egress: &Egress, now: Timestamp) -> Option<(Timestamp, Option<&'static str>)> {
        if self.known.len() >= MAX_KNOWN {
            self.known.retain(|_, k| k.under_way || now.since(k.asked) < FORGET_AFTER);
        }
        let full = self.known.len() >= MAX_KNOWN && !self.known.contains_key(probe);
        let place = self.room.clone().try_acquire_owned().ok().filter(|_| !full);
        let mut known = match place {
            Some(_) => self.known.entry(probe.clone()).or_default(),
            None => return self.known.get(probe).and_then(|k| k.last),
        };
        if known.under_way {
            // Another session was faster.
            return known.last;
        }
        (known.asked, known.under_way) = (now, true);
        let last = known.last;
        drop(known);
        let (all, probe, egress) = (self.known.clone(), probe.clone(), egress.clone());
        spawn_task("http probe", async move {
            let _place = place;
            // Also when the work panics: nobody would ask again.
            let done = Done { all, probe, at: now, why: None };
            answer(done, &egress).await;
        })
        .detach();
        last
    }
}

/// Says, when dropped, that the probe is no longer under way, with what came of it.
struct Done {
    all: Arc<DashMap<HttpProbe, Known>>,
    probe: HttpProbe,
    at: Timestamp,
    /// `None`: there is no answer.
    why: Option<Option<&'static str>>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(mut known) = self.all.get_mut(&self.probe) {
            known.under_way = false;
            known.last = self.why.map(|why| (self.at, why)).or(known.last);
        }
    }
}

async fn answer(mut done: Done, egress: &Egress) {
    let probe = &done.probe;
    let timeout = Duration::from_millis(probe.timeout_ms.into());
    let ask = match probe.method {
        ProbeMethod::Get => Ask::get(&probe.url, timeout),
        ProbeMethod::Head => Ask::head(&probe.url, timeout),
    };
    let expect = Expect { status: probe.expected_status, body_contains: probe.body_contains.clone() };
    done.why = Some(match egress.probe(ask, &expect).await {
        Ok(true) => None,
        Err(EgressError::Forbidden) => Some("must not be sent from here (see PROBE_ALLOW)"),
        // Why not would tell what answers inside of a network, and what does not.
        Ok(false) | Err(_) => Some("did not match"),
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers every request with `status`, and counts them.
    async fn server(status: u16) -> (SocketAddr, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, count) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(0)));
        let counted = count.clone();
        spawn_task("server", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 2048];
                let _ = stream.read(&mut head).await;
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .detach();
        (at, count)
    }

    fn egress(allow: &str) -> Egress {
        let allow = if allow.is_empty() { Vec::new() } else { vec![allow.parse().unwrap()] };
        Egress::new(egress::Policy { allow, own: Vec::new() })
    }

    fn at(s: i64) -> Timestamp {
        Timestamp(1_000_000_000 + s * 1_000_000)
    }

    async fn answered(probes: &Probes, asked: &[HttpProbe], egress: &Egress, now: Timestamp) -> Probed {
        loop {
            if let Some(found) = probes.read(asked, egress, now) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_probe_is_sent_once_for_all_who_ask_and_again_when_its_answer_is_old() {
        let ((address, count), probes, out) = (server(200).await, Probes::default(), egress("127.0.0.0/8"));
        let asked = [HttpProbe { url: format!("http://{address}/"), ..HttpProbe::default() }];
        assert_eq!(probes.read(&asked, &out, at(0)), None, "there is no answer yet");
        let found = answered(&probes, &asked, &out, at(0)).await;
        assert_eq!(found, Probed { at: at(0), failed: None });
        for _ in 0..10 {
            probes.read(&asked, &out, at(0));
        }
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert_eq!(
            probes.read(&asked, &out, at(2)).unwrap().at,
            at(0),
            "the old answer, while the new one is on its way"
        );
        while probes.read(&asked, &out, at(2)).unwrap().at != at(2) {
            tokio::task::yield_now().await;
        }
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_one_that_does_not_match_is_named_and_nothing_of_its_answer() {
        let ((good, _), (bad, _), probes, out) =
            (server(200).await, server(503).await, Probes::default(), egress("127.0.0.0/8"));
        let probe = |url: String| HttpProbe { url, ..HttpProbe::default() };
        let asked = [probe(format!("http://{good}/")), probe(format!("http://{bad}/"))];
        let found = answered(&probes, &asked, &out, at(0)).await;
        assert_eq!(found.failed.as_deref(), Some("probe 2 did not match"));
        // Nobody listens there: said the same way as a wrong answer.
        let closed = [probe("http://127.0.0.1:1/".into())];
        assert_eq!(answered(&probes, &closed, &out, at(0)).await.failed.as_deref(), Some("probe 1 did not match"));
        let with_text = HttpProbe { body_contains: Some("ok".into()), ..asked[0].clone() };
        assert_eq!(answered(&probes, std::slice::from_ref(&with_text), &out, at(0)).await.failed, None);
        let other_text = HttpProbe { body_contains: Some("no".into()), ..with_text };
        assert!(answered(&probes, &[other_text], &out, at(0)).await.failed.is_some());
    }

    #[tokio::test]
    async fn an_address_that_must_not_be_reached_is_not() {
        let ((address, count), probes) = (server(200).await, Probes::default());
        let asked = [HttpProbe { url: format!("http://{address}/"), ..HttpProbe::default() }];
        let found = answered(&probes, &asked, &egress(""), at(0)).await;
        assert!(found.failed.unwrap().contains("PROBE_ALLOW"));
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
}
