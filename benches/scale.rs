//! Rollouts at size, by long-polling nodes on real HTTP: everybody at once, in ten batches, back again.
//!
//! The nodes are those of `fleet`: they do what they are told at once and need no time for it. Fleet and server share the
//! machine, so the figures are of both.

use crate::Failure;
use crate::fleet::{Times, timed_fleet, times_of};
use crate::host::{Host, memory_dir, sqlite};
use crate::order::{ended, order, roll_out};
use crate::table::{Bar, Table, quantile};
use domain::rollout::Phase;
use serde_json::json;

/// Sizes of one run.
#[derive(Clone, Copy)]
pub struct Size {
    pub nodes: usize,
    /// The floors and aims are for the long form; a short one is context.
    pub judged: bool,
}

pub const SHORT: Size = Size { nodes: 2_000, judged: false };
pub const LONG: Size = Size { nodes: 10_000, judged: true };

impl Size {
    fn bar(self, floor: f64, aim: f64) -> Bar {
        if self.judged { Bar::AtMost { floor, aim } } else { Bar::None }
    }
}

pub async fn run(table: &mut Table, size: Size) -> Result<(), Failure> {
    let b = "scale";
    let n = size.nodes;
    let dir = memory_dir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    let mut fleet = timed_fleet(&host, n).await?;

    let v1 = host.compile("v1", bundle::samples::DEMO_V1).await?;
    let all = order(&host, &v1, json!({"strategy": "all_at_once"})).await?;
    ended(&host, all.id, Phase::Completed).await?;
    let times = times_of(&mut fleet, n).await?;
    let since =
        |of: fn(&Times) -> i64| -> Vec<f64> { times.values().map(|t| (of(t) - all.called) as f64 / 1e6).collect() };
    let (told, activated) = (since(|t| t.told), since(|t| t.activated));
    let what = format!("all at once: start -> last of {n} long-polling nodes activated");
    table.add(b, what, quantile(&activated, 1.0), "s", size.bar(3.0, 1.0));
    table.add(b, "all at once: start -> half of them told", quantile(&told, 0.5), "s", Bar::None);
    table.add(b, "all at once: start -> last of them told", quantile(&told, 1.0), "s", Bar::None);

    let v2 = host.compile("v2", bundle::samples::DEMO_V2).await?;
    let (id, took) = roll_out(&host, &v2, n / 10).await?;
    table.add(b, format!("10 batches x {} instant nodes", n / 10), took, "s", size.bar(5.0, 1.5));
    times_of(&mut fleet, n).await?;

    let begun = crate::fleet::wall_us();
    host.operator("POST", &format!("/api/v1/rollouts/{id}/rollback"), Some(json!({}))).await?;
    let at = ended(&host, id, Phase::RolledBack).await?;
    table.add(b, format!("rollback of {n} connected nodes"), (at - begun) as f64 / 1e6, "s", size.bar(5.0, 2.0));
    fleet.finish().await?;
    host.stop().await
}
