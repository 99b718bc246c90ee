#!/usr/bin/env python3
"""Vectors for sealed packages, from an implementation of docs/formats/package.md of its own.

    pip install cryptography
    ./make-package-vectors.py

writes package-kat.json (known answers) and package-refuse.json (packages that break one rule each, otherwise
well made) beside itself. Everything follows from the fixed inputs below: a second run writes the same bytes.
"""
import hashlib
import json
import pathlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHUNK = 1 << 20
DATA_KEY = bytes(range(32))
PACKAGE_ID = bytes(range(0xA0, 0xB0))
SEED = bytes(range(0x40, 0x60))
EPOCH, KEY_ID, NAME, VERSION = 7, "file:0123456789abcdef", "tiny", "1.0"


def framed(*items):
    """Rule P-3."""
    return b"".join(struct.pack(">I", len(item)) + item for item in items)


def sha256(data):
    return hashlib.sha256(data).digest()


def subkey(key, package_id, part):
    """Rule PK-11."""
    info = b"casemate/subkey/v1" + framed(package_id, part)
    return HKDF(hashes.SHA256(), 32, b"casemate/package/v1", info).derive(key)


def associated(package_id, epoch, part, index, last):
    """Rule PK-22."""
    items = package_id, struct.pack(">Q", epoch), part, struct.pack(">Q", index), bytes([last])
    return b"casemate/chunk/v1" + framed(*items)


def seal_part(key, package_id, epoch, part, plain):
    """Rules PK-20 to PK-22."""
    cipher = AESGCM(subkey(key, package_id, part))
    chunks = [plain[i:i + CHUNK] for i in range(0, len(plain), CHUNK)] or [b""]
    return b"".join(
        cipher.encrypt(i.to_bytes(12, "big"), chunk, associated(package_id, epoch, part, i, i + 1 == len(chunks)))
        for i, chunk in enumerate(chunks))


def tree_hash(chunks):
    """Rule PK-32."""
    level = [sha256(b"\0" + chunk) for chunk in chunks]
    while len(level) > 1:
        level = [sha256(b"\1" + level[i] + level[i + 1]) if i + 1 < len(level) else level[i]
                 for i in range(0, len(level), 2)]
    return level[0]


def gguf(content_len):
    """A GGUF file with one F32 tensor that fills the content; its bytes follow a simple rule."""
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()
    rows = content_len // 4
    tensors = [("token_embd.weight", rows)] if rows else []
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    for name, size in tensors:
        head += text(name) + struct.pack("<IQIQ", 1, size, 0, 0)
    head += bytes(-len(head) % 32)
    content = bytes((i * 7 + (i >> 8) + (i >> 16)) & 0xFF for i in range(content_len))
    return head, content


def public_key(seed):
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def build(head, content, **wrong):
    """A whole package (rules PK-1, PK-30, PK-33). `wrong` puts something else in the place of one right value."""
    value = lambda name, right: wrong.get(name, right)
    weights = value("weights", None) or seal_part(DATA_KEY, PACKAGE_ID, EPOCH, b"weights", content)
    key_id = value("key_id", KEY_ID.encode())
    header_len = 16 + 16 + 8 + 4 + len(key_id) + 8 + 4 + 8 + 40
    clear = value("magic", b"CASEMATE") + struct.pack(">II", value("format_version", 1), value("header_len", header_len))
    clear += PACKAGE_ID + struct.pack(">Q", EPOCH) + framed(key_id)
    clear += struct.pack(">HHHHIQ", *value("algorithms", (1, 1, 1, 1)), value("chunk_len", CHUNK), value("weights_len", len(weights)))
    chunks = [content[i:i + CHUNK] for i in range(0, len(content), CHUNK)] or [b""]
    items = {"format": b"casemate/manifest/v1", "name": NAME.encode(), "version": VERSION.encode(), "source_header": head,
             "content_len": struct.pack(">Q", len(content)), "tree_hash": tree_hash(chunks),
             "source_hash": sha256(head + content), "publisher": public_key(SEED)}
    manifest = framed(*(value(name, right) for name, right in items.items()))
    signer = Ed25519PrivateKey.from_private_bytes(value("seed", SEED))
    label = value("label", b"casemate/package-signature/v1")
    message = value("message", lambda c, m: framed(c, m))(clear, manifest)
    manifest += framed(value("signature", signer.sign(label + message)))
    manifest = value("manifest", lambda m: m)(manifest)
    sealed = value("seal_manifest", lambda m: seal_part(DATA_KEY, PACKAGE_ID, EPOCH, b"manifest", m))(manifest)
    clear += struct.pack(">Q", value("manifest_len", len(sealed))) + value("digest", sha256(sealed))
    clear += value("header_end", b"")
    return clear, sealed, weights


def answer(content_len):
    head, content = gguf(content_len)
    clear, sealed, weights = build(head, content)
    whole = clear + sealed + weights
    known = {"content_len": content_len, "source_sha256": sha256(head + content).hex(),
             "package_digest": sha256(clear).hex(), "package_len": len(whole), "package_sha256": sha256(whole).hex()}
    if content_len <= 64:
        known["source"], known["package"] = (head + content).hex(), whole.hex()
    return known


def chunk_case(epoch, part, index, last, plain):
    cipher = AESGCM(subkey(DATA_KEY, PACKAGE_ID, part))
    data = associated(PACKAGE_ID, epoch, part, index, last)
    return {"epoch": epoch, "part": part.decode(), "index": index, "last": bool(last), "associated": data.hex(),
            "plain": plain.hex(), "sealed": cipher.encrypt(index.to_bytes(12, "big"), plain, data).hex()}


def known_answers():
    cases = [(7, b"weights", 0, 0, b"abc"), (7, b"weights", 0, 1, b"abc"), (7, b"weights", 1, 0, b"abc"),
             (8, b"weights", 0, 0, b"abc"), (7, b"manifest", 0, 0, b"abc"), (7, b"weights", 1 << 40, 1, b""),
             ((1 << 64) - 1, b"manifest", 255, 1, bytes(range(256)))]
    subkeys = [{"part": part, "subkey": subkey(DATA_KEY, PACKAGE_ID, part.encode()).hex()} for part in ("manifest", "weights")]
    return {
        "inputs": {"data_key": DATA_KEY.hex(), "package_id": PACKAGE_ID.hex(), "publisher_seed": SEED.hex(),
                   "publisher": public_key(SEED).hex(), "epoch": EPOCH, "key_id": KEY_ID, "name": NAME, "version": VERSION},
        "PK-11": subkeys,
        "PK-22": [chunk_case(*case) for case in cases],
        "PK-32": [{"leaves": n, "root": tree_hash([bytes([i]) for i in range(n)]).hex()} for n in range(1, 10)],
        "packages": [answer(n) for n in (0, 32, CHUNK, CHUNK + 4, 2 * CHUNK + 512 * 1024)],
    }


def refusals():
    """(rule, what is wrong, the error, the package). Every package is sealed and signed rightly but for that."""
    head, content = gguf(32)
    flip = lambda data, at=0: data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
    other = bytes(32)
    good = build(head, content)
    right_len = len(good[0])

    def joined(**wrong):
        return b"".join(build(head, content, **wrong))

    def foreign(key=DATA_KEY, package_id=PACKAGE_ID, epoch=EPOCH, part=b"weights"):
        return joined(weights=seal_part(key, package_id, epoch, part, content))

    whole = b"".join(good)
    cases = [
        ("PK-1", "nothing", None, whole),
        ("PK-3", "another magic", "NotAPackage", joined(magic=b"CASEMATF")),
        ("PK-3", "a GGUF file", "NotAPackage", head + content),
        ("PK-3", "format version 0", "UnsupportedVersion", joined(format_version=0)),
        ("PK-3", "format version 2", "UnsupportedVersion", joined(format_version=2)),
        ("PK-3", "another cipher", "UnsupportedAlgorithm", joined(algorithms=(2, 1, 1, 1))),
        ("PK-3", "another derivation", "UnsupportedAlgorithm", joined(algorithms=(1, 0, 1, 1))),
        ("PK-3", "another tree hash", "UnsupportedAlgorithm", joined(algorithms=(1, 1, 65535, 1))),
        ("PK-3", "another signature", "UnsupportedAlgorithm", joined(algorithms=(1, 1, 1, 2))),
        ("PK-2", "header length one too few", "MalformedHeader", joined(header_len=right_len - 1)),
        ("PK-2", "header length one too many", "MalformedHeader", joined(header_len=right_len + 1)),
        ("PK-2", "a byte left over in the header", "MalformedHeader", joined(header_len=right_len + 1, header_end=b"\0")),
        ("PK-2", "header length 4097", "MalformedHeader", joined(header_len=4097)),
        ("PK-2", "header length 15", "MalformedHeader", joined(header_len=15)),
        ("PK-1", "empty key id", "MalformedHeader", joined(key_id=b"")),
        ("PK-1", "key id of 128 characters", None, joined(key_id=b"k" * 128)),
        ("PK-1", "key id of 129 characters", "MalformedHeader", joined(key_id=b"k" * 129)),
        ("PK-1", "key id with a space", "MalformedHeader", joined(key_id=b"a b")),
        ("PK-1", "key id with an escape", "MalformedHeader", joined(key_id=b"a\x1b[2Jb")),
        ("PK-1", "key id that is not ASCII", "MalformedHeader", joined(key_id="schl\u00fcssel".encode())),
        ("PK-4", "another chunk length", "MalformedHeader", joined(chunk_len=CHUNK * 2)),
        ("PK-4", "chunk length 0", "MalformedHeader", joined(chunk_len=0)),
        ("PK-4", "weights shorter than a tag", "MalformedHeader", joined(weights_len=15)),
        ("PK-4", "weights that end in an empty chunk", "MalformedHeader", joined(weights_len=CHUNK + 32)),
        ("PK-4", "weights beyond the longest content", "MalformedHeader", joined(weights_len=(1 << 64) - 1)),
        ("PK-4", "manifest beyond 64 MiB", "MalformedHeader", joined(manifest_len=(64 << 20) + 1041)),
        ("PK-4", "manifest shorter than a tag", "MalformedHeader", joined(manifest_len=0)),
        ("PK-6", "empty file", "Truncated", b""),
        ("PK-6", "magic only", "Truncated", whole[:8]),
        ("PK-6", "half a header", "Truncated", whole[:60]),
        ("PK-6", "header only", "Truncated", whole[:right_len]),
        ("PK-6", "one byte cut off", "Truncated", whole[:-1]),
        ("PK-6", "one byte too many", "TrailingBytes", whole + b"\0"),
        ("PK-24", "manifest's digest is another", "CannotOpen", joined(digest=other)),
        ("PK-24", "manifest altered and digest made to fit", "CannotOpen",
         joined(seal_manifest=lambda m: flip(seal_part(DATA_KEY, PACKAGE_ID, EPOCH, b"manifest", m)))),
        ("PK-11", "manifest sealed as weights", "CannotOpen",
         joined(seal_manifest=lambda m: seal_part(DATA_KEY, PACKAGE_ID, EPOCH, b"weights", m))),
        ("PK-22", "manifest of another epoch", "CannotOpen",
         joined(seal_manifest=lambda m: seal_part(DATA_KEY, PACKAGE_ID, EPOCH - 1, b"manifest", m))),
        ("PK-24", "altered chunk", "CannotOpen", whole[:-40] + flip(whole[-40:])),
        ("PK-24", "altered tag", "CannotOpen", flip(whole, len(whole) - 1)),
        ("PK-11", "weights under another data key", "CannotOpen", foreign(key=other)),
        ("PK-11", "weights of another package", "CannotOpen", foreign(package_id=other[:16])),
        ("PK-11", "weights sealed as manifest", "CannotOpen", foreign(part=b"manifest")),
        ("PK-22", "weights of another epoch", "CannotOpen", foreign(epoch=EPOCH - 1)),
        ("PK-30", "another manifest format", "MalformedManifest", joined(format=b"casemate/manifest/v2")),
        ("PK-30", "empty name", "MalformedManifest", joined(name=b"")),
        ("PK-30", "name of 128 bytes", None, joined(name=b"n" * 128)),
        ("PK-30", "name of 129 bytes", "MalformedManifest", joined(name=b"n" * 129)),
        ("PK-30", "name that is not UTF-8", "MalformedManifest", joined(name=b"\xff")),
        ("PK-30", "version with a line break", "MalformedManifest", joined(version=b"1\n2")),
        ("PK-30", "short content length", "MalformedManifest", joined(content_len=bytes(7))),
        ("PK-30", "long tree hash", "MalformedManifest", joined(tree_hash=bytes(33))),
        ("PK-30", "short signature", "MalformedManifest", joined(signature=bytes(63))),
        ("PK-30", "byte left over in the manifest", "MalformedManifest", joined(manifest=lambda m: m + b"\0")),
        ("PK-30", "manifest cut", "MalformedManifest", joined(manifest=lambda m: m[:-1])),
        ("PK-30", "empty manifest", "MalformedManifest", joined(manifest=lambda m: b"")),
        ("PK-31", "content length one more than the weights", "MalformedManifest", joined(content_len=struct.pack(">Q", 33))),
        ("PK-31", "source header with a byte behind it", "MalformedManifest", joined(source_header=head + bytes(1))),
        ("PK-31", "source header cut", "SourceHeader", joined(source_header=head[:40])),
        ("PK-31", "tensor outside the content", "MalformedManifest", joined(source_header=gguf(64)[0])),
        ("PK-33", "signed with another key under the pinned name", "BadSignature", joined(seed=other)),
        ("PK-33", "signature of zeros", "BadSignature", joined(signature=bytes(64))),
        ("PK-33", "another label", "BadSignature", joined(label=b"casemate/signed/v1")),
        ("PK-33", "clear header not signed", "BadSignature", joined(message=lambda c, m: framed(m))),
        ("PK-33", "lengths not framed", "BadSignature", joined(message=lambda c, m: c + m)),
        ("PK-34", "another publisher", "WrongPublisher", joined(seed=other, publisher=public_key(other))),
        ("PK-32", "another tree hash, signed", "TreeHashDiffers", joined(tree_hash=other)),
        ("PK-32", "leaf without its prefix", "TreeHashDiffers", joined(tree_hash=sha256(content))),
        ("PK-42", "another source hash, signed", "SourceHashDiffers", joined(source_hash=other)),
        ("PK-42", "hash of the content alone", "SourceHashDiffers", joined(source_hash=sha256(content))),
    ]
    return [{"rule": rule, "what": what, "error": error, "package": package.hex()} for rule, what, error, package in cases]


def main():
    folder = pathlib.Path(__file__).parent
    for name, vectors in ("package-kat.json", known_answers()), ("package-refuse.json", refusals()):
        (folder / name).write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
