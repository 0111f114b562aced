#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
use super::*;
use crate::samples;
use std::path::PathBuf;

/// The configs of the proxy's own repository.
fn corpus(kind: &str) -> Vec<(String, String)> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/corpus"));
    let dir = std::fs::read_dir(root.join(kind)).unwrap();
    let mut files: Vec<_> =
        dir.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "kdl")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
        .into_iter()
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&p).unwrap()))
        .collect()
}

fn judge_text(text: &str) -> Verdict {
    validate_in_process(&Sources::single(text))
}

/// `DEMO_V1` with one piece of text replaced.
fn with(from: &str, to: &str) -> Verdict {
    assert!(samples::DEMO_V1.contains(from), "{from}");
    judge_text(&samples::DEMO_V1.replacen(from, to, 1))
}

fn only_error(v: &Verdict) -> &Message {
    assert!(!v.ok);
    assert_eq!(v.errors.len(), 1, "{:#?}", v.errors);
    &v.errors[0]
}

#[test]
fn every_valid_config_of_the_corpus_is_accepted() {
    let mut ignored = 0;
    for (name, text) in corpus("valid") {
        let v = judge_text(&text);
        assert!(v.ok, "{name}: {:#?}", v.errors);
        ignored += u32::from(v.facts.unknown_keys > 0);
        for w in v.warnings.iter().filter(|w| w.kind == MessageKind::UnknownKey) {
            assert!(w.line.is_some(), "{name}: no place for {w}");
        }
    }
    assert!(ignored == 0 || ignored == 6, "{ignored} files with ignored keys, known are 6");
}

#[test]
fn every_invalid_config_of_the_corpus_is_refused_with_the_parsers_message() {
    for (name, text) in corpus("invalid") {
        let v = judge_text(&text);
        assert!(!v.ok && !v.errors.is_empty(), "{name} was accepted");
        let rules = v.errors.iter().find(|e| matches!(e.kind, MessageKind::Syntax | MessageKind::Semantic));
        let e = rules.unwrap_or_else(|| panic!("{name}: only {:?}", v.errors));
        println!("{name}: {e}");
        assert!(e.line.is_some() && e.column.is_some(), "{name}: no place for {e}");
    }
}

#[test]
fn our_own_samples_are_valid_without_warnings() {
    for sources in [
        Sources::single(samples::DEMO_V1),
        Sources::single(samples::DEMO_V2),
        Sources::single(samples::LARGE),
        samples::with_includes(),
        Sources::single(samples::generate(0)),
        Sources::single(samples::generate(100)),
    ] {
        let v = validate_in_process(&sources);
        assert!(v.ok && v.warnings.is_empty(), "{:#?} {:#?}", v.errors, v.warnings);
    }
    assert_eq!(judge_text(&samples::generate(100)).facts.routes, 100);
    assert_eq!(judge_text(samples::DEMO_V1).facts.routes, 3);
}

#[test]
fn the_same_files_give_the_same_verdict_byte_for_byte() {
    for text in [samples::LARGE.to_string(), samples::LARGE.replace("upstream \"web\"\n", "upstream \"gone\"\n")] {
        let json = |v: &Verdict| crate::canon::to_vec(v).unwrap();
        let first = json(&judge_text(&text));
        for _ in 0..5 {
            assert_eq!(json(&judge_text(&text)), first);
        }
    }
}

#[test]
fn syntax_errors_carry_line_and_column() {
    let e = with("worker-threads 2", "worker-threads 2x");
    let e = only_error(&e);
    assert_eq!((e.kind, e.line), (MessageKind::Syntax, Some(5)), "{e}");
    assert!(e.text.contains("at line 5, column "), "{e}");
}

#[test]
fn semantic_errors_are_placed_at_what_they_name() {
    let v = with("upstream \"web\"\n        policies", "upstream \"gone\"\n        policies");
    let e = only_error(&v);
    assert!(e.text.contains("Route 'web' references upstream 'gone'"), "{e}");
    assert!(e.text.contains("'api', 'web'"), "{e}");
    let line = samples::DEMO_V1.lines().position(|l| l.contains("upstream \"web\"")).unwrap() as u32 + 1;
    assert_eq!((e.file.as_deref(), e.line), (Some("config.kdl"), Some(line)));

    let mut sources = samples::with_includes();
    let text = sources.0["routes/shop.kdl"].replace("upstream \"shop\"", "upstream \"gone\"");
    sources.0.insert("routes/shop.kdl".into(), text);
    let v = validate_in_process(&sources);
    let e = only_error(&v);
    assert_eq!((e.file.as_deref(), e.line, e.column), (Some("routes/shop.kdl"), Some(6), Some(9)), "{e}");
}

#[test]
fn unknown_keys_are_warnings_at_their_own_place_and_errors_when_strict() {
    let v = with("timeout-secs 10", "timeout-secs 10\n            retries 3");
    assert!(v.ok);
    assert_eq!((v.facts.unknown_keys, v.warnings.len()), (1, 1), "{:?}", v.warnings);
    let w = &v.warnings[0];
    let line = samples::DEMO_V1.lines().position(|l| l.contains("timeout-secs 10")).unwrap() as u32 + 2;
    assert_eq!((w.line, w.column), (Some(line), Some(13)), "{w}");
    assert!(w.text.contains("'retries'"));
    assert!(!v.into_strict().ok);
}

#[test]
fn deep_nesting_is_refused_before_parsing_also_in_comments() {
    for text in [
        format!("{}{}", "a {\n".repeat(600), "}\n".repeat(600)),
        format!("{}\n/- a {{{}{}}}", samples::DEMO_V1, "a {\n".repeat(600), "}\n".repeat(600)),
        format!("{}\n{}{}", samples::DEMO_V1, "/*".repeat(600), "*/".repeat(600)),
        format!("{}\n/* {} */", samples::DEMO_V1, "* ".repeat(3_000)),
    ] {
        let v = judge_text(&text);
        assert!(only_error(&v).kind == MessageKind::Guard, "{:?}", v.errors);
    }
}

#[test]
fn a_flood_of_braces_is_refused_at_once() {
    let t = std::time::Instant::now();
    assert!(!judge_text(&"}".repeat(20_000)).ok);
    assert!(!judge_text(&"}".repeat(900_000)).ok);
    assert!(t.elapsed().as_secs() < 2);
}

#[test]
fn a_bad_regular_expression_is_refused_at_its_place() {
    let v = with("path-prefix \"/api/\"", "path-regex \"^/api/(\"");
    let e = only_error(&v);
    assert!(e.text.contains("regular expression"), "{e}");
    let line = samples::DEMO_V1.lines().position(|l| l.contains("\"/api/\"")).unwrap() as u32 + 1;
    assert_eq!((e.line, e.column), (Some(line), Some(13)));
}

#[test]
fn impossible_addresses_ports_types_and_versions_are_refused() {
    for (from, to, expect) in [
        ("0.0.0.0:8080", "0.0.0.0:99999", "99999"),
        ("0.0.0.0:8080", "localhost:8080", "localhost"),
        ("0.0.0.0:8080", "127.0.0.1:9090", "metrics"),
        ("127.0.0.1:9090", "127.0.0.1:no", "127.0.0.1:no"),
        ("127.0.0.1:9003", "127.0.0.1:99999", "99999"),
        ("worker-threads 2", "worker-threads \"two\"", "'worker-threads' must be a whole number"),
        ("worker-threads 2", "worker-threads -1", "must be from 0"),
        ("worker-threads 2", "worker-threads", "needs a value"),
        ("enabled #true", "enabled \"yes\"", "#true or #false"),
        ("protocol \"http\"", "protocol 3", "a text in quotes"),
        ("schema-version \"1.0\"", "schema-version \"banana\"", "banana"),
        ("schema-version \"1.0\"", "schema-version \"99.0\"", "99.0"),
        ("schema-version \"1.0\"", "schema-version 1.0", "a text in quotes"),
    ] {
        let v = with(from, to);
        assert_eq!(v.ok, expect.is_empty(), "{to}");
        assert!(v.ok || v.errors.iter().any(|e| e.text.contains(expect) && e.line.is_some()), "{to}: {:?}", v.errors);
    }
}

#[test]
fn a_literal_private_key_is_refused() {
    let v = with("level \"info\"", "level \"-----BEGIN PRIVATE KEY-----\"");
    assert!(only_error(&v).text.contains("private key"));
    let v = with("level \"info\"", "level \"\\u{2d}----BEGIN PRIVATE KEY-----\"");
    assert!(v.errors.iter().any(|e| e.text.contains("private key")), "{:?}", v.errors);
}

#[test]
fn paths_of_the_node_are_not_looked_up_here_and_are_kept_as_written() {
    let v = judge_text(samples::LARGE);
    assert!(v.ok, "{:?}", v.errors);
    let json = v.config_json.unwrap().to_string();
    assert!(json.contains("/var/www/assets") && json.contains("/run/zentinel/auth.sock"));
    assert!(!PathBuf::from("/run/zentinel").exists() && !PathBuf::from("/var/www/assets").exists());
    for p in ["/var/www/assets", "/run/zentinel/auth.sock", "/etc/zentinel/certs/server.key"] {
        assert!(v.facts.host_paths.iter().any(|h| h == p), "{p} in {:?}", v.facts.host_paths);
    }
}

#[test]
fn includes_of_files_that_were_not_submitted_are_refused() {
    for path in ["/etc/passwd", "../../etc/passwd", "missing.kdl", "/etc/*"] {
        let v = judge_text(&format!("{}\ninclude \"{path}\"\n", samples::DEMO_V1));
        let e = only_error(&v);
        assert_eq!(e.kind, MessageKind::Source, "{e}");
        assert!(!e.text.contains("root:"));
    }
}

#[test]
fn second_blocks_and_unused_files_are_warned_about() {
    let mut sources = Sources::single(format!("{}\nsystem {{\n    worker-threads 3\n}}\n", samples::DEMO_V1));
    sources.0.insert("forgotten.kdl".into(), "routes { }".into());
    let v = validate_in_process(&sources);
    assert!(v.ok);
    assert!(v.warnings.iter().any(|w| w.text.contains("second 'system'") && w.line.is_some()), "{:?}", v.warnings);
    assert!(v.warnings.iter().any(|w| w.file.as_deref() == Some("forgotten.kdl")));
    assert_eq!(v.merged.unwrap().files, ["config.kdl"]);
}

#[test]
fn hostile_text_never_panics() {
    // Pieces of syntax in pseudo-random order; what counts is that an answer comes back.
    let pieces = [
        "{", "}", "\"", "#\"", "\"#", "/*", "*/", "/-", "//", "\n", "a", " ", "1", "=", "\\", "(", ")", ";", "include",
        "\"\"\"", "route", "é", "\u{2028}", "system", "#true",
    ];
    let mut seed = 7u64;
    for _ in 0..300 {
        let mut text = String::new();
        for _ in 0..40 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        assert!(!judge_text(&text).ok, "{text}");
    }
}

#[test]
fn a_thousand_routes_are_judged_in_seconds() {
    let text = samples::generate(1_000);
    assert!((300_000..500_000).contains(&text.len()), "{}", text.len());
    let t = std::time::Instant::now();
    assert!(judge_text(&text).ok);
    println!("1,000 routes, {} bytes: {:?}", text.len(), t.elapsed());
    assert!(t.elapsed().as_secs() < 60);
}

/// The guard and the parser must agree on what is code: whatever stands around it, 70 nested blocks that
/// the parser reads as such are never let through.
#[test]
fn no_text_around_it_hides_a_deep_block_from_the_guard() {
    let pieces = [
        "\n",
        " ",
        "x ",
        "x \"s\"\n",
        "x #\"r\"#\n",
        "// c\n",
        "// c",
        "/* c */",
        "/*",
        "*/",
        "\"",
        "\\",
        "\\\"",
        "#\"",
        "\"#",
        "##\"",
        "\"##",
        "\"\"\"\n",
        "\n\"\"\"\n",
        "#\"\"\"\n",
        "\n\"\"\"#\n",
        "\"\"\"",
        ";",
        "/-",
        "\u{85}",
        "\u{2028}",
        "\r",
        "{",
        "}",
        "x {\n",
        "\n}\n",
        "#true ",
        "é",
        "=",
        "x \"\\\\\"\n",
        "x \"\"\n",
        "\u{feff}",
        "\\\n",
    ];
    fn depth(doc: &kdl::KdlDocument) -> usize {
        doc.nodes().iter().filter_map(|n| n.children()).map(|c| 1 + depth(c)).max().unwrap_or(0)
    }
    let rounds: u32 = std::env::var("FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_000);
    let run = move || {
        let (mut seed, mut parsed) = (11u64, 0u32);
        let mut draw = |n: usize| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize % n
        };
        for _ in 0..rounds {
            let mut junk = || -> String { (0..draw(7)).map(|_| pieces[draw(pieces.len())]).collect() };
            let text = format!("{}{}{}{}", junk(), "a {\n".repeat(70), "}\n".repeat(70), junk());
            let Ok(doc) = text.parse::<kdl::KdlDocument>() else { continue };
            parsed += 1;
            assert!(depth(&doc) <= guard::MAX_DEPTH || !guard::scan(&text).is_empty(), "{text:?}");
        }
        assert!(parsed > rounds / 50, "only {parsed} of {rounds} texts were valid");
    };
    std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap().join().unwrap();
}
