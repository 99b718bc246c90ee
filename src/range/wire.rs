//! Somebody on the way to a server: passes everything on, and writes down when something came and how long it was. Of a TLS
//! connection he sees records; of a plain one what comes at once, which stands for them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::traces::Trace;

/// Notes that are kept; whoever asks for none loses the rest.
const NOTES_MAX: usize = 1 << 20;
/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// What TLS begins with: a handshake record of version 3.
const TLS_BEGINS: [u8; 2] = [0x16, 3];
/// Header of a record.
const HEADER_BYTES: usize = 5;
/// What is read at once from a connection without TLS.
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
struct Note {
    at: Instant,
    from_server: bool,
    bytes: usize,
}

/// A relay that takes notes. Dropping it ends it; connections that it carries end with their sides.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    notes: Arc<Mutex<Vec<Note>>>,
    accepting: JoinHandle<()>,
}

impl Wire {
    /// Listens on loopback, and passes on to `server`, which is a host and a port.
    ///
    /// # Errors
    /// Where the system refuses a socket.
    pub async fn to(server: String) -> std::io::Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let notes = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(accept(socket, server, Arc::clone(&notes)));
        Ok(Self {
            address,
            notes,
            accepting,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets what was seen.
    pub fn forget(&self) {
        self.notes().clear();
    }

    /// What was seen since: one request and its answer.
    #[must_use]
    pub fn trace(&self) -> Trace {
        let notes = std::mem::take(&mut *self.notes());
        let mut before = notes.iter().find(|note| !note.from_server).map(|n| n.at);
        let mut trace = Trace::default();
        for note in notes {
            if note.from_server {
                let since = before.replace(note.at).unwrap_or(note.at);
                let gap = note.at.saturating_duration_since(since).as_secs_f64();
                trace.records.push((note.bytes, gap));
            } else {
                trace.request_bytes = trace.request_bytes.saturating_add(note.bytes);
            }
        }
        trace
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Vec<Note>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(socket: TcpListener, server: String, notes: Arc<Mutex<Vec<Note>>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((client, _)) = socket.accept().await else {
            return;
        };
        let (server, notes) = (server.clone(), Arc::clone(&notes));
        tokio::spawn(async move {
            let _place = place;
            let Ok(server) = TcpStream::connect(server).await else {
                return;
            };
            // Without it what is seen is not what was written.
            let both = client.set_nodelay(true).and(server.set_nodelay(true));
            if let Err(error) = both {
                tracing::debug!(%error, "small writes may wait for each other");
            }
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let there = carry(from_client, to_server, false, &notes);
            let back = carry(from_server, to_client, true, &notes);
            tokio::join!(there, back);
        });
    }
}

/// Passes one direction on, until it ends.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    from_server: bool,
    notes: &Mutex<Vec<Note>>,
) {
    let mut piece = Vec::new();
    let mut records = None;
    while let Some(bytes) = next(&mut from, &mut piece, &mut records).await {
        write_down(notes, from_server, bytes);
        if to.write_all(&piece).await.is_err() {
            break;
        }
    }
}

fn write_down(notes: &Mutex<Vec<Note>>, from_server: bool, bytes: usize) {
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    if notes.len() < NOTES_MAX {
        notes.push(Note {
            at: Instant::now(),
            from_server,
            bytes,
        });
    }
}

/// Reads the next record or piece; `records` remembers which of them it is.
async fn next(
    from: &mut OwnedReadHalf,
    piece: &mut Vec<u8>,
    records: &mut Option<bool>,
) -> Option<usize> {
    piece.clear();
    if records.is_none() {
        let mut first = [0; 2];
        let peeked = from.peek(&mut first).await.ok()?;
        *records = Some(first.get(..peeked)? == TLS_BEGINS);
    }
    if *records == Some(true) {
        let mut header = [0; HEADER_BYTES];
        from.read_exact(&mut header).await.ok()?;
        let [_, _, _, high, low] = header;
        piece.extend_from_slice(&header);
        piece.resize(
            HEADER_BYTES.saturating_add(u16::from_be_bytes([high, low]).into()),
            0,
        );
        from.read_exact(piece.get_mut(HEADER_BYTES..)?).await.ok()?;
    } else {
        piece.resize(PIECE_BYTES, 0);
        let read = from.read(piece).await.ok().filter(|read| *read > 0)?;
        piece.truncate(read);
    }
    Some(piece.len())
}
