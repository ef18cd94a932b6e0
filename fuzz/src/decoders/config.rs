//! Settings: a YAML file, and the environment.

use super::{behaviour, choice, seeds};
use crate::run::Decoder;
use httvps_config::{Config, SETTINGS, Sources, fuzzing};

/// The first byte chooses: the rest is the text of a YAML file, or lines NAME=VALUE. Values that are
/// taken can be shown, and what is shown of a secret is not the secret.
pub(super) struct Settings {
    required: Sources,
}

impl Default for Settings {
    fn default() -> Self {
        let required = Sources::default()
            .with_env("GATEWAY_TLS_CERT_PATH", "/c.pem")
            .with_env("GATEWAY_TLS_KEY_PATH", "/k.pem")
            .with_env("BACKEND_BASE_URL", "http://backend:8000");
        Self { required }
    }
}

impl Decoder for Settings {
    fn seeds(&self) -> Vec<Vec<u8>> {
        let led = |prefix, first: u8| {
            seeds::corpus("config", prefix)
                .into_iter()
                .map(move |seed| [vec![first], seed].concat())
        };
        let mut all: Vec<Vec<u8>> = led("yaml-", 0).chain(led("env-", 1)).collect();
        // Each setting once by each way, with a value that its neighbours may not take.
        for setting in SETTINGS {
            let value = setting.default.unwrap_or("x");
            all.push(format!("\0{}: {value}\n", setting.key).into_bytes());
            all.push(format!("\x01{}={value}\n", setting.env).into_bytes());
        }
        all
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b": ",
            b"\n",
            b"- ",
            b"  ",
            b"[",
            b"]",
            b"{",
            b"}",
            b"'",
            b"\"",
            b"|\n",
            b">\n",
            b"&a ",
            b"*a",
            b"!!binary ",
            b"!!str ",
            b"<<: ",
            b"---\n",
            b"...\n",
            b"#",
            b"? ",
            b"null",
            b"~",
            b"true",
            b"0x10",
            b"1e3",
            b"5s",
            b"1h",
            b"16KiB",
            b"10.0.0.0/8",
            b"::/0",
            b"https://a.test",
            b"\t",
            b"\xef\xbb\xbf",
            b"\0",
            b"\xc2\x85",
            b"GATEWAY_",
            b"max_streams: 8\n",
            b"listen_addr: ",
            b"backend_secret: x\n",
            b"GATEWAY_MAX_STREAMS=",
        ]
    }

    fn longest(&self) -> usize {
        400
    }

    fn run(&mut self, input: &[u8]) -> u64 {
        let (first, rest) = choice(input);
        let Ok(text) = std::str::from_utf8(rest) else { return 0 };
        let (loaded, warnings) = if first & 1 == 0 {
            (fuzzing::load(&self.required, text), 0)
        } else {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            // A real environment could name a file, which is not ours to open here.
            let pairs = pairs.filter(|(name, _)| *name != "GATEWAY_CONFIG_PATH");
            let sources =
                pairs.fold(self.required.clone(), |all, (name, value)| all.with_env(name, value));
            match Config::load(&sources) {
                Ok((config, warnings)) => (Ok(config), warnings.len()),
                Err(error) => (Err(error), 0),
            }
        };
        match loaded {
            Ok(config) => {
                let shown = config.resolved_text();
                assert!(
                    shown.lines().count() == SETTINGS.len(),
                    "a value brought a line of its own"
                );
                behaviour((first & 1, warnings, shown.len()))
            }
            Err(error) => {
                let words = error.to_string();
                let (first_line, second) = words.split_once('\n').unwrap_or((&words, ""));
                let is_line = |line: &str| !line.contains(char::is_control);
                assert!(is_line(first_line) && is_line(second), "more than two lines: {words:?}");
                assert!(words.len() < 2048, "{} bytes of error", words.len());
                // The first words name the setting; the rest may quote the value.
                behaviour((first & 1, words.split_whitespace().take(3).collect::<Vec<_>>()))
            }
        }
    }
}
