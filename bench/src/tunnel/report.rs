//! The tables of the tunnel benchmark, with the bars that it is held against.

use super::chain::Peer;
use super::{Plan, Section};
use crate::report::table;
use crate::samples::Samples;
use std::fmt::Write as _;

/// What a figure must be to meet its bar.
#[derive(Clone, Copy)]
enum Bar {
    /// None: it is there to compare.
    Free,
    AtMost(f64),
    AtLeast(f64),
    /// As a ratio to HAProxy in the same rounds.
    RatioAtMost(f64),
    RatioAtLeast(f64),
}

impl Bar {
    fn words(self) -> String {
        match self {
            Self::Free => "–".to_owned(),
            Self::AtMost(bar) => format!("≤ {bar}"),
            Self::AtLeast(bar) => format!("≥ {bar}"),
            Self::RatioAtMost(bar) => format!("≤ {bar} × HAProxy"),
            Self::RatioAtLeast(bar) => format!("≥ {bar} × HAProxy"),
        }
    }

    /// Whether `value`, and `ratio` to HAProxy, meet it; None where that was not measured.
    fn is_met(self, value: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::Free => None,
            Self::AtMost(bar) => Some(value? <= bar),
            Self::AtLeast(bar) => Some(value? >= bar),
            Self::RatioAtMost(bar) => Some(ratio? <= bar),
            Self::RatioAtLeast(bar) => Some(ratio? >= bar),
        }
    }
}

/// A line of the tables: what it says, the figure's name, its digits and its bar.
type Line = (Section, &'static str, &'static str, usize, Bar);

const LINES: &[Line] = {
    use Bar::{AtLeast, AtMost, Free, RatioAtLeast, RatioAtMost};
    use Section::{Beside, Bulk, Many, Opens, Ping};
    &[
        (Bulk, "server CPU s/GiB, 8 streams up", "up8.cpu", 2, RatioAtMost(0.45)),
        (Bulk, "server CPU s/GiB, 8 streams down", "down8.cpu", 2, RatioAtMost(0.40)),
        (Bulk, "server's resident MiB meanwhile", "rss", 0, AtMost(32.0)),
        (Bulk, "Gbit/s, 8 streams up", "up8.gbit", 1, RatioAtLeast(1.7)),
        (Bulk, "Gbit/s, 8 streams down", "down8.gbit", 1, RatioAtLeast(1.7)),
        (Bulk, "Gbit/s, 1 stream up", "up1.gbit", 1, RatioAtLeast(1.5)),
        (Bulk, "Gbit/s, 1 stream down", "down1.gbit", 1, RatioAtLeast(1.5)),
        (Many, "Gbit/s, 64 streams up", "up64.gbit", 1, Free),
        (Many, "Gbit/s, 64 streams down", "down64.gbit", 1, Free),
        (Many, "Gbit/s, 256 streams up", "up256.gbit", 1, Free),
        (Many, "Gbit/s, 256 streams down", "down256.gbit", 1, Free),
        (Ping, "round trip of 64 bytes, 1 stream, p50 ms", "ping1.p50", 2, RatioAtMost(1.0)),
        (Ping, "the same, p99 ms", "ping1.p99", 2, RatioAtMost(1.0)),
        (Ping, "round trip of 64 bytes, 64 streams, p50 ms", "ping64.p50", 2, RatioAtMost(1.0)),
        (Ping, "the same, p99 ms", "ping64.p99", 2, RatioAtMost(1.0)),
        (Beside, "the same beside 7 bulk streams, p50 ms", "beside.p50", 2, Free),
        (Beside, "the same, p99 ms", "beside.p99", 2, AtMost(5.0)),
        (Beside, "Gbit/s of those 7 up", "beside.up", 1, Free),
        (Beside, "Gbit/s of those 7 down", "beside.down", 1, Free),
        (Opens, "new streams a second", "opens.rate", 0, AtLeast(5500.0)),
        (Opens, "server CPU µs for each", "opens.cpu", 0, AtMost(65.0)),
    ]
};

/// All that was measured, as Markdown.
pub(crate) fn markdown(samples: &Samples, plan: &Plan) -> String {
    let mut page = tunnels(samples, plan);
    page += &gateway(samples, plan);
    let foreign = samples.largest("tunnel.foreign").unwrap_or_default() * 100.0;
    // Writing into a String does not fail.
    let _ = writeln!(
        page,
        "{} rounds of {:.1} s. Programs outside the benchmark, also on other virtual machines, took at \
         most {foreign:.0} % of the machine under load.",
        plan.rounds,
        plan.length.measured.as_secs_f64()
    );
    page
}

fn tunnels(samples: &Samples, plan: &Plan) -> String {
    let name = |peer: Peer, figure: &str| format!("tunnel.{}.{figure}", peer.name());
    let mut rows = Vec::new();
    for &(section, words, figure, digits, bar) in LINES {
        if !plan.has(section) {
            continue;
        }
        let ours = name(Peer::Httvps, figure);
        let theirs = name(Peer::Haproxy, figure);
        let mut row = vec![words.to_owned()];
        row.push(samples.cell(&format!("tunnel.direct.{figure}"), digits));
        for peer in Peer::ALL {
            row.push(samples.cell(&name(peer, figure), digits));
        }
        row.push(samples.ratio_cell(&ours, &theirs));
        row.push(bar.words());
        row.push(verdict(bar.is_met(samples.median(&ours), samples.ratio(&ours, &theirs))));
        rows.push(row);
    }
    if rows.is_empty() {
        return String::new();
    }
    let head = ["", "no tunnel", "HAProxy", "penguin", "httvps", "httvps ÷ HAProxy", "bar", "met"];
    let words = "Client, server, target and load generator on this machine. HAProxy: a pair of its \
                 relays with TLS 1.3 in between, one connection for each stream. Streams are opened \
                 through SOCKS5 by httvps, through a forwarded port elsewhere. Median \
                 (least–largest); the ratio is the median of the rounds' ratios.";
    table(words, &head, &rows)
}

fn gateway(samples: &Samples, plan: &Plan) -> String {
    let mut rows = Vec::new();
    let mut line = |section, words: String, figure: String, digits, bar: Bar| {
        if plan.has(section) {
            let figure = format!("tunnel.httvps.{figure}");
            let met = bar.is_met(samples.median(&figure), None);
            rows.push(vec![words, samples.cell(&figure, digits), bar.words(), verdict(met)]);
        }
    };
    let words = "full handshake with the backend's verdict, server CPU µs".to_owned();
    line(Section::Handshake, words, "handshake".to_owned(), 0, Bar::AtMost(220.0));
    let words = "of HAProxy: TLS handshake and one byte to an echo and back, CPU µs".to_owned();
    line(Section::Handshake, words, "handshake.haproxy".to_owned(), 0, Bar::Free);
    for (payload, bar) in [(64, 1.6), (16, 1.8), (1, 5.0)] {
        let words = format!("JSON echo, {payload} KiB, server CPU s/GiB");
        line(Section::Json, words, format!("json{payload}"), 2, Bar::AtMost(bar));
    }
    let words = format!("KiB for each of {} idle sessions, after 1 MiB each", plan.sessions);
    line(Section::Sessions, words, "session".to_owned(), 1, Bar::AtMost(8.0));
    let words = format!(
        "KiB for each idle stream to a target, {} on each of {} sessions",
        plan.streams_each, plan.stream_sessions
    );
    line(Section::Streams, words, "stream".to_owned(), 2, Bar::AtMost(1.5));
    for way in ["up", "down"] {
        let line_rate = plan.line_mbit;
        let words = format!("100 ms round trip, {line_rate} Mbit/s: one stream {way}, Gbit/s");
        line(Section::Delay, words, format!("delay.{way}"), 3, Bar::Free);
        let words = format!("plain TLS on the same line, {way}, Gbit/s");
        line(Section::Delay, words, format!("delay.{way}.plain"), 3, Bar::Free);
        let words = format!("share of plain TLS, {way}");
        line(Section::Delay, words, format!("delay.{way}.share"), 2, Bar::AtLeast(0.9));
    }
    if rows.is_empty() {
        return String::new();
    }
    table("The gateway.", &["", "httvps", "bar", "met"], &rows)
}

fn verdict(is_met: Option<bool>) -> String {
    is_met.map_or("–", |is_met| if is_met { "yes" } else { "**no**" }).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_at_itself_and_open_without_a_figure() {
        assert_eq!(Bar::AtMost(2.0).is_met(Some(2.0), None), Some(true));
        assert_eq!(Bar::AtMost(2.0).is_met(Some(2.1), None), Some(false));
        assert_eq!(Bar::AtLeast(2.0).is_met(Some(1.9), None), Some(false));
        assert_eq!(Bar::RatioAtMost(0.5).is_met(Some(9.0), Some(0.5)), Some(true));
        assert_eq!(Bar::RatioAtLeast(1.5).is_met(Some(9.0), Some(1.4)), Some(false));
        assert_eq!(Bar::RatioAtLeast(1.5).is_met(Some(9.0), None), None);
        assert_eq!(Bar::Free.is_met(Some(1.0), Some(1.0)), None);
    }
}
