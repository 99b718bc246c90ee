"""The direct way in, without `connect`: mTLS by pyOpenSSL, the attestation calls of docs/formats/session.md, and then
openai-python's own httpx client on that very connection.

Nothing here trusts what it does not check: the binding is recomputed from this side's view of the connection and
compared with what the report signs (rules P-20 to P-24). The report's own signature and chain are the Rust verifier's
business (`casemate verify`); this file shows that the protocol can be spoken by somebody else.
"""

import base64
import hashlib
import json
import os
import select
import socket
import struct
import time

import httpcore
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from OpenSSL import SSL

EXPORTER = b"EXPORTER-casemate-attestation-v1"
REPORT_DATA = slice(0x50, 0x90)
REPORT_BYTES = 1184


class Refused(Exception):
    """A check did not hold; the message names its rule."""


def framed(*items: bytes) -> bytes:
    """Rule P-3."""
    return b"".join(struct.pack(">I", len(item)) + item for item in items)


def labelled(label: str, *items: bytes) -> bytes:
    return hashlib.sha512(label.encode() + framed(*items)).digest()


def binding(direction, exporter, server_leaf, client_leaf, nonce, context) -> bytes:
    """Rule P-20."""
    models = b"".join(bytes.fromhex(model) for model in context["models"])
    return labelled(
        "casemate/session/v1", direction.encode(), exporter, server_leaf, client_leaf, nonce,
        bytes.fromhex(context["policy_bundle"]), models,
        bytes.fromhex(context["configuration"]), bytes.fromhex(context["device_evidence"]))


def batch_report_data(bound: bytes, batch) -> bytes:
    """Rules P-23 and P-24: what the report must carry for `bound`."""
    if batch is None:
        return bound
    index, leaves, path = batch["index"], batch["leaves"], [bytes.fromhex(p) for p in batch["path"]]
    if not 0 <= index < leaves <= 65536:
        raise Refused("P-24: index outside the batch")
    node = labelled("casemate/batch-leaf/v1", bound)
    while leaves > 1:
        if index % 2 == 1:
            node = labelled("casemate/batch-node/v1", path.pop(0), node)
        elif index + 1 < leaves:
            node = labelled("casemate/batch-node/v1", node, path.pop(0))
        index, leaves = index // 2, (leaves + 1) // 2
    if path:
        raise Refused("P-24: path is too long")
    return labelled("casemate/batch/v1", node)


def strict(text: bytes) -> dict:
    """Rule P-2: no duplicate key."""
    def pairs(found):
        if len({key for key, _ in found}) != len(found):
            raise Refused("P-2: duplicate key")
        return dict(found)
    return json.loads(text, object_pairs_hook=pairs)


class TlsStream(httpcore.NetworkStream):
    """A pyOpenSSL connection as httpcore wants it. Blocking calls with a timeout."""

    def __init__(self, connection, sock):
        self.connection, self.sock = connection, sock

    def _wait(self, write: bool, deadline):
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = select.select([] if write else [self.sock], [self.sock] if write else [], [], left)
        if not (ready[0] or ready[1]):
            raise httpcore.WriteTimeout() if write else httpcore.ReadTimeout()

    def _retry(self, call, timeout, failure):
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return call()
            except SSL.WantReadError:
                self._wait(False, deadline)
            except SSL.WantWriteError:
                self._wait(True, deadline)
            except SSL.ZeroReturnError:
                return b""
            except (SSL.Error, OSError) as error:
                raise failure(str(error)) from error

    def handshake(self, timeout):
        self._retry(self.connection.do_handshake, timeout, httpcore.ConnectError)

    def read(self, max_bytes, timeout=None):
        return self._retry(lambda: self.connection.recv(max_bytes), timeout, httpcore.ReadError)

    def write(self, buffer, timeout=None):
        view = memoryview(buffer)
        while view:
            sent = self._retry(lambda: self.connection.send(bytes(view[:16384])), timeout, httpcore.WriteError)
            view = view[sent:]

    def close(self):
        try:
            self.connection.shutdown()
        except (SSL.Error, OSError):
            pass
        self.sock.close()

    def get_extra_info(self, info):
        return self.connection if info == "ssl_object" else None


class Backend(httpcore.NetworkBackend):
    """Every connection that httpx opens is attested before httpx sees it."""

    def __init__(self, direct: dict):
        self.direct, self.sessions = direct, []

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        stream, session = attested_stream(self.direct, timeout or 30.0)
        self.sessions.append(session)
        return PlainFace(stream)


class PlainFace(httpcore.NetworkStream):
    """httpcore is given an http:// URL, so that it does not start a TLS of its own on the attested stream."""

    def __init__(self, stream):
        self.read, self.write, self.close = stream.read, stream.write, stream.close

    def get_extra_info(self, info):
        return None


def context_for(direct: dict) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_certificate_chain_file(direct["certificate"])
    context.use_privatekey_file(direct["key"])
    context.load_verify_locations(direct["enclave_ca"])
    context.set_verify(SSL.VERIFY_PEER, lambda connection, cert, error, depth, ok: bool(ok))
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_protos([b"http/1.1"])
    return context


def attested_stream(direct: dict, timeout: float):
    """TLS, challenge, check, confirm. Gives the stream and the server's answer to the confirmation."""
    sock = socket.create_connection((direct["host"], direct["port"]), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    connection = SSL.Connection(context_for(direct), sock)
    name = direct.get("server_name", direct["host"])
    connection.set_tlsext_host_name(name.encode())
    connection.set_connect_state()
    stream = TlsStream(connection, sock)
    stream.handshake(timeout)
    return stream, attest(connection, stream, direct, name)


def attest(connection, stream, direct: dict, name: str) -> dict:
    leaf = connection.get_peer_certificate().to_cryptography()
    check_leaf(leaf, name)
    nonce = os.urandom(32)
    envelope = post(stream, name, "/attest/challenge", {"nonce": nonce.hex()})
    evidence = strict(envelope)
    if evidence["direction"] != "server":
        raise Refused("P-20: evidence describes the other side")
    if evidence["platform"] != direct["platform"]:
        raise Refused("P-31: evidence of another platform")
    report = base64.b64decode(evidence["hardware"]["snp"]["report"], validate=True)
    if len(report) != REPORT_BYTES:
        raise Refused("P-30: report length")
    own = x509.load_pem_x509_certificate(open(direct["certificate"], "rb").read())
    exporter = connection.export_keying_material(EXPORTER, 32, nonce)
    bound = binding("server", exporter, der_digest(leaf), der_digest(own), nonce, evidence["context"])
    if report[REPORT_DATA] != batch_report_data(bound, evidence["batch"]):
        raise Refused("P-35: report data is not this session's binding")
    digest = hashlib.sha256(envelope).digest()
    signature = sign(direct["key"], b"casemate/confirm/v1" + framed(bound, digest))
    granted = strict(post(stream, name, "/attest/confirm", {
        "binding": bound.hex(), "evidence": digest.hex(),
        "signature": base64.b64encode(signature).decode(), "client_evidence": None}))
    if granted["deadline"] <= time.time():
        raise Refused("P-42: session is over already")
    return granted


def check_leaf(leaf, name: str):
    """Rule P-12, and the name."""
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    if life.total_seconds() > 24 * 3600:
        raise Refused("P-12: server certificate lives too long")
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = set(names.get_values_for_type(x509.DNSName))
    known |= {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    if name not in known:
        raise Refused("server certificate is for another name")


def der_digest(certificate) -> bytes:
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()


def sign(key_file: str, message: bytes) -> bytes:
    """Rule P-41."""
    key = serialization.load_pem_private_key(open(key_file, "rb").read(), None)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return key.sign(message, ec.ECDSA(hashes.SHA384()))
    return key.sign(message, ec.ECDSA(hashes.SHA256()))


def post(stream, host: str, path: str, body: dict) -> bytes:
    """One HTTP/1.1 exchange on the stream, before httpx takes it over."""
    import h11

    machine = h11.Connection(h11.CLIENT)
    text = json.dumps(body).encode()
    headers = [("host", host), ("content-type", "application/json"), ("content-length", str(len(text)))]
    stream.write(machine.send(h11.Request(method="POST", target=path, headers=headers)), 30)
    stream.write(machine.send(h11.Data(data=text)) + machine.send(h11.EndOfMessage()), 30)
    status, answer = None, b""
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            machine.receive_data(stream.read(65536, 60))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            answer += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            raise Refused(f"{path}: connection ended")
    if status != 200:
        raise Refused(f"{path}: status {status} {answer[:300]!r}")
    return answer


class AttestedTransport(httpx.HTTPTransport):
    """httpx on attested connections only."""

    def __init__(self, direct: dict):
        super().__init__()
        self.backend = Backend(direct)
        self._pool = httpcore.ConnectionPool(network_backend=self.backend, max_connections=4)


def client(direct: dict) -> httpx.Client:
    """An httpx client for openai-python's `http_client`; its base URL is `base_url(direct)`."""
    return httpx.Client(transport=AttestedTransport(direct), timeout=120.0)


def base_url(direct: dict) -> str:
    """http:// to httpx, because TLS is this module's business; the wire is TLS 1.3 all the same."""
    return f"http://{direct.get('server_name', direct['host'])}:{direct['port']}/v1"
