//! A small OpenAI client for the demonstration: one question, the answer shown as it comes.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io::Write;
use tokio::net::TcpStream;

use super::DemoError;

fn failed(error: impl std::fmt::Display) -> DemoError {
    DemoError::Ask(error.to_string())
}

/// Asks and shows the answer while it comes. Returns the answer, which must not be empty.
pub(super) async fn stream(base_url: &str, question: &str) -> Result<String, DemoError> {
    let (status, mut body) = post(base_url, question).await?;
    if status != 200 {
        return Err(failed(format!("status {status}: {}", message(body).await?)));
    }
    println!("> {question}");
    let (mut pending, mut answer) = (Vec::new(), String::new());
    let mut done = false;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(failed)?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(event) = line.trim_end().strip_prefix("data: ") else {
                continue;
            };
            if event == "[DONE]" {
                done = true;
                continue;
            }
            let event: Value = serde_json::from_str(event).map_err(failed)?;
            if let Some(text) = event
                .pointer("/choices/0/delta/content")
                .and_then(Value::as_str)
            {
                print!("{text}");
                std::io::stdout().flush()?;
                answer.push_str(text);
            }
        }
    }
    println!();
    match done && !answer.trim().is_empty() {
        true => Ok(answer),
        false => Err(failed("the answer is empty or was cut")),
    }
}

/// Asks where an answer would be wrong. Returns the reason of the refusal.
pub(super) async fn refusal(base_url: &str, question: &str) -> Result<String, DemoError> {
    let (status, body) = post(base_url, question).await?;
    match status {
        403 | 404 => message(body).await,
        other => Err(DemoError::NotRefused(other)),
    }
}

async fn message(body: Incoming) -> Result<String, DemoError> {
    let bytes = body.collect().await.map_err(failed)?.to_bytes();
    let error: Value = serde_json::from_slice(&bytes).map_err(failed)?;
    let text = |key: &str| {
        error
            .pointer(key)
            .and_then(Value::as_str)
            .unwrap_or("?")
            .to_owned()
    };
    Ok(format!(
        "{} ({})",
        text("/error/message"),
        text("/error/code")
    ))
}

async fn post(base_url: &str, question: &str) -> Result<(u16, Incoming), DemoError> {
    let authority = base_url
        .trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap_or_default();
    let tcp = TcpStream::connect(authority).await.map_err(failed)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(failed)?;
    tokio::spawn(connection);
    let body = json!({
        "model": "default",
        "stream": true,
        "temperature": 0,
        "max_tokens": 64,
        "messages": [{"role": "user", "content": question}],
    });
    let request = http::Request::post("/v1/chat/completions")
        .header(http::header::HOST, authority)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .map_err(failed)?;
    let answer = sender.send_request(request).await.map_err(failed)?;
    Ok((answer.status().as_u16(), answer.into_body()))
}
