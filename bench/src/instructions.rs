//! Instructions for each echoed message, counted by valgrind: a figure that does not depend on what else the machine does.

use crate::PAYLOADS;
use crate::echo;
use crate::rig::Rig;
use crate::session::KeyExchange;
use std::fmt::Write as _;
use std::io;

/// Messages of the shorter run; the longer one has twice as many.
const MESSAGES: usize = 400;

/// A table of instructions per message and per byte of payload.
pub(crate) async fn markdown(rig: &Rig) -> io::Result<String> {
    let mut page =
        "| payload | gateway instructions a message | a byte |\n| --- | ---: | ---: |\n".to_owned();
    for payload in PAYLOADS {
        // The difference leaves out the start, the handshake and the end.
        let short = count(rig, payload, MESSAGES).await?;
        let long = count(rig, payload, 2 * MESSAGES).await?;
        let each = long.saturating_sub(short) / MESSAGES as u64;
        let per_byte = each as f64 / payload as f64;
        // Writing into a String does not fail.
        let _ = writeln!(page, "| {} KiB | {each} | {per_byte:.2} |", payload / 1024);
    }
    Ok(page)
}

/// All instructions of a gateway that echoes `messages` messages.
async fn count(rig: &Rig, payload: usize, messages: usize) -> io::Result<u64> {
    let result = rig.path("callgrind.out");
    let file = format!("--callgrind-out-file={}", result.display());
    let wrapper = ["valgrind", "--tool=callgrind", "--quiet", &file];
    let (mut server, endpoint) = rig.gateway(KeyExchange::X25519, &wrapper)?;
    echo::fixed(&server, &endpoint, payload, messages).await?;
    server.terminate()?;
    let profile = std::fs::read_to_string(&result)?;
    let total = profile
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")));
    total
        .and_then(|total| total.trim().parse().ok())
        .ok_or_else(|| io::Error::other("valgrind counted nothing"))
}
