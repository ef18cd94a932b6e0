//! Real nodes as processes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use httvps_shadowsocks::{AccessKey, Cipher, Client, Stream};

/// Time for everything that should take none.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server program that others wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `ssserver` of shadowsocks-rust, for every cipher.
    Rust,
    /// `ss-server` of shadowsocks-libev, for the AEAD ciphers.
    Libev,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "ssserver",
            Self::Libev => "ss-server",
        }
    }

    /// Where the program is: in the target directory's `tools/bin`, or in `PATH`.
    fn find(self) -> Option<PathBuf> {
        let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools").join("bin");
        let path = variable("PATH").unwrap_or_default();
        std::iter::once(tools)
            .chain(std::env::split_paths(&path))
            .map(|folder| folder.join(self.name()))
            .find(|file| file.is_file())
    }

    fn knows(self, cipher: Cipher) -> bool {
        self == Self::Rust || !cipher.is_2022()
    }
}

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment what to do")]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[expect(clippy::print_stderr, reason = "the output of the tests must show what did not run")]
fn say(line: &str) {
    eprintln!("{line}");
}

/// A node that runs until it is dropped.
pub(crate) struct Node {
    process: Child,
    program: Program,
    file: PathBuf,
    address: SocketAddr,
    cipher: Cipher,
}

/// The password of every node for its cipher.
pub(crate) fn password(cipher: Cipher) -> &'static str {
    match (cipher.is_2022(), cipher.key_len()) {
        (false, _) => "correct horse battery staple",
        (true, 16) => "AAECAwQFBgcICQoLDA0ODw==",
        (true, _) => "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    }
}

/// A port that is in use neither for TCP nor for UDP.
fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl Node {
    /// Starts a node; `None` when the program is missing and may be.
    pub(crate) fn start(program: Program, cipher: Cipher) -> Option<Self> {
        let Some(file) = program.find() else {
            let missing =
                format!("{} is missing; install it with: .ci/install-shadowsocks", program.name());
            assert!(variable("CI").is_none(), "{missing}");
            say(&format!("skipped: {missing}"));
            return None;
        };
        let from = Instant::now();
        // Another process may take the port in between; then the program ends at once.
        while from.elapsed() < SOON {
            let port = free_port();
            let process = spawn(program, &file, cipher, port);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut node = Self { process, program, file: file.clone(), address, cipher };
            if node.listens() {
                return Some(node);
            }
        }
        panic!("{} does not start", file.display());
    }

    /// Tries until the node takes connections; false when it has ended. `ssserver` says nothing when it
    /// listens, so that only a connection tells.
    fn listens(&mut self) -> bool {
        let from = Instant::now();
        while from.elapsed() < SOON && self.process.try_wait().unwrap().is_none() {
            if TcpStream::connect(self.address).is_ok() {
                return self.process.try_wait().unwrap().is_none();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Kills the node and starts it again at the same address.
    pub(crate) fn restart(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.process = spawn(self.program, &self.file, self.cipher, self.address.port());
        assert!(self.listens(), "it does not come back");
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(self.cipher, password(self.cipher))
    }

    pub(crate) fn client_with(&self, cipher: Cipher, password: &str) -> Client {
        let (host, port) = (self.address.ip().to_string(), self.address.port());
        Client::new(AccessKey::from_parts(&host, port, cipher.name(), password).unwrap())
    }

    /// Opens a stream to an address, or to none.
    pub(crate) async fn open(&self, target: Option<SocketAddr>) -> Stream {
        open(&self.client(), self.address, target).await
    }
}

/// Opens a stream through any node.
pub(crate) async fn open(client: &Client, node: SocketAddr, target: Option<SocketAddr>) -> Stream {
    let target = target.map(|target| target.to_string().parse().unwrap());
    client.connect(node, target.as_ref(), SOON).await.unwrap()
}

fn spawn(program: Program, file: &Path, cipher: Cipher, port: u16) -> Child {
    let mut command = Command::new(file);
    let port = port.to_string();
    match program {
        Program::Rust => {
            command.args(["-s", &format!("127.0.0.1:{port}"), "-U"]).arg("--tcp-no-delay");
        }
        Program::Libev => {
            command.args(["-s", "127.0.0.1", "-p", &port, "-u", "--no-delay", "-t", "600"]);
        }
    }
    command.args(["-m", cipher.name(), "-k", password(cipher)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Every program that is there, with every cipher it knows.
pub(crate) fn all() -> impl Iterator<Item = Node> {
    every([Program::Rust, Program::Libev])
}

/// Those of [`all`] that pass a client's finish on. Libev's node drops both directions instead.
pub(crate) fn half_closing() -> impl Iterator<Item = Node> {
    every([Program::Rust])
}

fn every<const N: usize>(programs: [Program; N]) -> impl Iterator<Item = Node> {
    programs.into_iter().flat_map(|program| {
        let ciphers = Cipher::ALL.into_iter().filter(move |cipher| program.knows(*cipher));
        ciphers.filter_map(move |cipher| Node::start(program, cipher))
    })
}
