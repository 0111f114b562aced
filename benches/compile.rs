//! From a configuration to a signed bundle in the store, over HTTP, as an operator waits for it.

use crate::Failure;
use crate::host::{Host, sqlite};
use crate::table::{Bar, Table, median, quantile};

/// 28 routes are 10 kB, 1,150 are 400 kB.
const SIZES: [(usize, &str, usize, Bar); 2] = [
    (28, "10 kB", 15, Bar::AtMost { floor: 100.0, aim: 30.0 }),
    (1_150, "400 kB", 5, Bar::AtMost { floor: 1_500.0, aim: 600.0 }),
];

pub async fn run(table: &mut Table, long: bool) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let host = Host::start(sqlite(dir.path()).await?, dir.path()).await?;
    for (routes, name, times, bar) in SIZES {
        let mut took = Vec::new();
        let mut bytes = 0;
        for i in 0..if long { times * 3 } else { times } + 1 {
            // Another content each time: the same would be answered from what is there.
            let text = bundle::samples::generate(routes)
                .replace("max-connections 10000", &format!("max-connections {}", 10_001 + i));
            bytes = text.len();
            let begun = std::time::Instant::now();
            host.compile(&format!("{routes}-{i}"), &text).await?;
            // The first warms files and caches up.
            if i > 0 {
                took.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        let what = format!("compile, sign, store {name} ({bytes} bytes, {routes} routes): median");
        table.add("compile", what, median(&took), "ms", bar);
        table.add("compile", format!("{name}: slowest of {}", took.len()), quantile(&took, 1.0), "ms", Bar::None);
    }
    host.stop().await
}
