//! The tables about Outline nodes.

use super::idle::{Size, TOUCH};
use super::{CIPHERS, Direction, STREAMS};
use crate::report::{foreign, machine, table};
use crate::samples::Samples;

pub(super) fn markdown(samples: &Samples, size: Size, node: &str) -> String {
    let mut page = format!("{} Node: {node}.\n\n", machine(None).replace(", no HAProxy", ""));
    page += &costs(samples);
    page += &idle(samples, size);
    page += &foreign(samples);
    page
}

fn costs(samples: &Samples) -> String {
    let mut rows = Vec::new();
    for cipher in CIPHERS {
        for direction in Direction::ALL {
            let cell =
                |name: &str| samples.cell(&format!("cost.{cipher}.{}.{name}", direction.name()), 2);
            rows.push(vec![
                format!("{cipher}, {}", direction.name()),
                cell("direct"),
                cell("outline"),
                cell("ratio"),
                cell("of_bar"),
                cell("node"),
                samples.cell(&format!("pass.{cipher}"), 2),
                samples.cell(&format!("cost.{cipher}.{}.outline_mib_per_s", direction.name()), 0),
            ]);
        }
    }
    let head = [
        "cipher, direction",
        "direct, CPU s/GiB",
        "outline, CPU s/GiB",
        "outline ÷ direct",
        "outline ÷ (1.35 direct + AEAD pass)",
        "ssserver itself, CPU s/GiB",
        "one AEAD pass, CPU s/GiB",
        "outline MiB/s",
    ];
    let words = format!(
        "CPU of the gateway for each GiB of payload, {STREAMS} streams of one client in the binary format, to a target \
         on the same machine: directly, and through `ssserver`, whose own CPU in the same seconds stands beside it. \
         Ratios are of pairs measured one after the other."
    );
    table(&words, &head, &rows)
}

fn idle(samples: &Samples, size: Size) -> String {
    let rows: Vec<_> = ["json", "binary"]
        .map(|format| {
            let cell = |way: &str| samples.cell(&format!("idle.{format}.{way}"), 2);
            vec![format.to_owned(), cell("direct"), cell("outline"), cell("node")]
        })
        .into();
    let head =
        ["format", "direct, KiB a stream", "outline, KiB a stream", "ssserver, KiB a stream"];
    let words = format!(
        "Resident memory of an idle stream after it has echoed {} KiB; {} streams, a fresh gateway for each figure.",
        TOUCH / 1024,
        size.sessions * size.streams
    );
    table(&words, &head, &rows)
}
