//! What a session costs beyond the TLS connection below it: CPU time of client and server together, the chip's own time
//! left out.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::clock::{self, median, ms};
use crate::place::{Place, Server};
use crate::report::{Bar, Row};
use crate::rsa;

/// Sessions of one turn. Fewer than the challenges that one connection may ask.
const SESSIONS: u32 = 50;
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What one session or connection took, on average over a turn.
struct Cost {
    cpu_ms: f64,
    wall_ms: f64,
    chip_ms: f64,
}

struct Round {
    attested: Cost,
    plain: Cost,
    again: Cost,
}

pub async fn rows(place: &Place, rounds: usize, extra_ms_max: f64) -> anyhow::Result<Vec<Row>> {
    let server = place.serve(Duration::ZERO).await?;
    let mut measured = Vec::new();
    for round in 0..=rounds {
        eprint!("\rsessions: round {round} of {rounds} ");
        let one = Round {
            attested: turn(&server, async || attested(&server).await).await?,
            plain: turn(&server, async || plain(&server).await).await?,
            again: again(&server).await?,
        };
        // Round 0 warms caches up.
        if round > 0 {
            measured.push(one);
        }
    }
    eprintln!();
    let amd_ms = ms(rsa::difference(place.root())?);
    Ok(describe(&measured, amd_ms, extra_ms_max))
}

/// Lets `step` happen [`SESSIONS`] times and waits until the server has closed what it opened.
async fn turn(server: &Server, step: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<Cost> {
    let (cpu, chip, begun) = (clock::process_cpu(), server.chip.cpu(), Instant::now());
    for _ in 0..SESSIONS {
        step().await?;
    }
    let wall = begun.elapsed();
    server.quiet().await?;
    let chip = server.chip.cpu().saturating_sub(chip);
    let cpu = clock::process_cpu()
        .saturating_sub(cpu)
        .saturating_sub(chip);
    Ok(Cost {
        cpu_ms: ms(cpu / SESSIONS),
        wall_ms: ms(wall / SESSIONS),
        chip_ms: ms(chip / SESSIONS),
    })
}

/// The whole of a session: TCP, TLS, challenge, evidence, appraisal with fresh signed documents, confirmation.
async fn attested(server: &Server) -> anyhow::Result<()> {
    let session = server.connector.attest().await?;
    ensure!(session.is_usable(), "a session without life");
    Ok(())
}

/// The peer: the same TLS with the same certificates, HTTP/2 on it as the client has it, and one request.
async fn plain(server: &Server) -> anyhow::Result<()> {
    let stream = server.plain.connect(&server.address, CONNECT_LIMIT).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    ensure!(http2, "the server speaks no HTTP/2");
    let (mut sender, driver) = http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(driver);
    let request = Request::get("https://localhost/health").body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    ensure!(head.status == StatusCode::OK, "unhealthy: {}", head.status);
    body.collect().await.context("health")?;
    Ok(())
}

/// A turn of re-attestations on one open connection.
async fn again(server: &Server) -> anyhow::Result<Cost> {
    let first = server.connector.attest().await?;
    let cost = {
        let first = &first;
        let (cpu, chip, begun) = (clock::process_cpu(), server.chip.cpu(), Instant::now());
        for _ in 0..SESSIONS {
            let next = server.connector.attest_again(first).await?;
            ensure!(next.session() != first.session(), "the same session again");
        }
        let (wall, chip) = (begun.elapsed(), server.chip.cpu().saturating_sub(chip));
        let cpu = clock::process_cpu().saturating_sub(cpu);
        Cost {
            cpu_ms: ms(cpu.saturating_sub(chip) / SESSIONS),
            wall_ms: ms(wall / SESSIONS),
            chip_ms: ms(chip / SESSIONS),
        }
    };
    drop(first);
    server.quiet().await?;
    Ok(cost)
}

fn describe(rounds: &[Round], amd_ms: f64, extra_ms_max: f64) -> Vec<Row> {
    let over = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
    let attested = over(|round| round.attested.cpu_ms);
    let plain = over(|round| round.plain.cpu_ms);
    let extra = over(|round| round.attested.cpu_ms - round.plain.cpu_ms);
    let per_second = |wall_ms: f64| 1e3 / wall_ms;
    let handshakes = per_second(over(|round| round.plain.wall_ms));
    vec![
        Row::compared(
            "CPU ms per session (peer: TLS and one request)",
            attested,
            plain,
        ),
        Row::alone("  of it beyond the peer, test chip's RSA-2048, ms", extra),
        Row::alone("  three RSA-4096 signatures instead, ms", amd_ms),
        Row::alone("CPU ms beyond the peer, AMD's key sizes", extra + amd_ms)
            .with_bar(Bar::AtMost(extra_ms_max)),
        Row::alone(
            "test chip's own CPU, left out above, ms",
            over(|round| round.attested.chip_ms),
        ),
        Row::alone("TLS connections with one request, /s", handshakes),
        Row::alone(
            "sessions one after another, chip included, /s",
            per_second(over(|round| round.attested.wall_ms)),
        ),
        Row::alone(
            "re-attestations, chip included, /s",
            per_second(over(|round| round.again.wall_ms)),
        ),
        Row::alone(
            "CPU ms per re-attestation",
            over(|round| round.again.cpu_ms),
        ),
    ]
}
