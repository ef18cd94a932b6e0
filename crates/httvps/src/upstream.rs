//! `httvps upstream`: looks at the ways out.

use crate::print::{self, fail};
use clap::{Args, Subcommand};
use httvps_egress::nodes::test_key;
use httvps_proto::Target;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Largest key, in bytes.
const MAX_KEY_LEN: u64 = 8 * 1024;

const EXAMPLES: &str = "\
Examples:
  # A key by standard input, which other users of the host cannot read
  httvps upstream test - <key.txt

  # A dynamic key
  httvps upstream test ssconf://keys.example/anna

  # A proxy
  httvps upstream test socks5://192.0.2.1:1080

Exit status: 0 streams work (datagrams may not), 1 they do not, 2 wrong usage.";

#[derive(Args, Debug)]
pub(crate) struct UpstreamArgs {
    #[command(subcommand)]
    command: UpstreamCommand,
}

#[derive(Subcommand, Debug)]
enum UpstreamCommand {
    Test(TestArgs),
}

/// Make one real exchange through a node: Outline (Shadowsocks), SOCKS5 or HTTP proxy
///
/// Connects, asks a web server for its head over a stream, and a name server in a datagram, and says
/// what works, how long it took, or what is wrong. The password is not printed.
#[derive(Args, Debug)]
#[command(after_help = "More, with examples: httvps upstream test --help", after_long_help = EXAMPLES)]
struct TestArgs {
    /// ss://…, ssconf://…, https://…, or a proxy: socks5://, http:// or https:// with
    /// HOST:PORT, and USER:PASSWORD@ before it if need be; - reads it from standard input
    key: String,
    /// Web server to ask through the node
    #[arg(long, value_name = "HOST:PORT", default_value = "example.com:80", value_parser = target)]
    target: Target,
    /// Name server to ask through the node
    #[arg(long, value_name = "HOST:PORT", default_value = "1.1.1.1:53", value_parser = target)]
    dns: Target,
    /// How long each step may take, in seconds: at most 10
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=10))]
    timeout: u64,
    /// Certificates, PEM, to trust for a dynamic key or an https proxy besides those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

fn target(text: &str) -> Result<Target, String> {
    Target::parse(text).map_err(|error| error.to_string())
}

/// Runs the subcommand.
pub(crate) async fn run(args: UpstreamArgs) -> ExitCode {
    let UpstreamCommand::Test(args) = args.command;
    test(args).await
}

async fn test(args: TestArgs) -> ExitCode {
    let mut key = args.key;
    if key == "-" {
        key = match httvps_text::read(std::io::stdin(), MAX_KEY_LEN) {
            Ok(text) => text.to_string(),
            Err(error) => return fail(format_args!("standard input {error}")),
        };
    }
    let timeout = Duration::from_secs(args.timeout);
    let report = test_key(&key, args.ca_file.as_deref(), &args.target, &args.dns, timeout).await;
    let report = match report {
        Ok(report) => report,
        Err(problem) => return fail(problem),
    };
    let ms = |duration: Duration| format!("{:.0} ms", duration.as_secs_f64() * 1000.0);
    let streams = match &report.stream {
        Ok(exchange) => format!(
            "work: connected in {}, {} answered in {}",
            ms(exchange.dial),
            args.target,
            ms(exchange.answer)
        ),
        Err(error) => format!("fail: {error}"),
    };
    let datagrams = match &report.datagrams {
        Ok(answer) => format!("work: {} answered in {}", args.dns, ms(*answer)),
        Err(error) => format!("fail: {}", datagram_words(*error)),
    };
    let node = &report.node;
    let told = format!("node       {node}\nstreams    {streams}\ndatagrams  {datagrams}\n");
    match print::result(told) {
        Ok(()) if report.stream.is_ok() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(code) => code,
    }
}

fn datagram_words(error: httvps_egress::nodes::NodeError) -> String {
    use httvps_egress::nodes::NodeError;
    match error {
        NodeError::Silent => {
            "no answer in time: the node takes no datagrams, the key is wrong, or the name server does not answer".to_owned()
        }
        other => other.to_string(),
    }
}
