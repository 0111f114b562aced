//! The validator child as a real process. This program has its own `main`: with `BUNDLE_TEST_CHILD` set
//! it IS the child (well-behaved or not), otherwise it is the test runner.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use bundle::child::{ChildValidator, ValidatorError, run_child_main};
use bundle::{MessageKind, Sources, Verdict, samples, validate_in_process};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ENV: &str = "BUNDLE_TEST_CHILD";

fn main() {
    if let Ok(role) = std::env::var(ENV) {
        std::process::exit(child(&role));
    }
    let tests: &[(&str, fn())] = &[
        ("a_child_says_the_same_as_the_library", a_child_says_the_same_as_the_library),
        ("hostile_input_ends_at_worst_the_child", hostile_input_ends_at_worst_the_child),
        ("a_child_that_dies_hangs_or_floods_is_a_refusal_with_a_reason", misbehaving_children),
        ("a_validation_can_be_cancelled", a_validation_can_be_cancelled),
        ("a_child_sees_no_environment_and_may_not_write_files", a_child_is_confined),
        ("a_missing_program_is_an_error_and_not_a_refusal", a_missing_program_is_an_error),
    ];
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|a| a == "--list") {
        // nextest lists ignored tests separately; there are none.
        if !args.iter().any(|a| a == "--ignored") {
            tests.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let filters: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    for (name, test) in tests {
        if filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}

fn child(role: &str) -> i32 {
    match role {
        "validator" => run_child_main(std::io::stdin().lock(), std::io::stdout().lock()),
        "abort" => std::process::abort(),
        "overflow" => overflow(1) as i32,
        "memory" => {
            // The real limits, and then more than they allow.
            run_child_main(&b"{}"[..], std::io::sink());
            std::hint::black_box(vec![1u8; 3 << 30]).len() as i32
        }
        "hang" => loop {
            std::thread::park();
        },
        "flood" => loop {
            if std::io::stdout().write_all(&[b'x'; 65_536]).is_err() {
                return 0;
            }
        },
        "code" => 7,
        "nonsense" => {
            println!("no JSON");
            0
        }
        "confined" => {
            let names: Vec<String> = std::env::vars().map(|(k, _)| k).collect();
            assert_eq!(names, [ENV]);
            run_child_main(&b"{}"[..], std::io::sink());
            let file = std::env::temp_dir().join(format!("bundle-child-{}", std::process::id()));
            let wrote = std::fs::File::create(&file).and_then(|mut f| f.write_all(b"x"));
            let _ = std::fs::remove_file(&file);
            i32::from(wrote.is_ok())
        }
        other => panic!("{other}"),
    }
}

#[allow(unconditional_recursion)]
fn overflow(n: u64) -> u64 {
    std::hint::black_box([n; 64])[0] + overflow(std::hint::black_box(n + 1))
}

fn validator(role: &str) -> ChildValidator {
    let mut v = ChildValidator::new(std::env::current_exe().unwrap(), Vec::<String>::new());
    v.env = vec![(ENV.into(), role.into())];
    v
}

fn a_child_says_the_same_as_the_library() {
    for sources in [
        Sources::single(samples::DEMO_V1),
        samples::with_includes(),
        Sources::single("system {"),
        Sources::single(samples::generate(300)),
        Sources::from_files([("../x", "")]),
    ] {
        assert_eq!(validator("validator").validate(&sources).unwrap(), validate_in_process(&sources));
    }
}

fn hostile_input_ends_at_worst_the_child() {
    let cap = bundle::source::MAX_CONFIG_BYTES;
    for text in [
        "a {\n".repeat(cap / 4),
        "}".repeat(cap),
        "\"".repeat(cap),
        "/- ".repeat(cap / 3),
        "a \"\\q\"\n".repeat(2_000),
        "(a)".repeat(20_000),
        "b=".repeat(20_000),
        "\u{1}".repeat(cap),
        "x".repeat(cap + 1),
    ] {
        let head: String = text.chars().take(8).collect();
        let mut v = validator("validator");
        v.timeout = Duration::from_secs(3);
        let t = Instant::now();
        let verdict = v.validate(&Sources::single(text)).unwrap();
        assert!(!verdict.ok && !verdict.errors.is_empty(), "{head:?}");
        assert!(t.elapsed() < Duration::from_secs(6), "{head:?} took {:?}", t.elapsed());
    }
}

fn stopped(role: &str, timeout: Duration) -> String {
    let mut v = validator(role);
    v.timeout = timeout;
    // More than a pipe holds: a child that reads nothing must not block us.
    let verdict: Verdict = v.validate(&Sources::single(samples::generate(1_000))).unwrap();
    assert!(!verdict.ok);
    assert_eq!(verdict.errors.len(), 1);
    assert_eq!(verdict.errors[0].kind, MessageKind::Validator);
    assert!(verdict.errors[0].text.starts_with("the validator was stopped: "), "{}", verdict.errors[0]);
    verdict.errors[0].text.clone()
}

fn misbehaving_children() {
    let long = Duration::from_secs(30);
    assert!(stopped("abort", long).contains("aborted"));
    assert!(stopped("overflow", long).contains("overflowed its stack"));
    assert!(stopped("memory", long).contains("memory allocation"));
    assert!(stopped("code", long).contains("status 7"));
    assert!(stopped("flood", long).contains("too long"));
    assert!(stopped("hang", Duration::from_millis(200)).contains("longer than 200 ms"));
    let e = validator("nonsense").validate(&Sources::single("a")).unwrap_err();
    assert!(matches!(e, ValidatorError::Answer(_)), "{e}");
}

fn a_validation_can_be_cancelled() {
    let mut v = validator("hang");
    let cancel = Arc::new(AtomicBool::new(false));
    v.cancel = Some(cancel.clone());
    let running = std::thread::spawn(move || v.validate(&Sources::single("a")));
    cancel.store(true, Ordering::Relaxed);
    assert!(matches!(running.join().unwrap(), Err(ValidatorError::Cancelled)));
}

fn a_child_is_confined() {
    // The runner's own environment has something to leak.
    assert!(std::env::vars().count() > 1);
    let mut out = String::new();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .env(ENV, "confined")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stderr.take().unwrap().read_to_string(&mut out).unwrap();
    let status = child.wait().unwrap();
    // SIGXFSZ or a failed write: either way nothing was written.
    assert_ne!(status.code(), Some(1), "{out}");
    assert!(!out.contains("panicked"), "{out}");
}

fn a_missing_program_is_an_error() {
    let v = ChildValidator::new("/nonexistent/program", ["validate"]);
    assert!(matches!(v.validate(&Sources::single("a")), Err(ValidatorError::Start(_))));
}
