//! `httvps dev`: backend, gateway and local proxy in one process.

mod demo_page;

use crate::connect::open_proxy;
use crate::print::{self, fail};
use crate::{dev_certificates, secrets, signals};
use clap::Args;
use httvps_backend::{Backend, NewDevice, ServeOptions, Store};
use httvps_client::proxy::{self, Accept};
use httvps_client::{
    Bind, Client, Config as ClientConfig, GatewayUrl, Open, Secret, Target, Trust,
};
use httvps_config::{Config as GatewayConfig, Sources};
use httvps_gateway::{Gateway, Signals, StartError};
use httvps_telemetry::log::{self, LogFormat, LogLevel};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The device that is made for the occasion.
const DEVICE: &str = "dev-laptop";
/// How long everything may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Backend, gateway and local proxy together, on free loopback ports, with a fresh certificate
/// authority and one device. For trying things out and for development; not for the internet.
#[derive(Args)]
pub(crate) struct DevArgs {
    /// Where the local SOCKS5 and HTTP proxy listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: Bind,
    /// Where the gateway listens
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    gateway_listen: Bind,
    /// Keep certificates, devices and the token in this folder; without it they are in a
    /// temporary one that goes when the program ends
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Show the log of backend and gateway
    #[arg(long, short)]
    verbose: bool,
}

/// Runs everything until Ctrl-C.
pub(crate) async fn run(args: DevArgs) -> ExitCode {
    // Without a subscriber the log goes nowhere, which is what a first look wants.
    let _log = args.verbose.then(|| log::init(LogLevel::Info, LogFormat::Text));
    let signals = match signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot listen for signals: {error}")),
    };
    match serve(args, &signals).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => fail(words),
    }
}

/// The tasks without which there is nothing to try out; each gives its name when it ends.
type Tasks = JoinSet<&'static str>;

/// Where the files of one run are.
struct Files {
    dir: PathBuf,
    /// Removes the folder when dropped, unless it is the user's own.
    _temporary: Option<tempfile::TempDir>,
}

impl Files {
    fn new(kept: Option<PathBuf>) -> Result<Self, String> {
        if let Some(dir) = kept {
            std::fs::create_dir_all(&dir)
                .map_err(|error| format!("--dir {}: cannot make it: {error}", dir.display()))?;
            return Ok(Self { dir, _temporary: None });
        }
        let temporary =
            tempfile::Builder::new().prefix("httvps-dev-").tempdir().map_err(|error| {
                format!("cannot make a temporary folder: {error}; name one with --dir")
            })?;
        Ok(Self { dir: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    fn token(&self) -> PathBuf {
        self.dir.join("token")
    }
}

async fn serve(args: DevArgs, signals: &Signals) -> Result<(), String> {
    let files = Files::new(args.dir)?;
    let certificates = dev_certificates::make(&files.dir).map_err(|error| error.to_string())?;
    let (mut tasks, stop) = (Tasks::new(), CancellationToken::new());

    let backend = start_backend(&files, &mut tasks, &stop).await?;
    let demo = demo_page::start(&mut tasks, &stop)
        .await
        .map_err(|error| format!("cannot serve the demo page: {error}"))?;
    let gateway_signals = Signals::default();
    let sources = Sources::default()
        .with("listen_addr", args.gateway_listen.to_string())
        .with("admin_addr", "127.0.0.1:0")
        .with("tls_cert_path", certificates.cert.as_os_str())
        .with("tls_key_path", certificates.key.as_os_str())
        .with("backend_base_url", format!("http://{backend}"))
        .with("upstream_mode", "direct")
        // The demo page, and nothing else of this machine or its network.
        .with("egress_allow", demo.ip().to_string())
        .with("max_streams_per_session", "256")
        .with("drain_timeout", "3s");
    let (config, _) = GatewayConfig::load(&sources).map_err(|error| error.to_string())?;
    let gateway = Gateway::bind(config).await.map_err(|error| in_own_words(&error))?;
    let gateway_address = gateway.local_addr().map_err(|error| error.to_string())?;
    let admin = gateway.admin_addr();
    let serving = gateway.run(gateway_signals.clone());
    tasks.spawn(async {
        // Why it ended by itself is in its log.
        let _ = serving.await;
        "the gateway"
    });

    let url: GatewayUrl = format!("wss://localhost:{}/ws", gateway_address.port())
        .parse()
        .map_err(|error| format!("the gateway's address: {error}"))?;
    let token = read_token(&files.token())?;
    let mut config = ClientConfig::new(url.clone(), DEVICE, token);
    config.trust = Trust::from_pem_file(&certificates.ca)?;
    let client = Client::start(config, Box::new(|_| {})).map_err(|error| error.to_string())?;
    let proxy = start_proxy(args.listen, &client, &mut tasks, &stop)?;

    tokio::select! {
        ready = try_out(&client, demo) => ready?,
        () = signals.drain.cancelled() => return Ok(()),
    }
    let places = Places { backend, gateway: url, admin, proxy, demo };
    if !proxy.ip().is_loopback() {
        print::say(open_proxy(proxy, "listen on 127.0.0.1"));
    }
    // A reader that only took the first lines may still use what runs.
    let _ = print::result(places.describe(&files, &certificates.ca));
    let result = tokio::select! {
        () = signals.drain.cancelled() => Ok(()),
        () = client.ended() => Err("the client has ended by itself".to_owned()),
        ended = tasks.join_next() => {
            let what = ended.and_then(Result::ok).unwrap_or("one of its parts");
            Err(format!("{what} has ended by itself; --verbose may show why"))
        }
    };

    client.close().await;
    gateway_signals.drain.cancel();
    stop.cancel();
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = signals.stop.cancelled() => {}
    }
    result
}

/// Names the flag of this command instead of the gateway's setting.
fn in_own_words(error: &StartError) -> String {
    match error {
        StartError::Bind { key: "listen_addr", address, error } => {
            format!("--gateway-listen: cannot listen on {address}: {error}")
        }
        other => other.to_string(),
    }
}

/// Starts the reference backend with one device; its token lies in a file beside.
async fn start_backend(
    files: &Files,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> Result<SocketAddr, String> {
    let path = files.dir.join("devices.json");
    let store = Store::new(&path);
    let is_known = path.exists()
        && files.token().exists()
        && store
            .devices()
            .map_err(|error| error.to_string())?
            .iter()
            .any(|device| device.device_id.as_str() == DEVICE);
    if !is_known {
        let device = NewDevice {
            device_id: Some(DEVICE.parse().map_err(|_| "the device's name".to_owned())?),
            ..NewDevice::default()
        };
        let (_, token) = store.add(device).map_err(|error| error.to_string())?;
        write_private(&files.token(), token.expose())
            .map_err(|error| format!("cannot write {}: {error}", files.token().display()))?;
    }
    let backend = Backend::load(&path).map_err(|error| error.to_string())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| format!("cannot start the backend: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let (backend, options) = (Arc::new(backend), ServeOptions::default());
    let serving = httvps_backend::serve(listener, backend, options, stop.clone());
    tasks.spawn(async {
        serving.await;
        "the backend"
    });
    Ok(address)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{text}")
}

fn read_token(path: &Path) -> Result<Secret, String> {
    secrets::read(path).map(|token| secrets::trimmed(&token))
}

fn start_proxy(
    listen: Bind,
    client: &Client,
    tasks: &mut Tasks,
    stop: &CancellationToken,
) -> Result<SocketAddr, String> {
    let places = Arc::new(Semaphore::new(Accept::DEFAULT_CONNECTIONS));
    let accept = Accept::bind(listen, places, Arc::new(|_| {}))
        .map_err(|error| format!("--listen: cannot listen on {listen}: {error}"))?;
    let address = accept.local_addr().map_err(|error| error.to_string())?;
    let serving = proxy::serve(accept, None, Arc::new(client.clone()), stop.clone());
    tasks.spawn(async {
        serving.await;
        "the local proxy"
    });
    Ok(address)
}

/// Fetches the demo page through the tunnel once, so that what is printed works when it is printed.
async fn try_out(client: &Client, demo: SocketAddr) -> Result<(), String> {
    let target = Target::from_parts(&demo.ip().to_string(), demo.port())
        .map_err(|error| error.to_string())?;
    let fetch = async {
        client.connected().await.map_err(|error| error.to_string())?;
        let mut stream = Open::open(client, &target).await.map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        let asking = async {
            stream.write_all(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n").await?;
            stream.read_to_end(&mut answer).await
        };
        asking.await.map_err(|error| error.to_string())?;
        if answer.starts_with(b"HTTP/1.") { Ok(()) } else { Err("no answer".to_owned()) }
    };
    tokio::time::timeout(START_TIMEOUT, fetch)
        .await
        .unwrap_or_else(|_| Err(format!("not up within {} s", START_TIMEOUT.as_secs())))
        .map_err(|words| format!("the demo page does not come through the tunnel: {words}"))
}

/// Where everything is.
struct Places {
    backend: SocketAddr,
    gateway: GatewayUrl,
    admin: Option<SocketAddr>,
    proxy: SocketAddr,
    demo: SocketAddr,
}

impl Places {
    fn describe(&self, files: &Files, ca: &Path) -> String {
        let Self { backend, gateway, admin, proxy, demo } = self;
        // Programs of this machine reach a proxy on every address here.
        let nearest = if proxy.ip().is_unspecified() {
            SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.port()))
        } else {
            *proxy
        };
        let program = std::env::current_exe()
            .map_or_else(|_| "httvps".to_owned(), |path| path.display().to_string());
        let (dir, token, ca) = (files.dir.display(), files.token(), ca.display());
        let token = token.display();
        let metrics =
            admin.map_or_else(String::new, |admin| format!("  metrics   http://{admin}/metrics\n"));
        format!(
            "httvps dev: backend, gateway and local proxy are up.\n\n  \
             gateway   {gateway}\n\
             {metrics}  \
             backend   http://{backend}   devices in {dir}/devices.json\n  \
             proxy     {proxy}   SOCKS5 and HTTP\n  \
             device    {DEVICE}   token in {token}\n\n\
             Try it (a demo page, through the tunnel):\n\n  \
             curl --proxy socks5h://{nearest} http://{demo}/\n\n\
             Any site, where this machine has a network:\n\n  \
             curl --proxy socks5h://{nearest} https://example.org/\n\n\
             Connect from elsewhere, as a client of its own:\n\n  \
             {program} connect --gateway {gateway} --device-id {DEVICE} \\\n    \
             --token-file {token} --ca {ca}\n\n\
             Ctrl-C ends it.\n"
        )
    }
}
