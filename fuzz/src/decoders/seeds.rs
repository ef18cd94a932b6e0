//! Inputs to start from: `testdata/`.

use serde_json::Value;
use std::path::{Path, PathBuf};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata")
}

/// The files of a folder of the corpus whose names begin so, in the order of their names.
pub(super) fn corpus(folder: &str, prefix: &str) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(testdata().join("corpus").join(folder)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// The messages of the vectors of the second wire format, and whether a client sent them.
pub(super) fn v2_messages() -> Vec<(bool, Vec<u8>)> {
    let text = std::fs::read_to_string(testdata().join("vectors/v2.json")).unwrap_or_default();
    let vectors: Value = serde_json::from_str(&text).unwrap_or_default();
    let messages = vectors["messages"].as_array().cloned().unwrap_or_default();
    messages
        .iter()
        .map(|message| (message["from"] == "client", octets(&message["hex"])))
        .filter(|(_, bytes)| bytes.len() < 2048)
        .collect()
}

fn octets(parts: &Value) -> Vec<u8> {
    match parts {
        Value::String(hex) => bytes(hex),
        Value::Array(parts) => parts.iter().flat_map(octets).collect(),
        part => {
            let times = part["repeat"][1].as_u64().unwrap_or_default() as usize;
            bytes(part["repeat"][0].as_str().unwrap_or_default()).repeat(times)
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Each with a first byte in front, as decoders take it that read choices from there.
pub(super) fn led_by(seeds: &[&[u8]], firsts: &[u8]) -> Vec<Vec<u8>> {
    firsts.iter().flat_map(|first| seeds.iter().map(|seed| [&[*first], *seed].concat())).collect()
}
