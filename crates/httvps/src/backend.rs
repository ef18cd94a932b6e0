//! `httvps backend`: the reference backend and its file of devices.

mod args;
mod nodes;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use args::{
    AddArgs, BackendCommand, ListArgs, RemoveArgs, RotateArgs, ServeArgs, StatusArgs, Until,
};
use httvps_backend::{
    Backend, Device, EndChange, FileError, GatewaySecret, NewDevice, ServeOptions, Store,
    StoreError, SubscriptionEnd, Token, serve,
};
use httvps_telemetry::log;
use httvps_text::{TextError, without_mark_str};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::{print, signals};

pub(crate) use args::BackendArgs;

/// What messages on standard error begin with.
const NAME: &str = "httvps backend";

/// The environment variable with the secret that gateways must show.
const SECRET_VARIABLE: &str = "BACKEND_GATEWAY_SECRET";

/// Largest secret file, in bytes; a header could not carry more.
const MAX_SECRET_LEN: u64 = 8 * 1024;

/// Runs the subcommand; `serve` makes a runtime of its own and blocks until SIGINT or SIGTERM, of
/// which a second one ends it at once.
///
/// The exit code is 0 when it is done, 1 when it failed and 2 when the call itself was wrong; then
/// one or two lines on standard error say what and how to mend it.
pub(crate) fn run(args: BackendArgs) -> ExitCode {
    match execute(args.command, &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::say_as(NAME, &failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Why a subcommand did not do its work: what, the way out, and the exit code.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(what: impl Display, fix: impl Display) -> Self {
        Self { message: format!("{what}\n{fix}"), code: 1 }
    }

    fn usage(self) -> Self {
        Self { code: 2, ..self }
    }
}

impl From<io::Error> for Failure {
    /// Only writing to the terminal ends here.
    fn from(problem: io::Error) -> Self {
        Self { message: format!("cannot write the output: {problem}"), code: 1 }
    }
}

fn execute(command: BackendCommand, out: &mut dyn Write) -> Result<(), Failure> {
    match command {
        // Standard output is for the log there.
        BackendCommand::Serve(args) => run_server(args),
        BackendCommand::AddDevice(args) => add_device(args, out),
        BackendCommand::ListDevices(args) => list_devices(&args, out),
        BackendCommand::SetStatus(args) => set_status(args, out),
        BackendCommand::RotateToken(args) => rotate_token(&args, out),
        BackendCommand::RemoveDevice(args) => remove_device(&args, out),
        BackendCommand::AddNode(args) => nodes::add(args, out),
        BackendCommand::ListNodes(args) => nodes::list(&args, out),
        BackendCommand::SetNode(args) => nodes::set(&args, out),
        BackendCommand::RemoveNode(args) => nodes::remove(&args, out),
    }
}

fn add_device(args: AddArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let store = Store::new(args.file.devices);
    let new = NewDevice {
        device_id: args.device_id,
        user_id: args.user,
        subscription_status: args.status,
        subscription_end: match args.until {
            Until::Never => None,
            Until::At(end) => Some(end),
        },
    };
    let (device, token) = store.add(new).map_err(|problem| match problem {
        StoreError::File(FileError::Missing(path)) => Failure::new(
            format_args!("the directory of {} does not exist", path.display()),
            "Make it first, or name another file with --devices.",
        ),
        problem => explain(problem, store.path()),
    })?;
    show_token("Added", &device, &token, args.json, out)
}

fn rotate_token(args: &RotateArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let store = Store::new(&args.file.devices);
    let (device, token) =
        store.rotate_token(&args.device_id).map_err(|problem| explain(problem, store.path()))?;
    show_token("Gave a fresh token to", &device, &token, args.json, out)
}

fn show_token(
    what: &str,
    device: &Device,
    token: &Token,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let shown = if as_json {
        let mut object = describe(device);
        object["token"] = token.expose().into();
        writeln!(out, "{object}")
    } else {
        write_token(what, device, token, out)
    };
    shown.and_then(|()| out.flush()).map_err(|problem| {
        Failure::new(
            format_args!(
                "the device {} was saved, but its token could not be shown: {problem}",
                device.device_id
            ),
            "Draw another one with rotate-token.",
        )
    })
}

fn write_token(what: &str, device: &Device, token: &Token, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{what} device {}: {}.\n", device.device_id, subscription_of(device))?;
    writeln!(out, "  device id: {}", device.device_id)?;
    writeln!(out, "  token:     {}\n", token.expose())?;
    writeln!(out, "Save the token now: it is shown this once and cannot be read back.")
}

fn list_devices(args: &ListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = &args.file.devices;
    let devices = Store::new(path).devices().map_err(|problem| explain(problem, path))?;
    if args.json {
        writeln!(out, "{}", devices.iter().map(describe).collect::<Value>())?;
        return Ok(());
    }
    let width = |heading: &str, column: fn(&Device) -> usize| {
        devices.iter().map(column).max().unwrap_or(0).max(heading.len())
    };
    let ids = width("DEVICE", |device| device.device_id.as_str().len());
    let users = width("USER", |device| device.user_id.to_string().len());
    let statuses = width("STATUS", |device| device.subscription_status.as_str().len());
    let ends = width("UNTIL", |device| until(device).len());
    let now = SystemTime::now();
    writeln!(
        out,
        "{:ids$}  {:>users$}  {:statuses$}  {:ends$}  ALLOWED",
        "DEVICE", "USER", "STATUS", "UNTIL"
    )?;
    for device in &devices {
        writeln!(
            out,
            "{:ids$}  {:>users$}  {:statuses$}  {:ends$}  {}",
            device.device_id,
            device.user_id,
            device.subscription_status,
            until(device),
            if device.is_entitled(now) { "yes" } else { "no" },
        )?;
    }
    Ok(())
}

fn set_status(args: StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let store = Store::new(args.file.devices);
    let end = match args.until {
        None => EndChange::Keep,
        Some(Until::Never) => EndChange::Never,
        Some(Until::At(end)) => EndChange::At(end),
    };
    let device = store
        .set_status(&args.device_id, args.status, end)
        .map_err(|problem| explain(problem, store.path()))?;
    writeln!(out, "Set device {}: {}.", device.device_id, subscription_of(&device))?;
    Ok(())
}

fn remove_device(args: &RemoveArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let store = Store::new(&args.file.devices);
    let device = store.remove(&args.device_id).map_err(|problem| explain(problem, store.path()))?;
    writeln!(out, "Removed device {}.", device.device_id)?;
    Ok(())
}

/// Everything about a device that is not secret.
fn describe(device: &Device) -> Value {
    json!({
        "device_id": device.device_id,
        "user_id": device.user_id,
        "subscription_status": device.subscription_status,
        "subscription_end": device.subscription_end,
        "allowed": device.is_entitled(SystemTime::now()),
    })
}

/// Says in words what the subscription of a device means today.
fn subscription_of(device: &Device) -> String {
    let verdict = if device.is_entitled(SystemTime::now()) {
        "is let in"
    } else {
        "is refused as having no active subscription"
    };
    let (user, status) = (device.user_id, &device.subscription_status);
    format!("user {user}, status {status}, until {}; it {verdict}", until(device))
}

fn until(device: &Device) -> &str {
    device.subscription_end.as_ref().map_or("never", SubscriptionEnd::as_str)
}

/// Adds the way out to what went wrong with the file.
fn explain(problem: StoreError, path: &Path) -> Failure {
    let file = path.display();
    match problem {
        StoreError::File(problem) => explain_file(&problem, path),
        StoreError::DeviceExists(_) => Failure::new(
            problem,
            "Choose another --device-id, or give this one a fresh token with rotate-token.",
        ),
        StoreError::UnknownDevice(_) => Failure::new(
            format_args!("{problem} in {file}"),
            format_args!("See those there are: httvps backend list-devices --devices {file}"),
        ),
        StoreError::NodeExists(_) => {
            Failure::new(problem, "Choose another --node-id, or remove-node that one first.")
        }
        StoreError::UnknownNode(_) => Failure::new(
            format_args!("{problem} in {file}"),
            format_args!("See those there are: httvps backend list-nodes --devices {file}"),
        ),
        StoreError::InvalidNode(_) => {
            Failure::new(problem, "Give --password-file, or --access-url-file with a whole key.")
                .usage()
        }
        StoreError::Busy(_) => Failure::new(problem, "Try again when that one is done."),
        StoreError::Random(_) => Failure::new(problem, "Nothing was changed."),
    }
}

fn explain_file(problem: &FileError, path: &Path) -> Failure {
    match problem {
        FileError::Missing(_) => Failure::new(
            format_args!("the file {} does not exist", path.display()),
            format_args!(
                "Make it with a first device: httvps backend add-device --devices {}",
                path.display()
            ),
        ),
        FileError::Malformed { .. } => {
            Failure::new(problem, "Correct the file by hand; it was left as it is.")
        }
        FileError::TooLarge(_) => Failure::new(problem, "Remove devices that are not in use."),
        FileError::Io { .. } => {
            Failure::new(problem, "Check --devices and who may read and write there.")
        }
    }
}

fn run_server(args: ServeArgs) -> Result<(), Failure> {
    let secret = gateway_secret(args.secret_file.as_deref())?;
    let path = args.file.devices;
    let backend = Backend::load(&path).map_err(|problem| explain_file(&problem, &path))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|problem| {
            Failure::new(format_args!("cannot start: {problem}"), "Check the limits (ulimit).")
        })?;
    runtime.block_on(async {
        let listener =
            bind(&args.listen).await.map_err(|problem| cannot_listen(&args.listen, &problem))?;
        let address =
            listener.local_addr().map_err(|problem| cannot_listen(&args.listen, &problem))?;
        // Before the line that says "ready", so that a signal sent upon it finds its receiver.
        let signals = signals::listen().map_err(|problem| {
            Failure::new(format_args!("cannot wait for signals: {problem}"), "Try again.")
        })?;
        let (devices, nodes) = (backend.device_count(), backend.node_count());
        print::say_as(
            NAME,
            format_args!(
                "serving {devices} device(s) and {nodes} node(s) of {} on http://{address} (stop with Ctrl-C)",
                path.display()
            ),
        );
        if secret.is_none() && !address.ip().is_loopback() {
            print::say_as(
                NAME,
                format_args!(
                    "warning: every host that reaches {address} may try tokens here; set {SECRET_VARIABLE} or \
                     --secret-file, or listen on 127.0.0.1."
                ),
            );
        }
        let _log = log::init(args.log_level, args.log_format);
        let options = ServeOptions { gateway_secret: secret, ..ServeOptions::default() };
        tokio::select! {
            () = serve(listener, Arc::new(backend), options, signals.drain.clone()) => {}
            () = signals.stop.cancelled() => {}
        }
        Ok(())
    })
}

/// Listens on the first address of `listen` that can be had, IPv4 before IPv6 as in the other programs: `localhost` means the
/// same whatever the order of `/etc/hosts`.
async fn bind(listen: &str) -> io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host(listen).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    TcpListener::bind(&addresses[..]).await
}

fn cannot_listen(listen: &str, problem: &io::Error) -> Failure {
    let failure = Failure::new(
        format_args!("cannot listen on {listen:?}: {problem}"),
        "Choose another address with --listen HOST:PORT, for example 127.0.0.1:8082.",
    );
    if problem.kind() == io::ErrorKind::InvalidInput { failure.usage() } else { failure }
}

/// The secret from the file or else from the environment; an empty variable is as good as none.
fn gateway_secret(file: Option<&Path>) -> Result<Option<GatewaySecret>, Failure> {
    if let Some(path) = file {
        let wrong = |problem: &dyn Display| {
            Failure::new(
                format_args!("--secret-file {}: {problem}", path.display()),
                "Give a file with one line of text, at most 8 KiB, that you may read.",
            )
            .usage()
        };
        let text = read_secret(path).map_err(|problem| wrong(&problem))?;
        return GatewaySecret::new(&text).map(Some).map_err(|problem| wrong(&problem));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a flag with the secret would show it in the list of processes"
    )]
    let value = std::env::var_os(SECRET_VARIABLE);
    let Some(value) = value else { return Ok(None) };
    let text = value.to_str().ok_or_else(|| {
        Failure::new(
            format_args!("{SECRET_VARIABLE} is not UTF-8"),
            "Set it to printable characters, the same as at the gateway.",
        )
        .usage()
    })?;
    Ok(GatewaySecret::new(without_mark_str(text)).ok())
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, TextError> {
    httvps_text::read_file(path, MAX_SECRET_LEN)
}
