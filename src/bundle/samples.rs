//! Our own sample configs: for the demo, tests and benchmarks. All of them are valid.

use crate::source::Sources;
use std::fmt::Write as _;

/// One listener, two upstreams, three routes.
pub const DEMO_V1: &str = include_str!("samples/basic.kdl");
/// As [`DEMO_V1`] with one more route.
pub const DEMO_V2: &str = include_str!("samples/basic_v2.kdl");
/// TLS, filters, an agent, static files, health checks.
pub const LARGE: &str = include_str!("samples/large.kdl");

/// A config in four files.
pub fn with_includes() -> Sources {
    Sources::from_files([
        ("config.kdl", include_str!("samples/includes/config.kdl")),
        ("upstreams.kdl", include_str!("samples/includes/upstreams.kdl")),
        ("routes/shop.kdl", include_str!("samples/includes/shop.kdl")),
        ("routes/blog.kdl", include_str!("samples/includes/blog.kdl")),
    ])
}

/// A valid config with this many routes, one upstream for every ten; about 350 bytes a route.
pub fn generate(routes: usize) -> String {
    let upstreams = routes.div_ceil(10).max(1);
    let mut s = String::with_capacity(400 * routes + 2_000);
    s.push_str(
        "schema-version \"1.0\"\n\nsystem {\n    worker-threads 2\n    max-connections 10000\n}\n\n\
         listeners {\n    listener \"http\" {\n        address \"0.0.0.0:8080\"\n        protocol \"http\"\n    }\n}\n\nroutes {\n",
    );
    for i in 0..routes {
        // Writing to a String cannot fail.
        let _ = write!(
            s,
            "    route \"route-{i:05}\" {{\n        priority \"normal\"\n        matches {{\n            \
             path-prefix \"/service-{i:05}/v1/\"\n            host \"host-{:03}.example.com\"\n        }}\n        \
             upstream \"pool-{:04}\"\n        policies {{\n            timeout-secs {}\n            \
             failure-mode \"closed\"\n        }}\n    }}\n",
            i % 100,
            i % upstreams,
            10 + i % 50,
        );
    }
    s.push_str("}\n\nupstreams {\n");
    for u in 0..upstreams {
        let _ = write!(
            s,
            "    upstream \"pool-{u:04}\" {{\n        target \"10.{}.{}.1:8080\" weight=1\n        \
             target \"10.{}.{}.2:8080\" weight=1\n        load-balancing \"round_robin\"\n    }}\n",
            u / 250,
            u % 250,
            u / 250,
            u % 250,
        );
    }
    s.push_str("}\n\nobservability {\n    metrics {\n        enabled #true\n        address \"127.0.0.1:9090\"\n        path \"/metrics\"\n    }\n}\n");
    s
}
