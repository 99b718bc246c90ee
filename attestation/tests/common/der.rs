//! DER as a tree, so that a test can change one thing in a certificate and keep every length right.

#![allow(dead_code, reason = "each test file uses its own part")]

/// A value: constructed ones hold parts, the others bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Der {
    pub tag: u8,
    pub bytes: Vec<u8>,
    pub parts: Vec<Der>,
}

impl Der {
    pub fn primitive(tag: u8, bytes: &[u8]) -> Self {
        Self {
            tag,
            bytes: bytes.to_vec(),
            parts: Vec::new(),
        }
    }

    pub fn sequence(parts: Vec<Self>) -> Self {
        Self {
            tag: 0x30,
            bytes: Vec::new(),
            parts,
        }
    }

    /// Reads exactly one value.
    pub fn read(bytes: &[u8]) -> Self {
        let (value, rest) = Self::split(bytes);
        assert!(rest.is_empty());
        value
    }

    fn split(bytes: &[u8]) -> (Self, &[u8]) {
        let (tag, first, mut rest) = (bytes[0], usize::from(bytes[1]), &bytes[2..]);
        let mut length = first;
        if first >= 0x80 {
            let digits;
            (digits, rest) = rest.split_at(first - 0x80);
            length = digits
                .iter()
                .fold(0, |length, digit| length << 8 | usize::from(*digit));
        }
        let (mut content, rest) = rest.split_at(length);
        if tag & 0x20 == 0 {
            return (Self::primitive(tag, content), rest);
        }
        let mut parts = Vec::new();
        while !content.is_empty() {
            let part;
            (part, content) = Self::split(content);
            parts.push(part);
        }
        let bytes = Vec::new();
        (Self { tag, bytes, parts }, rest)
    }

    pub fn write(&self) -> Vec<u8> {
        let mut content = self.bytes.clone();
        for part in &self.parts {
            content.extend(part.write());
        }
        let mut out = vec![self.tag];
        match content.len() {
            short @ 0..=0x7f => out.push(short as u8),
            long => {
                let digits = long.to_be_bytes().into_iter().skip_while(|d| *d == 0);
                let digits: Vec<u8> = digits.collect();
                out.push(0x80 | digits.len() as u8);
                out.extend(digits);
            }
        }
        out.extend(content);
        out
    }

    /// The value at the end of a path of positions.
    pub fn at(&mut self, path: &[usize]) -> &mut Self {
        path.iter()
            .fold(self, |value, step| &mut value.parts[*step])
    }
}

/// A certificate's or list's extension.
pub fn extension(id: &[u8], critical: bool, value: &[u8]) -> Der {
    let mut parts = vec![Der::primitive(0x06, id)];
    parts.extend(critical.then(|| Der::primitive(0x01, &[0xff])));
    parts.push(Der::primitive(0x04, value));
    Der::sequence(parts)
}
