//! What a measurement runs against: a gateway with default settings, or what it is compared with.

use crate::backend;
use crate::plain;
use crate::process::Server;
use crate::session::{Endpoint, KeyExchange};
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The programs, and files that all servers share.
pub(crate) struct Rig {
    folder: TempDir,
    gateway: PathBuf,
    haproxy: Option<PathBuf>,
    certificate: CertificateDer<'static>,
    backend: SocketAddr,
}

impl Rig {
    /// Makes a certificate (ECDSA P-256) and starts the stub backend.
    pub(crate) async fn new(gateway: PathBuf, haproxy: Option<PathBuf>) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .map_err(io::Error::other)?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        std::fs::write(folder.path().join("cert.pem"), &certificate)?;
        std::fs::write(folder.path().join("key.pem"), &key)?;
        std::fs::write(folder.path().join("both.pem"), certificate + &key)?;
        let certificate = made.cert.der().clone();
        Ok(Self { folder, gateway, haproxy, certificate, backend: backend::start().await? })
    }

    pub(crate) fn haproxy(&self) -> Option<&Path> {
        self.haproxy.as_deref()
    }

    pub(crate) fn program(&self) -> &Path {
        &self.gateway
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A fresh gateway with the echo upstream. `wrapper` is a command that runs it, such as valgrind.
    pub(crate) fn gateway(
        &self,
        key_exchange: KeyExchange,
        wrapper: &[&str],
    ) -> io::Result<(Server, Endpoint)> {
        self.gateway_with(key_exchange, wrapper, &[])
    }

    /// A fresh gateway that connects to targets on this machine, as many as are asked for.
    pub(crate) fn direct_gateway(&self) -> io::Result<(Server, Endpoint)> {
        let settings = [
            ("GATEWAY_UPSTREAM_MODE", "direct"),
            ("GATEWAY_EGRESS_ALLOW", "127.0.0.0/8"),
            ("GATEWAY_MAX_STREAMS", "20000"),
            ("GATEWAY_MAX_STREAM_OPENS_PER_SECOND", "0"),
            ("GATEWAY_LOG_LEVEL", "warn"),
            // Idle clients are asked for a sign of life only after the measurement.
            ("GATEWAY_KEEPALIVE_INTERVAL", "1h"),
        ];
        self.gateway_with(KeyExchange::X25519, &[], &settings)
    }

    /// A fresh gateway with these settings.
    pub(crate) fn gateway_with(
        &self,
        key_exchange: KeyExchange,
        wrapper: &[&str],
        settings: &[(&str, &str)],
    ) -> io::Result<(Server, Endpoint)> {
        let (server, port) = self.start_gateway(wrapper, settings)?;
        Ok((server, self.endpoint(port, key_exchange)?))
    }

    /// A fresh gateway with these settings, and its port.
    pub(crate) fn start_gateway(
        &self,
        wrapper: &[&str],
        settings: &[(&str, impl AsRef<std::ffi::OsStr>)],
    ) -> io::Result<(Server, u16)> {
        let port = free_port()?;
        let mut words = wrapper.iter().map(PathBuf::from).chain([self.gateway.clone()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .arg("gateway")
            .env("GATEWAY_LISTEN_ADDR", format!("127.0.0.1:{port}"))
            .env("GATEWAY_TLS_CERT_PATH", self.path("cert.pem"))
            .env("GATEWAY_TLS_KEY_PATH", self.path("key.pem"))
            .env("BACKEND_BASE_URL", format!("http://{}", self.backend))
            .envs(settings.iter().map(|(name, value)| (name, value)));
        Ok((Server::start(&mut command, &self.path("gateway.log"), port)?, port))
    }

    /// A plain TLS echo on the gateway's TLS library: this program again.
    pub(crate) fn tls_echo(&self, key_exchange: KeyExchange) -> io::Result<(Server, Endpoint)> {
        let port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--tls-echo").arg(port.to_string()).arg("--folder").arg(self.folder.path());
        let server = Server::start(&mut command, &self.path("echo.log"), port)?;
        Ok((server, self.endpoint(port, key_exchange)?))
    }

    /// HAProxy that ends TLS and relays to a plain TCP echo in this process.
    pub(crate) async fn relay(&self) -> io::Result<Option<(Server, Endpoint)>> {
        let Some(haproxy) = &self.haproxy else { return Ok(None) };
        let (port, echo) = (free_port()?, plain::start_echo().await?);
        let settings = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
             listen relay\n bind 127.0.0.1:{port} ssl crt {}\n server echo {echo}\n",
            self.path("both.pem").display()
        );
        std::fs::write(self.path("haproxy.cfg"), settings)?;
        let mut command = Command::new(haproxy);
        command.args(["-db", "-q", "-f"]).arg(self.path("haproxy.cfg"));
        let server = Server::start(&mut command, &self.path("haproxy.log"), port)?;
        Ok(Some((server, self.endpoint(port, KeyExchange::X25519)?)))
    }

    /// Where a TLS server with the rig's certificate is.
    pub(crate) fn endpoint(&self, port: u16, key_exchange: KeyExchange) -> io::Result<Endpoint> {
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Endpoint::new(address, self.certificate.clone(), key_exchange)
    }
}

/// A port that is not in use.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
