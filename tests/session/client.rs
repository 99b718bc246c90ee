//! The product's own client, configured by its own files, and its loopback proxy.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use casemate_attestation::test_chip::TestGpu;
use casemate_client::config::Config;
use casemate_client::error::ConnectError;
use casemate_client::proxy::Proxy;
use casemate_client::session::{AttestedConnection, Connector, Keeper, full_body};
use http::Request;
use tokio::net::TcpStream;

use crate::organisation::{DAY, Leaf, NODE_A, ORGANISATION, SEED};
use crate::raw::Http;

/// What a user writes into connect.toml.
pub struct Wishes {
    pub server: SocketAddr,
    pub server_name: &'static str,
    pub leaf: Leaf,
    pub platform: &'static str,
    /// The GPUs that the fleet list gives node A.
    pub gpus: Vec<u32>,
    /// Lines of `[expect]`.
    pub expect: String,
    /// Lines of `[limits]`.
    pub limits: &'static str,
}

impl Wishes {
    /// A client of the team that wants node A.
    pub fn of(server: SocketAddr) -> Self {
        Self {
            server,
            server_name: NODE_A,
            leaf: ORGANISATION.client("ada"),
            platform: "test-chip",
            gpus: Vec::new(),
            expect: String::new(),
            limits: "",
        }
    }

    pub fn client(self) -> Client {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8], mode| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("client.pem", self.leaf.pem.as_bytes(), 0o644);
        write("client.key", self.leaf.key_pem.as_bytes(), 0o600);
        write(
            "enclave.pem",
            ORGANISATION.enclave_authority_pem().as_bytes(),
            0o644,
        );
        let release = ORGANISATION.release.public().unwrap().to_hex();
        write("release.key", release.as_bytes(), 0o644);
        let reference = ORGANISATION.sign(&ORGANISATION.reference(), 1, DAY);
        write("reference.json", &reference, 0o644);
        write(
            "fleet.json",
            &ORGANISATION.sign(&ORGANISATION.fleet_with(&self.gpus), 1, DAY),
            0o644,
        );
        write("root.der", ORGANISATION.node_a.root_der(), 0o644);
        write("gpu-root.der", &TestGpu::root_der(&SEED), 0o644);
        let root = match self.platform {
            "test-chip" => "test_chip_root = \"root.der\"\ntest_gpu_root = \"gpu-root.der\"",
            _ => "",
        };
        let text = format!(
            "server = \"https://{}\"\nserver_name = \"{}\"\n\
             [identity]\ncertificate = \"client.pem\"\nkey = \"client.key\"\n\
             [trust]\nenclave_ca = \"enclave.pem\"\nrelease_key = \"release.key\"\n\
             reference = \"reference.json\"\nfleet = \"fleet.json\"\nplatform = \"{}\"\n{root}\n\
             [expect]\n{}\n[limits]\n{}\n",
            self.server, self.server_name, self.platform, self.expect, self.limits
        );
        write("connect.toml", text.as_bytes(), 0o644);
        let path = folder.path().join("connect.toml");
        let config = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
        let connector = Connector::new(&config, &path).unwrap();
        Client {
            connector,
            config,
            folder,
        }
    }
}

pub struct Client {
    pub connector: Connector,
    config: Config,
    folder: tempfile::TempDir,
}

/// A proxy, and a program's connection to it.
pub struct Proxied {
    pub http: Http<TcpStream>,
    _folder: tempfile::TempDir,
}

impl Client {
    pub async fn attest(&self) -> Result<AttestedConnection, ConnectError> {
        self.connector.attest().await
    }

    /// Puts reference values in the place of those before that are in force for `life_s` seconds more.
    pub fn believe_for(&self, life_s: u64) {
        let reference = ORGANISATION.sign(&ORGANISATION.reference(), 2, life_s);
        fs::write(self.folder.path().join("reference.json"), reference).unwrap();
    }

    /// The attestation must fail: the error's text.
    pub async fn refused(&self) -> String {
        match self.attest().await {
            Ok(_) => panic!("attested"),
            Err(error) => error.to_string(),
        }
    }

    /// Starts the proxy: its base URL, and the folder on which it stands.
    pub async fn endpoint(self) -> (String, tempfile::TempDir) {
        let keeper = Keeper::new(self.connector);
        let address = "127.0.0.1:0".parse().unwrap();
        let proxy = Proxy::bind(address, keeper, self.config.limits)
            .await
            .unwrap();
        let url = proxy.base_url();
        tokio::spawn(proxy.serve(std::future::pending()));
        (url, self.folder)
    }

    /// Starts the proxy, and connects to it as a program would.
    pub async fn proxied(self) -> Proxied {
        let (url, folder) = self.endpoint().await;
        let address = url
            .strip_prefix("http://")
            .and_then(|url| url.strip_suffix("/v1"));
        Proxied {
            http: Http::new(TcpStream::connect(address.unwrap()).await.unwrap()),
            _folder: folder,
        }
    }
}

/// A chat request for the product's client.
pub fn chat_request(prompt: &str, stream: bool) -> Request<casemate_client::session::RequestBody> {
    let body = crate::raw::chat(prompt, stream).to_string();
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .body(full_body(body))
        .unwrap()
}
