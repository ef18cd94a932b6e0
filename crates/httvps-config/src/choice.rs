//! Settings that are one of a few words.

use super::kind::Kind;
use httvps_telemetry::log::{LogFormat, LogLevel};
use std::fmt;

/// What `upstream_mode` may be: where the streams of this gateway go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamMode {
    /// Every byte comes back; the founding name of [`UpstreamMode::Echo`].
    Fake,
    /// Every byte comes back.
    Echo,
    /// Every byte is dropped.
    Blackhole,
    /// TCP and UDP to the target that the client names.
    Direct,
    /// Through the Outline node that the session was given.
    Outline,
    /// Through a node of the pool; the backend is not asked for one.
    Proxy,
}

impl fmt::Display for UpstreamMode {
    /// The word that the setting has for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Choice::show(self))
    }
}

impl UpstreamMode {
    /// Whether sessions leave through nodes.
    pub fn uses_nodes(self) -> bool {
        matches!(self, Self::Outline | Self::Proxy)
    }
}

/// What `outline_assign` may be: who gives a session its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutlineAssign {
    /// The backend.
    Backend,
    /// The pool of `outline_nodes_path`.
    Pool,
    /// The backend; the pool when it has no answer.
    BackendThenPool,
}

impl OutlineAssign {
    /// Whether the backend is asked.
    pub fn asks_backend(self) -> bool {
        self != Self::Pool
    }

    /// Whether the pool is used.
    pub fn uses_pool(self) -> bool {
        self != Self::Backend
    }
}

/// One of a few words, in any case.
pub(super) struct Choice;

macro_rules! choice {
    ($type:ty, $accepted:literal, $placeholder:literal: $($word:literal => $value:path,)+) => {
        impl Kind<$type> for Choice {
            const ACCEPTED: &'static str = $accepted;
            const PLACEHOLDER: &'static str = $placeholder;

            fn parse(text: &str) -> Result<$type, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok($value),)+
                    _ => Err("is none of the words".to_owned()),
                }
            }

            fn show(value: &$type) -> String {
                match value { $($value => $word,)+ }.to_owned()
            }
        }
    };
}

choice! { UpstreamMode, "fake, echo, blackhole, direct, outline or proxy", "MODE":
    "fake" => UpstreamMode::Fake,
    "echo" => UpstreamMode::Echo,
    "blackhole" => UpstreamMode::Blackhole,
    "direct" => UpstreamMode::Direct,
    "outline" => UpstreamMode::Outline,
    "proxy" => UpstreamMode::Proxy,
}

choice! { OutlineAssign, "backend, pool or backend_then_pool", "WHO":
    "backend" => OutlineAssign::Backend,
    "pool" => OutlineAssign::Pool,
    "backend_then_pool" => OutlineAssign::BackendThenPool,
}

choice! { LogLevel, "debug, info, warn or error", "LEVEL":
    "debug" => LogLevel::Debug,
    "info" => LogLevel::Info,
    "warn" => LogLevel::Warn,
    "error" => LogLevel::Error,
}

choice! { LogFormat, "json or text", "FORMAT":
    "json" => LogFormat::Json,
    "text" => LogFormat::Text,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_any_case() {
        assert_eq!(Choice::parse("DIRECT"), Ok(UpstreamMode::Direct));
        assert_eq!(Choice::parse("Warn"), Ok(LogLevel::Warn));
        assert_eq!(Choice::parse("Text"), Ok(LogFormat::Text));
        assert!(<Choice as Kind<LogLevel>>::parse("warning").is_err());
    }
}
