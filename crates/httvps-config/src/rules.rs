//! Rules between settings.

use super::error::ConfigError;
use super::{Config, OutlineAssign, SETTINGS, Source, UpstreamMode};

/// Room in a message for what stands around the token and the device id of a `hello`.
const HELLO_ROOM: usize = 512;

impl Config {
    /// Lets defaults give way to what was set: an operator who sets one of two settings that belong
    /// together need not set the other. Only two that were both set can clash.
    pub(super) fn settle(&mut self) {
        if self.is_default("max_message_bytes_before_auth") {
            self.max_message_bytes_before_auth =
                self.max_message_bytes_before_auth.min(self.max_message_bytes);
        } else if self.is_default("max_message_bytes") {
            self.max_message_bytes = self.max_message_bytes.max(self.max_message_bytes_before_auth);
        }
        if self.is_default("max_token_bytes") {
            let room = self.max_message_bytes_before_auth.saturating_sub(self.max_device_id_bytes);
            self.max_token_bytes = self.max_token_bytes.min(room.saturating_sub(HELLO_ROOM));
        } else if self.is_default("max_message_bytes_before_auth") {
            let hello = self.max_token_bytes + self.max_device_id_bytes + HELLO_ROOM;
            self.max_message_bytes_before_auth = self.max_message_bytes_before_auth.max(hello);
        }
        if self.is_default("max_stream_queue_bytes") {
            self.max_stream_queue_bytes =
                self.max_stream_queue_bytes.min(self.max_session_queue_bytes);
        } else if self.is_default("max_session_queue_bytes") {
            self.max_session_queue_bytes =
                self.max_session_queue_bytes.max(self.max_stream_queue_bytes);
        }
        if self.is_default("drain_spread") {
            self.drain_spread = self.drain_spread.min(self.drain_timeout);
        } else if self.is_default("drain_timeout") {
            self.drain_timeout = self.drain_timeout.max(self.drain_spread);
        }
        self.let_a_device_do_what_a_session_may();
    }

    /// Limits of a device that were not set are no lower than those of one session. One that was set holds as it is.
    fn let_a_device_do_what_a_session_may(&mut self) {
        let streams = self.max_streams_per_session;
        let (rate, burst) = (self.max_stream_opens_per_second, self.max_stream_open_burst);
        if self.is_default("max_streams_per_device") {
            self.max_streams_per_device = self.max_streams_per_device.max(streams);
        }
        if self.is_default("max_descriptors_per_device") {
            let needed = streams.saturating_add(1);
            self.max_descriptors_per_device = self.max_descriptors_per_device.max(needed);
        }
        if self.is_default("max_device_opens_per_second") {
            let own = self.max_device_opens_per_second;
            self.max_device_opens_per_second = if rate == 0 { 0 } else { own.max(rate) };
        }
        if self.is_default("max_device_open_burst") {
            self.max_device_open_burst = self.max_device_open_burst.max(burst);
        }
    }

    fn is_default(&self, key: &str) -> bool {
        self.sources[index_of(key)] == Source::Default
    }

    /// Checks the rules between settings; the first one broken is the error.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let hello = self.max_token_bytes + self.max_device_id_bytes;
        if hello >= self.max_message_bytes_before_auth {
            return Err(self.clash(
                "max_message_bytes_before_auth",
                "does not hold a hello with the longest token and device id",
                &["max_token_bytes", "max_device_id_bytes"],
                "more than both together",
            ));
        }
        let lacks_pool = self.uses_pool() && self.outline_nodes_path.is_none();
        if lacks_pool && self.upstream_mode == UpstreamMode::Proxy {
            return Err(self.clash(
                "upstream_mode",
                "needs a pool and there is none",
                &["outline_nodes_path"],
                "the path of a file with nodes in outline_nodes_path",
            ));
        }
        if lacks_pool {
            return Err(self.clash(
                "outline_assign",
                "needs a pool and there is none",
                &["outline_nodes_path"],
                "the path of a file with nodes in outline_nodes_path, or outline_assign = backend",
            ));
        }
        let rules = [
            (
                self.max_message_bytes < self.max_message_bytes_before_auth,
                ["max_message_bytes", "max_message_bytes_before_auth"],
                "is below",
                "at least as much",
            ),
            (
                self.max_stream_queue_bytes > self.max_session_queue_bytes,
                ["max_stream_queue_bytes", "max_session_queue_bytes"],
                "is above",
                "at most as much",
            ),
            (
                self.drain_spread > self.drain_timeout,
                ["drain_spread", "drain_timeout"],
                "is above",
                "at most as long",
            ),
            (
                self.admin_addr.as_ref() == Some(&self.listen_addr) && self.listen_addr.port != 0,
                ["admin_addr", "listen_addr"],
                "is the same as",
                "another port, or none",
            ),
        ];
        match rules.into_iter().find(|(broken, ..)| *broken) {
            Some((_, [key, other], problem, accepted)) => {
                Err(self.clash(key, problem, &[other], accepted))
            }
            None => Ok(()),
        }
    }

    /// Who gives a session its node.
    pub fn assigner(&self) -> OutlineAssign {
        match self.upstream_mode {
            UpstreamMode::Proxy => OutlineAssign::Pool,
            _ => self.outline_assign,
        }
    }

    fn uses_pool(&self) -> bool {
        self.upstream_mode.uses_nodes() && self.assigner().uses_pool()
    }

    /// What is allowed and yet probably not meant, one line each.
    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let is_default = |key| self.sources[index_of(key)] == Source::Default;
        if self.backend_secret.as_ref().is_some_and(|secret| is_quoted(secret.expose())) {
            doubts.push(
                "backend_secret begins and ends with a quotation mark, which counts as part of it; an env file of docker or systemd may have kept it"
                    .to_owned(),
            );
        }
        if self.backend_timeout > self.handshake_timeout {
            doubts.push(format!(
                "backend_timeout ({}) is longer than handshake_timeout ({}), which ends the handshake first",
                self.shown("backend_timeout"),
                self.shown("handshake_timeout"),
            ));
        }
        if self.backend_ca_path.is_some() && !self.backend_base_url.is_https() {
            doubts.push("backend_ca_path has no effect: backend_base_url is not https".to_owned());
        }
        if self.outline_nodes_path.is_some() && !self.uses_pool() {
            doubts.push(
                "outline_nodes_path has no effect: it needs upstream_mode = proxy, or upstream_mode = outline and outline_assign = pool or backend_then_pool"
                    .to_owned(),
            );
        }
        let is_direct = self.upstream_mode == UpstreamMode::Direct;
        for (key, is_set) in [
            ("direct_source_address", !self.direct_source_address.is_empty()),
            ("direct_interface", self.direct_interface.is_some()),
        ] {
            if is_set && !is_direct {
                doubts.push(format!("{key} has no effect: it needs upstream_mode = direct"));
            }
        }
        let is_proxy = self.upstream_mode == UpstreamMode::Proxy;
        if is_proxy && !is_default("outline_assign") {
            doubts.push(
                "outline_assign has no effect: with upstream_mode = proxy the pool gives the nodes"
                    .to_owned(),
            );
        }
        if is_default("upstream_mode") {
            doubts.push(format!(
                "upstream_mode was not set and is {}, which sends every byte back and reaches no target; set GATEWAY_UPSTREAM_MODE, direct for a gateway that leads to the internet",
                self.upstream_mode
            ));
        }
        if self.admin_addr.is_none() {
            let metrics = if self.metrics_enabled {
                format!("{}, ", self.metrics_path)
            } else {
                String::new()
            };
            doubts.push(format!(
                "{metrics}/healthz and /readyz are served to everybody on listen_addr ({}), and tell that this is no ordinary web server; set GATEWAY_ADMIN_ADDR, such as 127.0.0.1:9090",
                self.listen_addr
            ));
        }
        doubts
    }

    /// An error about `key` and the other settings that it does not go with.
    fn clash(&self, key: &str, problem: &str, others: &[&str], accepted: &str) -> ConfigError {
        let others: Vec<_> =
            others.iter().map(|other| format!("{other} = {}", self.shown(other))).collect();
        let index = index_of(key);
        let place = match self.sources[index] {
            Source::Flag => format!("--{}", SETTINGS[index].flag().unwrap_or(key)),
            Source::Env => SETTINGS[index].env.to_owned(),
            Source::Yaml | Source::Default => key.to_owned(),
        };
        let problem = format!("{} {problem} ({})", self.shown(key), others.join(", "));
        ConfigError::new(&place, &problem, accepted)
    }

    fn shown(&self, key: &str) -> String {
        self.values().swap_remove(index_of(key))
    }
}

/// Whether quotation marks stand around a text, as env files have them for the shell.
fn is_quoted(text: &str) -> bool {
    let between = |mark: char| text.len() > 1 && text.starts_with(mark) && text.ends_with(mark);
    between('"') || between('\'')
}

fn index_of(key: &str) -> usize {
    SETTINGS.iter().position(|setting| setting.key == key).expect("the key stands in the table")
}
