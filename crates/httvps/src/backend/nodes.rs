//! `httvps backend …-node`: the Outline nodes in the file of devices.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{ArgAction, Args};
use httvps_backend::{Node, NodeId, Store};
use httvps_egress::nodes::KeySource;
use httvps_proto::Target;
use serde_json::{Value, json};

use super::args::DevicesFile;
use super::{Failure, explain, read_secret};

/// Largest key or password, in bytes.
const MAX_KEY_LEN: u64 = 8 * 1024;

/// Add an Outline node that devices are sent to
///
/// The gateway is sent to the enabled nodes in turn; whether a node answers is not looked at, so a dead one is assigned
/// until `set-node --enabled false`. Gateways ask once more when they know the node to be down, and with
/// `outline_assign: backend_then_pool` use their own pool instead.
///
/// Makes the file if there is none. The key comes from a file or from standard input (`-`), never
/// from the command line, which other users of the host can read.
#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// Name of the node: 1 to 64 letters, digits, '.', '_' and '-'
    #[arg(long, value_name = "ID")]
    node_id: NodeId,
    /// Region that devices ask for [default: any]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Host name or address of the node
    #[arg(long, value_name = "HOST")]
    host: String,
    /// Port of the node
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Cipher [default: left to the gateway, which takes chacha20-ietf-poly1305]
    #[arg(long, value_name = "CIPHER")]
    method: Option<String>,
    /// File with the password, or - for standard input; or give --access-url-file
    #[arg(long, value_name = "FILE", required_unless_present = "access_url_file")]
    password_file: Option<PathBuf>,
    /// File with the whole key (ss://…, ssconf://… or https://…), or - for standard input; wins over the rest
    #[arg(long, value_name = "FILE", conflicts_with = "password_file")]
    access_url_file: Option<PathBuf>,
    /// Number of the key at the node's management
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    #[command(flatten)]
    file: DevicesFile,
}

/// List the nodes, without passwords and keys
#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: DevicesFile,
}

/// Switch a node on or off; to one that is off no device is sent
#[derive(Args, Debug)]
pub(super) struct SetArgs {
    /// Name of the node
    #[arg(long, value_name = "ID")]
    node_id: String,
    /// Whether devices are sent there
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    enabled: bool,
    #[command(flatten)]
    file: DevicesFile,
}

/// Remove a node
#[derive(Args, Debug)]
pub(super) struct RemoveArgs {
    /// Name of the node
    #[arg(long, value_name = "ID")]
    node_id: String,
    #[command(flatten)]
    file: DevicesFile,
}

pub(super) fn add(args: AddArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let secret = |path: Option<&Path>| path.map(secret_line).transpose();
    let node = Node {
        password: secret(args.password_file.as_deref())?,
        access_url: secret(args.access_url_file.as_deref())?,
        node_id: args.node_id,
        region: args.region,
        host: args.host,
        port: args.port,
        method: args.method,
        access_key_id: args.access_key_id,
        enabled: true,
    };
    check(&node)?;
    let store = Store::new(args.file.devices);
    let node = store.add_node(node).map_err(|problem| explain(problem, store.path()))?;
    writeln!(out, "Added node {}: region {}.", node.node_id, region_of(&node))?;
    Ok(())
}

/// Checks the key as a gateway will read it, so that a mistake shows here and not at the first device.
fn check(node: &Node) -> Result<(), Failure> {
    let checked = KeySource::check_assigned(
        &node.host,
        node.port,
        node.method.as_deref(),
        node.password.as_deref(),
        node.access_url.as_deref(),
    );
    checked.map_err(|problem| {
        Failure::new(
            format!("the node {} cannot be used: {problem}", node.node_id),
            "Give a host, a cipher and a key of an Outline (Shadowsocks) node: ss://…, ssconf://… or https://… with \
             a path. `httvps upstream test -` tries a key.",
        )
        .usage()
    })
}

pub(super) fn list(args: &ListArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = &args.file.devices;
    let nodes = Store::new(path).nodes().map_err(|problem| explain(problem, path))?;
    if args.json {
        writeln!(out, "{}", nodes.iter().map(describe).collect::<Value>())?;
        return Ok(());
    }
    let width = |heading: &str, column: fn(&Node) -> usize| {
        nodes.iter().map(column).max().unwrap_or(0).max(heading.len())
    };
    let ids = width("NODE", |node| node.node_id.as_str().len());
    let regions = width("REGION", |node| region_of(node).len());
    let places = width("ADDRESS", |node| place_of(node).len());
    let ciphers = width("CIPHER", |node| cipher_of(node).len());
    writeln!(
        out,
        "{:ids$}  {:regions$}  {:places$}  {:ciphers$}  ENABLED",
        "NODE", "REGION", "ADDRESS", "CIPHER"
    )?;
    for node in &nodes {
        let enabled = if node.enabled { "yes" } else { "no" };
        let (place, cipher) = (place_of(node), cipher_of(node));
        let (id, region) = (&node.node_id, region_of(node));
        writeln!(
            out,
            "{id:ids$}  {region:regions$}  {place:places$}  {cipher:ciphers$}  {enabled}"
        )?;
    }
    Ok(())
}

pub(super) fn set(args: &SetArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let store = Store::new(&args.file.devices);
    let node = store
        .enable_node(&args.node_id, args.enabled)
        .map_err(|problem| explain(problem, store.path()))?;
    let state = if node.enabled { "on" } else { "off" };
    writeln!(out, "Switched node {} {state}.", node.node_id)?;
    Ok(())
}

pub(super) fn remove(args: &RemoveArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let store = Store::new(&args.file.devices);
    let node =
        store.remove_node(&args.node_id).map_err(|problem| explain(problem, store.path()))?;
    writeln!(out, "Removed node {}.", node.node_id)?;
    Ok(())
}

/// Everything about a node that is not secret.
fn describe(node: &Node) -> Value {
    json!({
        "node_id": node.node_id,
        "region": node.region,
        "host": node.host,
        "port": node.port,
        "method": node.method,
        "access_key_id": node.access_key_id,
        "has_access_url": node.access_url.is_some(),
        "enabled": node.enabled,
    })
}

/// Where a gateway connects: the place in an `ss://` key, which wins over host and port.
fn place_of(node: &Node) -> String {
    match key_of(node) {
        Some(KeySource::Static(key)) => key.node().to_string(),
        Some(_) => "as its key says".to_owned(),
        None => Target::from_parts(&node.host, node.port)
            .map_or_else(|_| format!("{}:{}", node.host, node.port), |place| place.to_string()),
    }
}

fn cipher_of(node: &Node) -> String {
    match key_of(node) {
        Some(KeySource::Static(key)) => key.cipher().to_string(),
        Some(_) => "as its key says".to_owned(),
        None => node.method.clone().unwrap_or_else(|| "default".to_owned()),
    }
}

/// The whole key of a node that has one.
fn key_of(node: &Node) -> Option<KeySource> {
    node.access_url.as_deref().and_then(|url| KeySource::parse(url).ok())
}

fn region_of(node: &Node) -> &str {
    node.region.as_deref().unwrap_or("any")
}

/// The one line of a file, or of standard input for `-`.
fn secret_line(path: &Path) -> Result<String, Failure> {
    let wrong = |problem: &dyn std::fmt::Display| {
        let what = format!("{}: {problem}", path.display());
        Failure::new(
            what,
            "Give a file with one line of text, at most 8 KiB, or - for standard input.",
        )
        .usage()
    };
    let text = if path.as_os_str() == "-" {
        httvps_text::read(io::stdin(), MAX_KEY_LEN)
    } else {
        read_secret(path)
    };
    let text = text.map_err(|problem| wrong(&problem))?;
    match text.trim() {
        "" => Err(wrong(&"is empty")),
        line if line.contains('\n') => Err(wrong(&"has more than one line")),
        line => Ok(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, json};
    use super::*;

    #[test]
    fn nodes_that_no_gateway_could_use_are_refused_and_nothing_secret_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        let add = |text: &str, more: &str| {
            std::fs::write(&key, text).unwrap();
            call(directory.path(), &format!("add-node --node-id a {more} {}", key.display()))
        };
        let place = "--host 192.0.2.1 --port 1";
        for (text, more, part) in [
            ("vmess://hunter2", format!("{place} --access-url-file"), "begins with ss://"),
            ("ss://hunter2", format!("{place} --access-url-file"), ""),
            ("socks5://u:hunter2@h:1", format!("{place} --access-url-file"), ""),
            ("hunter2", format!("{place} --method aes-257-gcm --password-file"), "cipher"),
            ("hunter2", format!("{place} --method 2022-blake3-aes-128-gcm --password-file"), ""),
            ("hunter2", "--host two/words --port 1 --password-file".to_owned(), ""),
        ] {
            let failure = add(text, &more).expect_err(&more).message;
            assert!(failure.contains("the node a cannot be used"), "{failure}");
            assert!(failure.contains(part) && !failure.contains("hunter2"), "{failure}");
        }
        assert!(call(directory.path(), "list-nodes").is_err(), "no file was made");
        add("hunter2", &format!("{place} --password-file")).unwrap();
    }

    #[test]
    fn nodes_are_added_listed_switched_and_removed_and_keys_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, "ss://aes-256-gcm:hunter2@192.0.2.7:9\n").unwrap();
        let key = key.display();
        let call = |line: &str| call(directory.path(), line);
        let place = "--host 192.0.2.1 --port 1";
        call(&format!("add-node --node-id a --region eu {place} --password-file {key}")).unwrap();
        call(&format!("add-node --node-id b {place} --access-url-file {key}")).unwrap();
        let again = call(&format!("add-node --node-id b {place} --password-file {key}"));
        assert!(again.unwrap_err().message.contains("exists already"));
        call("set-node --node-id a --enabled false").unwrap();
        let table = call("list-nodes").unwrap();
        let rows: Vec<Vec<_>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = [
            vec!["NODE", "REGION", "ADDRESS", "CIPHER", "ENABLED"],
            vec!["a", "eu", "192.0.2.1:1", "default", "no"],
            vec!["b", "any", "192.0.2.7:9", "aes-256-gcm", "yes"],
        ];
        assert_eq!(rows, expected);
        let listed = call("list-nodes --json").unwrap();
        assert!(!listed.contains("hunter2"));
        assert_eq!(json(&listed)[1]["has_access_url"], true);
        call("remove-node --node-id a").unwrap();
        let failure = call("remove-node --node-id a").unwrap_err();
        assert!(failure.message.contains("no node \"a\""), "{}", failure.message);
        assert_eq!(Store::new(directory.path().join("devices.json")).nodes().unwrap().len(), 1);
    }
}
