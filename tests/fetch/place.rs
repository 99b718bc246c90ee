//! A folder, a server and what is owned: genuine documents of AMD and Intel, and a device of the tests' own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use casemate::config::Loaded;
use casemate::vendors::{self, FetchConfig, FetchRoots, Fetched, Owned, Shelf};
use casemate_attestation::UnixTime;
use casemate_attestation::collateral::Wanted;
use casemate_attestation::nvidia::{PinnedGpuRoot, ocsp_request};
use casemate_attestation::tdx::PckCa;
use serde_json::Value;
use tempfile::TempDir;

use crate::ocsp;
use crate::server::{Reply, Server, ok, reply};
use crate::spdm::{self, Case, NOW};

pub const AMD_LIST: &str = "GET /vcek/v1/Milan/crl";
pub const AMD_CHAIN: &str = "GET /vcek/v1/Milan/cert_chain";
pub const ROOT_LIST: &str = "GET /root.der";
const QE: &str = "GET /tdx/certification/v4/qe/identity";
const PCK_LIST: &str = "GET /sgx/certification/v4/pckcrl?ca=platform&encoding=der";
pub const TCB: &str = "GET /tdx/certification/v4/tcb?fmspc=90c06f000000";
/// Two sets for one family. The newer one is in force at [`NOW`].
pub const OLDER: &str = "tdx/v5-td15-newer-current-svn/collateral-2026-02-01.json";
pub const NEWER: &str = "tdx/v5-td15-launch-svn-too-old/collateral-2026-02-18.json";
const FAMILY: [u8; 6] = [0x90, 0xc0, 0x6f, 0, 0, 0];

pub fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/evidence");
    if path.is_dir() {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "shared evidence is missing"
    );
    println!("SKIP shared evidence is missing");
    None
}

pub struct Place {
    pub parent: TempDir,
    pub server: Server,
    pub config: FetchConfig,
    pub wanted: Vec<Wanted>,
    pub device: Case,
    pub roots: FetchRoots,
    pub now: UnixTime,
}

impl Place {
    /// A configuration that is read from a file, as the command reads it.
    fn new(rest: &str) -> Self {
        let (parent, server) = (tempfile::tempdir().unwrap(), Server::start());
        let at = format!("\"http://{}\"", server.address);
        let root = format!("\"http://{}/root.der\"", server.address);
        let text = format!(
            "[services]\namd = {at}\nintel = {at}\nintel_root_list = {root}\nnvidia_manifests = {at}\nnvidia_answers = {at}\n\
             [network]\nattempts = 2\nattempt_s = 1\ntotal_s = 20\nwait_s_max = 2\n{rest}"
        );
        let mut device = spdm::case();
        device.device.authority_template.serial = vec![9];
        let pem = spdm::pem(&device.ders());
        fs::write(parent.path().join("chain.pem"), pem).unwrap();
        let file = parent.path().join("fetch.toml");
        fs::write(&file, text).unwrap();
        let mut roots = FetchRoots::production();
        roots.collateral.nvidia = vec![PinnedGpuRoot::private(&device.root)];
        Self {
            config: Loaded::<FetchConfig>::read(&file).unwrap().into_inner(),
            parent,
            server,
            wanted: Vec::new(),
            device,
            roots,
            now: NOW,
        }
    }

    /// Documents of every vendor; manifests are signed at other times.
    pub fn whole(shared: &Path) -> Self {
        let evidence = shared.join("snp/milan-v5-gcp-vmpl0");
        let place = Self::new(&format!(
            "[owned]\nevidence = [{:?}]\nchains = [\"chain.pem\"]\n\
             [[owned.platforms]]\nfmspc = \"90c06f000000\"\nca = \"platform\"\n",
            evidence.display().to_string()
        ));
        place.serve_amd(shared, "milan-v5-gcp-vmpl0");
        place.serve_intel(shared, NEWER);
        place.serve_answers();
        place
    }

    pub fn of(wanted: Wanted) -> Self {
        Self::new("").with(wanted)
    }

    pub fn milan(shared: &Path, name: &str) -> Self {
        let place = Self::of(milan_chip(shared, name));
        place.serve_amd(shared, name);
        place
    }

    pub fn intel(shared: &Path, set: &str) -> Self {
        let place = Self::of(Wanted::Platform {
            fmspc: FAMILY,
            ca: PckCa::Platform,
        });
        place.serve_intel(shared, set);
        place
    }

    pub fn device() -> Self {
        let place = Self::new("[owned]\nchains = [\"chain.pem\"]\n");
        place.serve_answers();
        place
    }

    pub fn manifest(name: &str) -> Self {
        Self::new(&format!("[owned]\nmanifests = [\"{name}\"]\n"))
    }

    /// The same with another thing to ask for.
    pub fn with(mut self, wanted: Wanted) -> Self {
        self.wanted = vec![wanted];
        self
    }

    pub fn with_more(mut self, wanted: Wanted) -> Self {
        self.wanted.push(wanted);
        self
    }

    pub fn owned(&self) -> Owned {
        let mut owned = Owned::read(&self.config.owned, &[]).unwrap();
        self.wanted.iter().for_each(|wanted| owned.add(*wanted));
        owned
    }

    pub fn folder(&self) -> PathBuf {
        self.parent.path().join("from-vendors")
    }

    pub fn shelf(&self) -> Shelf {
        Shelf::new(self.folder())
    }

    pub fn fetch(&self) -> Vec<Fetched> {
        let (owned, shelf) = (self.owned(), self.shelf());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let work = vendors::fetch(&self.config, &owned, &shelf, &self.roots, self.now);
        runtime.block_on(work).unwrap()
    }

    /// Files that `collateral pack` would take: those in the folder itself.
    pub fn files(&self) -> Vec<String> {
        let names = self.shelf().names().unwrap();
        names
            .into_iter()
            .filter(|name| self.folder().join(name).is_file())
            .collect()
    }

    pub fn bytes(&self) -> BTreeMap<String, Vec<u8>> {
        let read = |name: String| (name.clone(), fs::read(self.folder().join(name)).unwrap());
        self.files().into_iter().map(read).collect()
    }

    /// The question for the one chip.
    pub fn chip_asked(&self) -> String {
        let planned = vendors::plan(&self.config.services, &self.owned(), &self.shelf()).unwrap();
        let host = format!("http://{}", self.server.address);
        let url = &planned.last().unwrap().url;
        format!("GET {}", url.strip_prefix(&host).unwrap())
    }

    fn serve_amd(&self, shared: &Path, name: &str) {
        let list = fs::read(shared.join("snp/roots/milan_crl_2025-05-06.der")).unwrap();
        self.server.put(AMD_LIST, &[ok(&list)]);
        self.server.put(AMD_CHAIN, &[ok(&chain(shared, "milan"))]);
        let Wanted::Chip { chip, tcb, .. } = milan_chip(shared, name) else {
            panic!()
        };
        let path = format!(
            "GET /vcek/v1/Milan/{chip}?blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}",
            tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode
        );
        let vek = fs::read(shared.join("snp").join(name).join("vek.der")).unwrap();
        self.server.put(&path, &[ok(&vek)]);
    }

    pub fn serve_intel(&self, shared: &Path, set: &str) {
        let document = intel_document(shared, set);
        let text = |field: &str| document[field].as_str().unwrap().to_owned();
        let binary = |field: &str| hex::decode(text(field)).unwrap();
        self.server.put(ROOT_LIST, &[ok(&binary("root_ca_crl"))]);
        let issuers = encoded(&text("pck_crl_issuer_chain"));
        let head = [("SGX-PCK-CRL-Issuer-Chain", issuers.as_str())];
        self.server
            .put(PCK_LIST, &[reply(200, &head, &binary("pck_crl"))]);
        let issuers = encoded(&text("qe_identity_issuer_chain"));
        let head = [("SGX-Enclave-Identity-Issuer-Chain", issuers.as_str())];
        let body = format!(
            "{{\"enclaveIdentity\":{},\"signature\":\"{}\"}}",
            text("qe_identity"),
            text("qe_identity_signature")
        );
        self.server.put(QE, &[reply(200, &head, body.as_bytes())]);
        self.server.put(TCB, &[tcb_reply(shared, set)]);
    }

    /// The question about a certificate of the device's chain, by its place, with it and its issuer.
    pub fn question(&self, place: usize) -> (String, Vec<u8>, Vec<u8>) {
        let ders = self.device.ders();
        let (certificate, issuer) = (ders[place].clone(), ders[place + 1].clone());
        let question = hex::encode(ocsp_request(&certificate, &issuer).unwrap());
        (format!("POST {question}"), certificate, issuer)
    }

    fn serve_answers(&self) {
        let maker = &self.device.maker;
        for (place, key) in [(1, &maker.authority), (2, &maker.root)] {
            let (question, certificate, issuer) = self.question(place);
            let line = ocsp::Line::good(&certificate, &issuer);
            let answer = ocsp::Answer::of_issuer(line, &issuer).sign(key);
            self.server.put(&question, &[ok(&answer)]);
        }
    }
}

/// What a genuine report asks for, by its own words.
fn milan_chip(shared: &Path, name: &str) -> Wanted {
    let folder = shared.join("snp").join(name);
    let recorded = casemate_client::recorded::folder::read(&folder, None).unwrap();
    let casemate_client::recorded::Subject::Hardware { evidence, .. } = recorded.subject else {
        panic!()
    };
    Wanted::by(&evidence).unwrap()
}

/// Authority and root as PEM, as the service writes them.
pub fn chain(shared: &Path, product: &str) -> Vec<u8> {
    let file =
        |name: &str| fs::read(shared.join(format!("snp/roots/{product}_{name}.der"))).unwrap();
    spdm::pem(&[file("ask"), file("ark")])
}

pub fn intel_document(shared: &Path, set: &str) -> Value {
    serde_json::from_slice(&fs::read(shared.join(set)).unwrap()).unwrap()
}

pub fn tcb_reply(shared: &Path, set: &str) -> Reply {
    let document = intel_document(shared, set);
    let text = |field: &str| document[field].as_str().unwrap();
    let issuers = encoded(text("tcb_info_issuer_chain"));
    let body = format!(
        "{{\"tcbInfo\":{},\"signature\":\"{}\"}}",
        text("tcb_info"),
        text("tcb_info_signature")
    );
    reply(200, &[("TCB-Info-Issuer-Chain", &issuers)], body.as_bytes())
}

/// Percent-encoding as Intel's service writes it.
pub fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}
