//! The tunnels that are compared: a server, a client, and local ports that lead through both.

use super::target::Targets;
use crate::process::Server;
use crate::rig::{Rig, free_port};
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

/// The programs that are compared.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Peer {
    /// Two of HAProxy's relays with TLS in between, a connection for each stream.
    Haproxy,
    /// Streams multiplexed over one WebSocket, like ours.
    Penguin,
    /// The gateway and `httvps connect`.
    Httvps,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Haproxy, Self::Penguin, Self::Httvps];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::Penguin => "penguin",
            Self::Httvps => "httvps",
        }
    }
}

/// A running tunnel.
pub(crate) struct Chain {
    pub(crate) server: Server,
    pub(crate) client: Server,
    /// Local port that leads to the bulk target.
    pub(crate) bulk: SocketAddr,
    /// Local port that leads to the echo.
    pub(crate) echo: SocketAddr,
    /// SOCKS5 port of the client.
    pub(crate) socks: Option<SocketAddr>,
}

/// Starts `peer` afresh; None when its program is not there.
pub(crate) fn start(
    peer: Peer,
    rig: &Rig,
    penguin: Option<&Path>,
    targets: &Targets,
) -> io::Result<Option<Chain>> {
    match (peer, rig.haproxy(), penguin) {
        (Peer::Haproxy, Some(program), _) => haproxy(rig, program, targets).map(Some),
        (Peer::Penguin, _, Some(program)) => with_penguin(rig, program, targets).map(Some),
        (Peer::Httvps, _, _) => {
            let (server, endpoint) = rig.direct_gateway()?;
            httvps(rig, server, endpoint.address(), targets).map(Some)
        }
        _ => Ok(None),
    }
}

/// `httvps connect` to the gateway `server`, which is reached at `at`.
pub(crate) fn httvps(
    rig: &Rig,
    server: Server,
    at: SocketAddr,
    targets: &Targets,
) -> io::Result<Chain> {
    let token = rig.path("token");
    std::fs::write(&token, "bench")?;
    let [bulk, echo, socks] = [local()?, local()?, local()?];
    let mut command = Command::new(rig.program());
    command
        .args(["connect", "--device-id", "bench", "--log-level", "warn"])
        .args(["--gateway", &format!("wss://localhost:{}/ws", at.port())])
        .arg("--token-file")
        .arg(token)
        .arg("--ca")
        .arg(rig.path("cert.pem"))
        .args(["--listen", &socks.to_string()])
        .args(["--forward", &format!("{bulk}={}", targets.bulk)])
        .args(["--forward", &format!("{echo}={}", targets.echo)]);
    let client = Server::start(&mut command, &rig.path("connect.log"), bulk.port())?;
    Ok(Chain { server, client, bulk, echo, socks: Some(socks) })
}

fn haproxy(rig: &Rig, program: &Path, targets: &Targets) -> io::Result<Chain> {
    let [bulk, echo, tls_bulk, tls_echo] = [local()?, local()?, local()?, local()?];
    let tls = format!(" ssl crt {}", rig.path("both.pem").display());
    let ways = |ends: [(SocketAddr, SocketAddr); 2], listens: &str, connects: &str| {
        let mut settings = "global\n maxconn 8000\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            .to_owned();
        for (number, (from, to)) in ends.iter().enumerate() {
            // Writing into a String does not fail.
            let _ = write!(
                settings,
                "listen way{number}\n bind {from}{listens}\n server s {to}{connects}\n"
            );
        }
        settings
    };
    let run = |name: &str, settings: String, port: u16| {
        let path = rig.path(&format!("{name}.cfg"));
        std::fs::write(&path, settings)?;
        let mut command = Command::new(program);
        command.args(["-db", "-q", "-f"]).arg(path);
        Server::start(&mut command, &rig.path(&format!("{name}.log")), port)
    };
    let behind = ways([(tls_bulk, targets.bulk), (tls_echo, targets.echo)], &tls, "");
    let server = run("relay-server", behind, tls_bulk.port())?;
    let before = ways([(bulk, tls_bulk), (echo, tls_echo)], "", " ssl verify none");
    let client = run("relay-client", before, bulk.port())?;
    Ok(Chain { server, client, bulk, echo, socks: None })
}

fn with_penguin(rig: &Rig, program: &Path, targets: &Targets) -> io::Result<Chain> {
    let [server, bulk, echo] = [local()?, local()?, local()?];
    let port = server.port().to_string();
    let mut command = Command::new(program);
    command
        .args(["server", "-q", "--host", "127.0.0.1", "--port", &port, "--tls-cert"])
        .arg(rig.path("cert.pem"))
        .arg("--tls-key")
        .arg(rig.path("key.pem"));
    let running = Server::start(&mut command, &rig.path("penguin-server.log"), server.port())?;
    let mut command = Command::new(program);
    command
        .args(["client", "-q", "-k", &format!("wss://127.0.0.1:{port}/ws")])
        .arg(format!("{bulk}:{}", targets.bulk))
        .arg(format!("{echo}:{}", targets.echo));
    let client = Server::start(&mut command, &rig.path("penguin-client.log"), bulk.port())?;
    Ok(Chain { server: running, client, bulk, echo, socks: None })
}

fn local() -> io::Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}
