//! The cheapest HTTP/1.1 client that will do: whole requests are written as bytes, answers are read by their length.
//!
//! It serves loads and operators alike; what it costs is not the server's.

use crate::Failure;
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer that is longer than this is a mistake: a plan over 100,000 nodes has 8 MB.
const MAX_ANSWER: usize = 64 << 20;

pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a [u8],
}

impl Answer<'_> {
    /// Errors: another status, or no JSON.
    pub fn json(&self, status: u16) -> Result<Value, Failure> {
        if self.status != status {
            return Err(format!("HTTP {}: {}", self.status, String::from_utf8_lossy(self.body)).into());
        }
        Ok(serde_json::from_slice(self.body)?)
    }
}

impl Wire {
    pub async fn open(address: SocketAddr) -> Result<Wire, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Wire { stream, buffer: Vec::with_capacity(2_048) })
    }

    pub async fn send(&mut self, request: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(request).await?)
    }

    /// Writes the request, reads the whole answer.
    pub async fn call(&mut self, request: &[u8]) -> Result<Answer<'_>, Failure> {
        self.send(request).await?;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Result<Answer<'_>, Failure> {
        self.buffer.clear();
        let (status, from, length) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some(head) = head(&self.buffer)? {
                break head;
            }
        };
        if length > MAX_ANSWER {
            return Err("the answer is too long".into());
        }
        while self.buffer.len() < from + length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection in the middle of an answer".into());
            }
        }
        Ok(Answer { status, body: &self.buffer[from..from + length] })
    }
}

/// Status, where the body begins, its length; `None` until the head is whole.
fn head(bytes: &[u8]) -> Result<Option<(u16, usize, usize)>, Failure> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end])?;
    let status = text.get(9..12).and_then(|s| s.parse().ok()).ok_or("not an HTTP answer")?;
    let mut length = 0;
    for line in text.split("\r\n").skip(1) {
        if let Some(value) = strip_name(line, "content-length:") {
            length = value.trim().parse()?;
        } else if strip_name(line, "transfer-encoding:").is_some() {
            return Err("chunked answers are not read here".into());
        }
    }
    Ok(Some((status, end + 4, length)))
}

fn strip_name<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.get(..name.len())?;
    start.eq_ignore_ascii_case(name).then(|| &line[name.len()..])
}

/// A request as bytes. `header`: one more line, without its end.
pub fn request(method: &str, path: &str, header: &str, body: &str) -> Vec<u8> {
    let more = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let content = match (method, body) {
        ("GET", _) => String::new(),
        _ => format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: bench\r\nuser-agent: sentinel-agent/0.1\r\naccept: */*\r\n{more}{content}\r\n{body}")
        .into_bytes()
}

pub fn node_key(key: &str) -> String {
    format!("x-sentinel-node-key: {key}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_head() {
        let whole = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        assert_eq!(head(whole).unwrap(), Some((201, whole.len() - 5, 5)));
        assert_eq!(head(&whole[..30]).unwrap(), None);
        assert!(head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(head(b"nonsense\r\n\r\n").is_err());
    }

    #[test]
    fn a_request_names_the_length_of_its_body() {
        let text = String::from_utf8(request("POST", "/a", "x: y", "{}")).unwrap();
        assert!(text.starts_with("POST /a HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("x: y\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"), "{text}");
    }
}
