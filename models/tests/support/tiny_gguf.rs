//! The GGUF file of the package vectors: one F32 tensor that fills the content.

/// A file whose tensor data is `content_len` bytes long, a multiple of 4; its bytes follow a simple rule.
pub fn tiny_gguf(content_len: usize) -> Vec<u8> {
    let text = |s: &str| [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat();
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(u64::from(content_len > 0).to_le_bytes());
    file.extend(1u64.to_le_bytes());
    file.extend(text("general.architecture"));
    file.extend(8u32.to_le_bytes());
    file.extend(text("llama"));
    if content_len > 0 {
        file.extend(text("token_embd.weight"));
        file.extend(1u32.to_le_bytes());
        file.extend((content_len as u64 / 4).to_le_bytes());
        file.extend(0u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend((0..content_len).map(|i| (i * 7 + (i >> 8) + (i >> 16)) as u8));
    file
}
