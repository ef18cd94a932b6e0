//! The command line of `httvps backend`.

use super::nodes;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use httvps_backend::{DeviceId, SubscriptionEnd, SubscriptionStatus};
use httvps_telemetry::log::{LogFormat, LogLevel};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  # The first device makes the file; its token is shown this once
  httvps backend add-device --devices devices.json --device-id laptop-anna

  # Serve it to a gateway on the same host (BACKEND_BASE_URL=http://127.0.0.1:8081)
  httvps backend serve --devices devices.json

  # A trial through the end of January, and its end before time
  httvps backend add-device --device-id phone-ben --user 8 --status trialing --until 2027-01-31
  httvps backend set-status --device-id phone-ben --status canceled

  # An Outline node for the devices that ask for the region eu; its key comes by standard input
  httvps backend add-node --node-id fra-1 --region eu --host 192.0.2.10 --port 8388 \\
    --access-url-file - <key.txt

  # A token straight into a private file, for httvps connect --token-file
  (umask 077; httvps backend add-device --json | jq -r .token > token.txt)

Changes are served within about a second, without a restart.
Exit status: 0 done, 1 failed, 2 wrong usage.";

/// Run a small subscription backend over a file of devices
///
/// For operators who have no backend of their own, and for tests. It serves the API that the
/// gateway asks (validate-device and the rest) over HTTP, from one JSON file: device, owner,
/// subscription, and the SHA-256 of a token. Only the statuses `active` and `trialing` let a device
/// in, and only until the subscription's end.
#[derive(Args, Debug)]
#[command(after_help = "More, with examples: httvps backend --help", after_long_help = EXAMPLES)]
pub(crate) struct BackendArgs {
    #[command(subcommand)]
    pub(super) command: BackendCommand,
}

#[derive(Subcommand, Debug)]
pub(super) enum BackendCommand {
    Serve(ServeArgs),
    AddDevice(AddArgs),
    ListDevices(ListArgs),
    SetStatus(StatusArgs),
    RotateToken(RotateArgs),
    RemoveDevice(RemoveArgs),
    AddNode(nodes::AddArgs),
    ListNodes(nodes::ListArgs),
    SetNode(nodes::SetArgs),
    RemoveNode(nodes::RemoveArgs),
}

/// Serve the backend API over HTTP
///
/// Follows changes of the file; a broken file is reported and the last good copy answers on. Speaks
/// plain HTTP: keep it on loopback or a private network. The secret that gateways must show in
/// `X-Internal-Secret` comes from `--secret-file` or from `BACKEND_GATEWAY_SECRET`. At most 50 lines
/// about devices are logged a second (500 at once).
#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    pub(super) listen: String,
    /// File with the secret that gateways must show; wins over `BACKEND_GATEWAY_SECRET`
    #[arg(long, value_name = "FILE")]
    pub(super) secret_file: Option<PathBuf>,
    /// Least level to log, on standard output
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = log_levels())]
    pub(super) log_level: LogLevel,
    /// Shape of the log lines
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = log_formats())]
    pub(super) log_format: LogFormat,
    #[command(flatten)]
    pub(super) file: DevicesFile,
}

/// Add a device and show its fresh token once
///
/// Makes the file if there is none. The token is in no other place: who loses it needs
/// rotate-token.
#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// Name of the device: up to 128 printable characters [default: a random one]
    #[arg(long, value_name = "ID")]
    pub(super) device_id: Option<DeviceId>,
    /// Number of the owner
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) user: u64,
    /// Subscription status; active and trialing let the device in
    #[arg(long, value_name = "STATUS", default_value = "active")]
    pub(super) status: SubscriptionStatus,
    /// End of the subscription: a date (its last day, UTC), a UTC time such as
    /// 2027-01-31T12:00:00Z, or never
    #[arg(long, value_name = "DATE", default_value = "never", value_parser = parse_until)]
    pub(super) until: Until,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) file: DevicesFile,
}

/// List the devices, without anything secret
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) file: DevicesFile,
}

/// Set the subscription of a device
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Name of the device
    #[arg(long, value_name = "ID")]
    pub(super) device_id: String,
    /// New status; active and trialing let the device in
    #[arg(long, value_name = "STATUS")]
    pub(super) status: SubscriptionStatus,
    /// New end: a date (its last day, UTC), a UTC time such as 2027-01-31T12:00:00Z, or never
    /// [default: stays as it is]
    #[arg(long, value_name = "DATE", value_parser = parse_until)]
    pub(super) until: Option<Until>,
    #[command(flatten)]
    pub(super) file: DevicesFile,
}

/// Give a device a fresh token and show it once; the old one stops working
#[derive(Args, Debug)]
pub(super) struct RotateArgs {
    /// Name of the device
    #[arg(long, value_name = "ID")]
    pub(super) device_id: String,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) file: DevicesFile,
}

/// Remove a device
#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// Name of the device
    #[arg(long, value_name = "ID")]
    pub(super) device_id: String,
    #[command(flatten)]
    pub(super) file: DevicesFile,
}

#[derive(Args, Debug)]
pub(super) struct DevicesFile {
    /// The file of devices
    #[arg(long, value_name = "FILE", default_value = "devices.json")]
    pub(super) devices: PathBuf,
}

/// The end of a subscription as it is given on the command line.
#[derive(Clone, Debug)]
pub(super) enum Until {
    Never,
    At(SubscriptionEnd),
}

fn parse_until(text: &str) -> Result<Until, String> {
    match text {
        "never" => Ok(Until::Never),
        text => text.parse().map(Until::At).map_err(|problem| format!("{problem}, or never")),
    }
}

fn log_levels() -> impl TypedValueParser<Value = LogLevel> {
    PossibleValuesParser::new(["debug", "info", "warn", "error"]).map(|name| match name.as_str() {
        "debug" => LogLevel::Debug,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        _ => LogLevel::Info,
    })
}

fn log_formats() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(["json", "text"]).map(|name| match name.as_str() {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    })
}
