//! Somebody on the way between client and server: passes everything on, and writes down of each TLS record when it came, from
//! whom, and how long it was. He has no key.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// A TLS record as he sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: Instant,
    pub from_server: bool,
    /// With its five bytes of header.
    pub bytes: usize,
}

pub struct Tap {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Tap {
    pub async fn on_the_way_to(server: SocketAddr) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((client, _)) = socket.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, false, Arc::clone(&notes)));
                tokio::spawn(pass(from_server, to_client, true, Arc::clone(&notes)));
            }
        });
        Self { address, seen }
    }

    /// What was seen since the last time.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    from_server: bool,
    notes: Arc<Mutex<Vec<Seen>>>,
) {
    let mut record = vec![0; 5];
    while from.read_exact(&mut record[..5]).await.is_ok() {
        let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
        record.resize(5 + length, 0);
        if from.read_exact(&mut record[5..]).await.is_err() {
            return;
        }
        notes.lock().unwrap().push(Seen {
            at: Instant::now(),
            from_server,
            bytes: record.len(),
        });
        if to.write_all(&record).await.is_err() {
            return;
        }
    }
}

/// Sizes of the records that the server sent.
pub fn from_server(seen: &[Seen]) -> Vec<usize> {
    let from_server = seen.iter().filter(|seen| seen.from_server);
    from_server.map(|seen| seen.bytes).collect()
}

/// Bytes that the client sent.
pub fn to_server(seen: &[Seen]) -> usize {
    let to_server = seen.iter().filter(|seen| !seen.from_server);
    to_server.map(|seen| seen.bytes).sum()
}
