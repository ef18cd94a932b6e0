//! `httvps connect`: a local SOCKS5 and HTTP proxy through a gateway.

mod secrets;

use crate::print::{Lines, fail};
use crate::signals::Ending;
use clap::{Args, ValueEnum};
use httvps_client::proxy::{Accept, Rejected, ReportRejected};
use httvps_client::{
    BadRequestHeader, Bind, Client, Config, ConnectError, Event, GatewayUrl, RequestHeader, Step,
    Target, Trust, forward, proxy, socket,
};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Header fields that can be added to the request.
const MAX_HEADERS: usize = 16;

const EXAMPLES: &str = "\
Examples:
  # A proxy on 127.0.0.1:1080 for everything that speaks SOCKS5 or HTTP proxy
  httvps connect --gateway wss://vpn.example/ws --device-id laptop --token-file token.txt
  curl --proxy socks5h://127.0.0.1:1080 https://example.org/
  curl --proxy http://127.0.0.1:1080 https://example.org/

  # Also a local port that leads to one target (repeatable)
  httvps connect ... --forward 127.0.0.1:5432=db.example:5432
  httvps connect ... --forward udp:127.0.0.1:5353=1.1.1.1:53

  # A gateway with a certificate of a private authority
  httvps connect ... --ca ca.pem

The token is read from --token-file, or from HTTVPS_TOKEN when no file is given; it is never shown.
It keeps trying while the gateway is not reachable; Ctrl-C or SIGTERM end it.
Exit status: 0 ended by a signal, 1 a file or port cannot be used, 2 wrong usage.";

/// Connect to a gateway and offer a local SOCKS5 and HTTP proxy
///
/// Programs on this machine use the proxy; their connections leave from the gateway. SOCKS5
/// (CONNECT, UDP ASSOCIATE) and HTTP proxy (CONNECT and http:// requests) share one port. Host names are resolved
/// by the gateway, not here.
#[derive(Args, Debug)]
#[command(after_help = "More, with examples: httvps connect --help", after_long_help = EXAMPLES)]
pub(crate) struct ConnectArgs {
    /// The gateway: `wss://HOST[:PORT][/PATH]`; the path is /ws if none is given
    #[arg(long, value_name = "URL", env = "HTTVPS_GATEWAY")]
    gateway: GatewayUrl,
    /// Name of this device, as the operator of the gateway knows it
    #[arg(long, value_name = "ID", env = "HTTVPS_DEVICE_ID")]
    device_id: String,
    /// File with the device's token; spaces and line ends around it do not matter
    #[arg(long, value_name = "FILE", env = "HTTVPS_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust, instead of the system's, or with the
    /// gateway's own certificate
    #[arg(long, value_name = "FILE", env = "HTTVPS_CA", conflicts_with = "insecure")]
    ca: Option<PathBuf>,
    /// DANGEROUS: accept any certificate; anyone on the network path can read everything
    #[arg(long)]
    insecure: bool,
    /// Address of the local proxy; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", env = "HTTVPS_LISTEN", default_value = "127.0.0.1:1080",
          value_parser = parse_local)]
    listen: Bind,
    /// Lead a local port, or ADDR:PORT, to one target; with `udp:` in front its datagrams (repeatable)
    #[arg(long, value_name = "[udp:]LOCAL=HOST:PORT")]
    forward: Vec<Forward>,
    /// User name that programs must give to the local proxy
    #[arg(long, value_name = "USER", env = "HTTVPS_PROXY_USER", requires = "proxy_password_file")]
    proxy_user: Option<String>,
    /// File with the password that programs must give to the local proxy
    #[arg(long, value_name = "FILE", env = "HTTVPS_PROXY_PASSWORD_FILE", requires = "proxy_user")]
    proxy_password_file: Option<PathBuf>,
    /// Region to leave from, if the gateway offers a choice
    #[arg(long, value_name = "REGION", env = "HTTVPS_REGION")]
    region: Option<String>,
    /// Speak the JSON protocol even with a gateway that offers the binary one (to find out which of
    /// the two is at fault)
    #[arg(long, env = "HTTVPS_JSON")]
    json: bool,
    /// Sessions with the gateway at most; each carries as many streams as the gateway allows, and
    /// further ones are opened only when those are full
    #[arg(long, value_name = "N", env = "HTTVPS_MAX_SESSIONS", default_value_t = 32,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_sessions: u16,
    /// Never offer the post-quantum key exchange in TLS, whose large first message some networks
    /// lose; by default it is left out after a handshake that was lost
    #[arg(long, env = "HTTVPS_NO_POST_QUANTUM")]
    no_post_quantum: bool,
    /// What to call itself in the request to the gateway [default: a common browser]
    #[arg(long, value_name = "TEXT", env = "HTTVPS_USER_AGENT", value_parser = parse_user_agent)]
    user_agent: Option<RequestHeader>,
    /// A further header field of that request, which a proxy in front of the gateway may ask for
    /// (repeatable, at most 16)
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<RequestHeader>,
    /// How much to tell on standard error
    #[arg(long, value_name = "LEVEL", env = "HTTVPS_LOG_LEVEL", default_value = "info")]
    log_level: Level,
}

/// What is told; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    /// Only what ends the program
    Error,
    /// Also what is wrong
    Warn,
    /// Also connecting and reconnecting
    Info,
    /// Also every local connection that came to nothing, with its target
    Debug,
}

/// A local port and where it leads.
#[derive(Debug, Clone)]
struct Forward {
    is_udp: bool,
    local: Bind,
    target: Target,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_udp, text) = match text.strip_prefix("udp:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (local, target) = text.split_once('=').ok_or(
            "no '='; accepted: LOCAL=HOST:PORT, as in 127.0.0.1:5432=db.example:5432, \
             or udp:LOCAL=HOST:PORT",
        )?;
        let target = target.parse().map_err(|error| format!("{target:?}: {error}"))?;
        Ok(Self { is_udp, local: parse_local(local)?, target })
    }
}

/// The local end of a forward.
enum Door {
    Streams(Accept),
    Datagrams(UdpSocket),
}

/// Reads a listen address; a port alone means this machine only.
fn parse_local(text: &str) -> Result<Bind, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(Bind::Address((Ipv4Addr::LOCALHOST, port).into()));
    }
    if text.contains("://") {
        return Err("an address of this machine has no scheme: give ADDR:PORT; the port speaks \
                    SOCKS5 and HTTP alike"
            .into());
    }
    text.parse::<Bind>().map_err(|error| format!("{error}; a PORT alone means 127.0.0.1:PORT"))
}

fn parse_user_agent(text: &str) -> Result<RequestHeader, String> {
    RequestHeader::new("User-Agent", text).map_err(|error| error.to_string())
}

fn parse_header(text: &str) -> Result<RequestHeader, String> {
    let header: RequestHeader =
        text.parse().map_err(|error: BadRequestHeader| error.to_string())?;
    if header.name().eq_ignore_ascii_case("user-agent") {
        return Err("--user-agent sets this field".into());
    }
    Ok(header)
}

/// Runs the proxy until a signal comes.
pub(crate) async fn run(args: ConnectArgs) -> ExitCode {
    let voice = Arc::new(Voice::new(&args));
    let result = connect(args, &voice).await;
    voice.lines.finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => fail(words),
    }
}

async fn connect(args: ConnectArgs, voice: &Arc<Voice>) -> Result<(), String> {
    let config = configure(&args, voice)?;
    let credentials = secrets::credentials(&args)?;
    let mut signals = Ending::listen().map_err(|error| format!("cannot take signals: {error}"))?;

    let report: ReportRejected = {
        let voice = voice.clone();
        Arc::new(move |rejected: &Rejected| voice.say(Level::Debug, rejected))
    };
    let places = Arc::new(Semaphore::new(Accept::DEFAULT_CONNECTIONS));
    let bind = |local: Bind| {
        let accept = Accept::bind(local, places.clone(), report.clone());
        let accept = accept.map_err(|error| format!("cannot listen on {local}: {error}"))?;
        let address = accept.local_addr().map_err(|error| error.to_string())?;
        Ok::<_, String>((accept, address))
    };
    let (proxy_port, proxy_address) = bind(args.listen)?;
    let mut forwards = Vec::new();
    for Forward { is_udp, local, target } in args.forward {
        let (door, address) = if is_udp {
            let socket = socket::bind_udp(local)
                .map_err(|error| format!("cannot listen on {local} (UDP): {error}"))?;
            let address = socket.local_addr().map_err(|error| error.to_string())?;
            (Door::Datagrams(socket), address)
        } else {
            let (accept, address) = bind(local)?;
            (Door::Streams(accept), address)
        };
        forwards.push((door, address, target));
    }

    warn_of_open_doors(voice, proxy_address, credentials.is_some(), &forwards);
    voice.say(Level::Info, &format_args!("proxy on {proxy_address} (SOCKS5 and HTTP)"));
    let client = {
        let voice = voice.clone();
        let report = Box::new(move |event: &Event| voice.tell(event));
        Client::start(config, report).map_err(|error| error.to_string())?
    };
    let opener = Arc::new(client.clone());
    let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let serving = proxy::serve(proxy_port, credentials, opener.clone(), cancel.clone());
    tasks.spawn(async move {
        serving.await;
        format!("the proxy on {proxy_address}")
    });
    for (door, address, target) in forwards {
        let (opener, cancel) = (opener.clone(), cancel.clone());
        match door {
            Door::Streams(accept) => {
                voice.say(Level::Info, &format_args!("{address} leads to {target}"));
                tasks.spawn(async move {
                    forward::serve(accept, target, opener, cancel).await;
                    format!("the forward on {address}")
                });
            }
            Door::Datagrams(socket) => {
                voice.say(Level::Info, &format_args!("{address} (UDP) leads to {target}"));
                let report = report.clone();
                tasks.spawn(async move {
                    forward::serve_datagrams(socket, target, opener, report, cancel).await;
                    format!("the forward on {address} (UDP)")
                });
            }
        }
    }

    let result = tokio::select! {
        () = signals.next() => Ok(()),
        words = ended_early(&client, &mut tasks) => Err(words),
    };
    voice.say(Level::Info, &"closing");
    cancel.cancel();
    tokio::select! {
        () = async {
            while tasks.join_next().await.is_some() {}
            client.close().await;
        } => {}
        // A second signal ends the program without waiting for the gateway's Close frame.
        () = signals.next() => {}
    }
    result
}

/// Waits for a task that must not end by itself; says which. A client that lives on without it would
/// look well and carry nothing.
async fn ended_early(client: &Client, tasks: &mut JoinSet<String>) -> String {
    let what = tokio::select! {
        () = client.ended() => "the task that keeps the sessions".to_owned(),
        ended = tasks.join_next() => match ended {
            Some(Ok(what)) => what,
            Some(Err(_)) | None => "the task of a listener".to_owned(),
        },
    };
    format!("{what} has ended by itself; --log-level debug may say why")
}

fn configure(args: &ConnectArgs, voice: &Voice) -> Result<Config, String> {
    let device_id = secrets::device_id(args, voice)?;
    let token = secrets::token(args, voice)?;
    let mut config = Config::new(args.gateway.clone(), device_id, token);
    config.region.clone_from(&args.region);
    config.offers_v2 = !args.json;
    config.max_sessions = args.max_sessions.into();
    config.offers_post_quantum = !args.no_post_quantum;
    if args.headers.len() > MAX_HEADERS {
        return Err(format!("--header is given more than {MAX_HEADERS} times"));
    }
    if let Some(user_agent) = &args.user_agent {
        config.headers = vec![user_agent.clone()];
    }
    config.headers.extend(args.headers.iter().cloned());
    if let Some(file) = &args.ca {
        config.trust = Trust::from_pem_file(file)?;
    }
    if args.insecure {
        config.trust = Trust::Insecure;
        voice.say(
            Level::Warn,
            &"WARNING: --insecure accepts ANY certificate. Anyone between this machine and \
              the gateway can read and change everything, the device's token first of all",
        );
    }
    Ok(config)
}

/// The warning of a proxy that asks for no password and that other machines reach.
pub(crate) fn open_proxy(proxy: SocketAddr, remedy: &str) -> String {
    format!(
        "WARNING: the proxy on {proxy} is open to EVERYBODY who can reach this machine; {remedy}"
    )
}

fn warn_of_open_doors(
    voice: &Voice,
    proxy: SocketAddr,
    has_credentials: bool,
    forwards: &[(Door, SocketAddr, Target)],
) {
    if !proxy.ip().is_loopback() && !has_credentials {
        let remedy = "listen on 127.0.0.1, or set --proxy-user and --proxy-password-file";
        voice.say(Level::Warn, &open_proxy(proxy, remedy));
    }
    for (_, address, target) in forwards.iter().filter(|(_, local, _)| !local.ip().is_loopback()) {
        let words = format_args!(
            "warning: everybody who can reach this machine reaches {target} through {address}"
        );
        voice.say(Level::Warn, &words);
    }
}

/// Reports what happens: one line for each change, on standard error. It does not block.
struct Voice {
    lines: Lines,
    level: Level,
    gateway: String,
    device_id: String,
    /// The last problem that was told, until a session stands.
    problem: Mutex<Option<String>>,
}

impl Voice {
    fn new(args: &ConnectArgs) -> Self {
        Self {
            lines: Lines::to_stderr(),
            level: args.log_level,
            gateway: args.gateway.to_string(),
            device_id: args.device_id.escape_debug().to_string(),
            problem: Mutex::default(),
        }
    }

    fn say(&self, level: Level, words: &dyn fmt::Display) {
        if level <= self.level {
            self.lines.say(words);
        }
    }

    fn tell(&self, event: &Event) {
        match event {
            Event::Connected { session_id, max_streams, sessions, has_v2, .. } => {
                *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
                let (gateway, device) = (&self.gateway, &self.device_id);
                if *sessions == 1 {
                    let words = format_args!("connected to {gateway} as device {device}");
                    self.say(Level::Info, &words);
                }
                let format = if *has_v2 { "binary" } else { "JSON" };
                let words = format_args!(
                    "session {session_id} is up ({format}): {sessions} in all, {max_streams} streams each"
                );
                self.say(Level::Debug, &words);
            }
            Event::Draining { sessions: 0 } => self.say(
                Level::Info,
                &"the gateway is going down; what is open finishes there, the rest reconnects",
            ),
            Event::Draining { .. } => self.say(Level::Debug, &"the gateway drains a session"),
            Event::Silent { sessions: 0 } => self.say(
                Level::Warn,
                &"the gateway does not answer; the path to it may have been lost, connecting anew",
            ),
            Event::Silent { .. } => {
                self.say(Level::Debug, &"the gateway does not answer on a session");
            }
            Event::Heard { sessions: 1 } => self.say(Level::Info, &"the gateway answers again"),
            Event::Heard { .. } => {
                self.say(Level::Debug, &"the gateway answers again on a session");
            }
            Event::Full { waiting, max_streams, sessions } => {
                let words = format_args!(
                    "every place is taken, connections that wait for one: {waiting} (sessions: \
                     {sessions}, streams that the gateway allows on each: {max_streams}); close \
                     what is not needed, or see --max-sessions"
                );
                self.say(Level::Warn, &words);
            }
            Event::Displaced { flows, .. } => {
                let words = format_args!(
                    "short of places: UDP flows that gave theirs to others: {flows}, the quietest \
                     first"
                );
                self.say(Level::Warn, &words);
            }
            Event::Ended { end, sessions: 0 } => {
                self.say(Level::Warn, &format_args!("disconnected, will reconnect: {end}"));
            }
            Event::Ended { end, .. } => {
                self.say(Level::Debug, &format_args!("a session ended: {end}"));
            }
            Event::Failed { error, sessions: 0, .. } => {
                let patience = if error.is_refusal() {
                    "will ask again now and then"
                } else {
                    "will keep trying"
                };
                let words = format!("{error}{}; {patience}", Hint(error));
                let mut told = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
                if told.as_ref() != Some(&words) {
                    self.say(Level::Warn, &words);
                    *told = Some(words);
                }
            }
            Event::Failed { error, .. } => {
                self.say(Level::Debug, &format_args!("no further session: {error}"));
            }
        }
    }
}

/// What a person can do about a problem.
struct Hint<'a>(&'a ConnectError);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            ConnectError::Dns { .. } => "; check the host in --gateway and this machine's network",
            ConnectError::ConnectionRefused { .. } => {
                "; check the port in --gateway, and whether the gateway runs"
            }
            ConnectError::TimedOut { step: Step::Tls, .. } => {
                "; check this machine's network and any firewall on the way. Some networks lose the \
                 large first message of post-quantum TLS: attempts alternate with and without it, \
                 and --no-post-quantum leaves it out"
            }
            ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => {
                "; check this machine's network and any firewall on the way"
            }
            ConnectError::Certificate { fault, .. } if fault.remedy().is_empty() => {
                "; name a private authority, or the gateway's own certificate, with --ca"
            }
            ConnectError::Certificate { fault, .. } => return write!(f, "; {}", fault.remedy()),
            ConnectError::Refused { reason, .. } => match &**reason {
                "device_not_found" => "; check --device-id",
                "invalid_token" | "device_mismatch" => {
                    "; check the token and --device-id, or ask the operator for a new token"
                }
                "no_active_subscription" => "; renew the subscription",
                _ => "; ask the operator of the gateway",
            },
            ConnectError::SessionLimit => "; close other clients of this device",
            ConnectError::BackendUnavailable | ConnectError::NoNode { .. } => {
                "; the operator has to see to it"
            }
            ConnectError::BadHello(_) => "; check --device-id and the token",
            ConnectError::Tls(_) => "; check host and port in --gateway",
            // These say themselves what there is to be said.
            ConnectError::NotAGateway { .. }
            | ConnectError::Closed(_)
            | ConnectError::Config(_) => "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_and_local_addresses_are_read() {
        let forward: Forward = "5432=db.example:5433".parse().unwrap();
        assert_eq!(forward.local.to_string(), "127.0.0.1:5432");
        assert_eq!(forward.target.to_string(), "db.example:5433");
        let forward: Forward = "udp:53=[2001:db8::1]:53".parse().unwrap();
        assert_eq!((forward.is_udp, &*forward.local.to_string()), (true, "127.0.0.1:53"));
        let forward: Forward = "[::1]:1=[2001:db8::1]:2".parse().unwrap();
        assert_eq!(forward.local.to_string(), "[::1]:1");
        assert_eq!(forward.target.to_string(), "[2001:db8::1]:2");
        for bad in ["", "1", "1=", "=a:1", "x=a:1", "1=a", "1:2:3=a:1"] {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
        let words = parse_local("socks5h://127.0.0.1:1080").unwrap_err();
        assert!(words.contains("has no scheme"), "{words}");
    }

    #[test]
    fn the_arguments_are_consistent() {
        ConnectArgs::augment_args(clap::Command::new("connect")).debug_assert();
    }
}
