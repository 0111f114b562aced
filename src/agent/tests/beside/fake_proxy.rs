//! What the agent takes for `zentinel`: reads its lines from comments, reloads on SIGHUP, and misbehaves as it is told.
//!
//! `// answer X`, `// status 500`, `// invalid` (for `test`), `// refused` (a reload that is refused in the log), `// dies` (of
//! the reload and at start), `// dies-later` (2 s after it was loaded, every time).

#![allow(clippy::unwrap_used)] // a stand-in of the tests: what it cannot do, it may die of

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Default)]
struct Served {
    text: String,
    requests: u64,
    errors: u64,
}

fn word(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|l| l.trim().strip_prefix(&format!("// {key}"))).map(|v| v.trim().to_string())
}

fn quoted(text: &str, key: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix(key)?.trim().strip_prefix('"'));
    lines.filter_map(|l| l.split('"').next().map(str::to_string)).collect()
}

pub fn main(args: &[String]) -> ExitCode {
    if args[1] == "--version" {
        println!("zentinel 0.6.45");
        return ExitCode::SUCCESS;
    }
    let path = args.last().unwrap().clone();
    let text = std::fs::read_to_string(&path).unwrap();
    if args[1] == "test" {
        if word(&text, "invalid").is_some() {
            eprintln!("Error: no such upstream");
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    assert_eq!(std::env::var("RUST_MIN_STACK").as_deref(), Ok("33554432"));
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve(path, text))
}

async fn serve(path: String, text: String) -> ExitCode {
    if word(&text, "dies").is_some_and(|w| w.is_empty()) {
        println!("it dies of this");
        return ExitCode::FAILURE;
    }
    let mut hup = signal(SignalKind::hangup()).unwrap();
    let mut listeners = Vec::new();
    for address in quoted(&text, "address") {
        match TcpListener::bind(&address).await {
            Ok(l) => listeners.push(l),
            Err(e) => {
                println!("{address}: {e}");
                return ExitCode::FAILURE;
            }
        }
    }
    let served = Arc::new(Mutex::new(Served { text, ..Served::default() }));
    for listener in listeners {
        let served = served.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, served.clone()));
            }
        });
    }
    let mut doom = doomed(&served);
    loop {
        tokio::select! {
            _ = hup.recv() => {
                let new = std::fs::read_to_string(&path).unwrap();
                if word(&new, "dies").is_some_and(|w| w.is_empty()) {
                    std::process::abort();
                }
                if word(&new, "refused").is_some() {
                    println!("ERROR Configuration reload failed: because");
                    continue;
                }
                served.lock().unwrap().text = new;
                doom = doomed(&served);
            }
            () = tokio::time::sleep_until(doom) => std::process::abort(),
        }
    }
}

fn doomed(served: &Arc<Mutex<Served>>) -> tokio::time::Instant {
    let later = word(&served.lock().unwrap().text, "dies-later").is_some();
    tokio::time::Instant::now() + Duration::from_secs(if later { 2 } else { 86_400 })
}

async fn answer(mut socket: tokio::net::TcpStream, served: Arc<Mutex<Served>>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        match socket.read(&mut buffer).await {
            Ok(n) if n > 0 => head.extend(&buffer[..n]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_string();
    let (status, body) = {
        let mut s = served.lock().unwrap();
        if path != "/metrics" && quoted(&s.text, "path").contains(&path) {
            (200, format!(r#"{{"status":"ok","instance_id":"i-{}"}}"#, std::process::id()))
        } else if path == "/metrics" {
            let good = s.requests - s.errors;
            let line =
                |status, n| format!("zentinel_requests_total{{method=\"GET\",route=\"r\",status=\"{status}\"}} {n}\n");
            (200, line(200, good) + &line(500, s.errors))
        } else {
            let status = word(&s.text, "status").and_then(|w| w.parse().ok()).unwrap_or(200);
            s.requests += 1;
            s.errors += u64::from(status >= 500);
            (status, word(&s.text, "answer").unwrap_or_default())
        }
    };
    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    let _ = socket.write_all(text.as_bytes()).await;
    let _ = socket.shutdown().await;
}
