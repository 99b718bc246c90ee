//! A server on this machine that answers as it is told, byte by byte, and remembers what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What is answered.
#[derive(Clone)]
pub enum Reply {
    /// These bytes, and the connection ends.
    Bytes(Vec<u8>),
    /// A body that goes on until the asker leaves.
    Endless,
}

/// An answer with a head and a body of the length that it says.
pub fn reply(status: u16, head: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut bytes = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in head {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut bytes = (bytes + "\r\n").into_bytes();
    bytes.extend(body);
    Reply::Bytes(bytes)
}

pub fn ok(body: &[u8]) -> Reply {
    reply(200, &[], body)
}

/// By method and target; for a question (POST) by its body in hexadecimal.
type Replies = Arc<Mutex<BTreeMap<String, VecDeque<Reply>>>>;

pub struct Server {
    pub address: String,
    replies: Replies,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let replies = Replies::default();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (to_answer, to_note) = (replies.clone(), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (replies, asked) = (to_answer.clone(), to_note.clone());
                thread::spawn(move || answer(stream, &replies, &asked));
            }
        });
        Self {
            address,
            replies,
            asked,
        }
    }

    /// From now on this is answered; the last of several again and again.
    pub fn put(&self, asked: &str, replies: &[Reply]) {
        let replies = replies.iter().cloned().collect();
        self.replies
            .lock()
            .unwrap()
            .insert(asked.to_owned(), replies);
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn answer(mut stream: TcpStream, replies: &Replies, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let length = name.eq_ignore_ascii_case("content-length");
        length.then(|| value.trim().parse().ok()).flatten()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let line = head.lines().next().unwrap();
    let target = line.strip_suffix(" HTTP/1.1").unwrap();
    let key = match target.starts_with("POST") {
        true => format!("POST {}", hex::encode(body)),
        false => target.to_owned(),
    };
    asked.lock().unwrap().push(key.clone());
    let reply = {
        let mut replies = replies.lock().unwrap();
        match replies.get_mut(&key) {
            None => reply(404, &[], b""),
            Some(queue) if queue.len() > 1 => queue.pop_front().unwrap(),
            Some(queue) => queue.front().unwrap().clone(),
        }
    };
    match reply {
        Reply::Bytes(bytes) => stream.write_all(&bytes).ok(),
        Reply::Endless => {
            let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).ok()?;
            loop {
                stream.write_all(b"1\r\nx\r\n").ok()?;
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
