//! The device's name, its token and the proxy's password, and what is likely to be wrong with them.

use super::{ConnectArgs, Level, Voice};
use crate::secrets;
use httvps_client::Secret;
use httvps_client::proxy::Credentials;
use std::path::Path;

/// The environment variable with the token itself. There is no flag: other users of the machine
/// can see flags.
const TOKEN_VARIABLE: &str = "HTTVPS_TOKEN";

/// The device's name. What a file of variables easily adds to it is refused, or at least told, since
/// the backend only says that it does not know the device.
pub(super) fn device_id(args: &ConnectArgs, voice: &Voice) -> Result<String, String> {
    let id = &args.device_id;
    if id.is_empty() {
        return Err("--device-id is empty".into());
    }
    if let Some(control) = id.chars().find(char::is_ascii_control) {
        let cause =
            if control == '\r' { "; files with Windows line ends leave it behind" } else { "" };
        let control = control.escape_default();
        return Err(format!("--device-id holds the control character {control}{cause}; remove it"));
    }
    if let Some(words) = oddity(id) {
        let id = id.escape_debug();
        voice.say(Level::Warn, &format_args!("warning: the device id {words}: {id}"));
    }
    Ok(id.clone())
}

/// What is hardly meant so.
fn oddity(text: &str) -> Option<&'static str> {
    let is_in = |quote| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
    if is_in('"') || is_in('\'') {
        Some("stands in quotes, which are sent as a part of it; docker --env-file keeps them")
    } else if text.trim() != text {
        Some("begins or ends with a space, which is sent as a part of it")
    } else {
        None
    }
}

pub(super) fn token(args: &ConnectArgs, voice: &Voice) -> Result<Secret, String> {
    #[expect(clippy::disallowed_methods, reason = "this module reads the client's settings")]
    let variable = || std::env::var(TOKEN_VARIABLE).ok().map(Secret::new);
    let token = match &args.token_file {
        Some(file) => {
            let token = secrets::read(file)?;
            if is_readable_by_all(file) {
                voice.say(
                    Level::Warn,
                    &format_args!(
                        "warning: every user of this machine can read {0}; run: chmod 600 {0}",
                        file.display()
                    ),
                );
            }
            Some(token)
        }
        None => variable(),
    };
    let token = token.as_ref().map(secrets::trimmed);
    if let Some(token) = &token {
        if token.expose().contains('\n') {
            return Err("the token has more than one line; its file holds the token alone".into());
        }
        if token.expose().contains(|character: char| character.is_ascii_control()) {
            return Err(
                "the token holds a control character; take it as the operator gave it".into()
            );
        }
        if let Some(words) = oddity(token.expose()) {
            voice.say(Level::Warn, &format_args!("warning: the token {words}"));
        }
    }
    match token {
        Some(token) if !token.expose().is_empty() => Ok(token),
        Some(_) => Err("the token is empty".into()),
        None => Err(format!("no token; give its file with --token-file, or set {TOKEN_VARIABLE}")),
    }
}

pub(super) fn credentials(args: &ConnectArgs) -> Result<Option<Credentials>, String> {
    let (Some(user), Some(file)) = (&args.proxy_user, &args.proxy_password_file) else {
        return Ok(None);
    };
    let password = secrets::read(file)?;
    let password = Secret::new(password.expose().trim_end_matches(['\r', '\n']).to_owned());
    let is_carried = |text: &str| (1..=255).contains(&text.len());
    if !is_carried(user) || !is_carried(password.expose()) || user.contains(':') {
        return Err("the proxy's user name and password have 1 to 255 bytes each, and the user \
                    name no ':'"
            .into());
    }
    Ok(Some(Credentials::new(Secret::new(user.clone()), password)))
}

fn is_readable_by_all(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn arguments(id: &str, token: &str) -> (tempfile::TempDir, ConnectArgs) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, token).unwrap();
        let command = <ConnectArgs as clap::Args>::augment_args(clap::Command::new("connect"));
        let file = file.display().to_string();
        let line =
            ["connect", "--gateway", "wss://g.example", "--device-id", id, "--token-file", &file];
        let matches = command.try_get_matches_from(line).unwrap();
        (folder, ConnectArgs::from_arg_matches(&matches).unwrap())
    }

    #[test]
    fn a_device_id_or_token_that_is_hardly_meant_so_is_named_and_the_token_not_shown() {
        let refused = |id: &str, token: &str| {
            let (_folder, args) = arguments(id, token);
            let voice = Voice::new(&args);
            let words = device_id(&args, &voice).and_then(|_| super::token(&args, &voice));
            words.map(|_| ()).unwrap_err()
        };
        for (id, token, part) in [
            ("", "t", "--device-id is empty"),
            ("dev-1\r", "t", r"character \r; files with Windows line ends"),
            ("dev\u{0}1", "t", r"character \u{0}"),
            ("dev-1", "hunter2\nhunter2", "more than one line"),
            ("dev-1", "hunter2\u{7}hunter2", "control character"),
            ("dev-1", " \r\n", "token is empty"),
        ] {
            let words = refused(id, token);
            assert!(words.contains(part) && !words.contains("hunter2"), "{words}");
        }
        let (_folder, args) = arguments("dev-1", "\u{feff}hunter2\r\n");
        let voice = Voice::new(&args);
        assert_eq!(device_id(&args, &voice).unwrap(), "dev-1");
        assert_eq!(
            super::token(&args, &voice).map(|token| token.expose().to_owned()).unwrap(),
            "hunter2"
        );
    }

    #[test]
    fn quotes_and_spaces_around_a_value_are_told() {
        for (text, part) in
            [("\"a\"", "quotes"), ("'a'", "quotes"), ("a ", "space"), (" a", "space")]
        {
            assert!(oddity(text).unwrap().contains(part), "{text}");
        }
        for text in ["a", "a b", "\"a", "'", "\"a'"] {
            assert_eq!(oddity(text), None, "{text}");
        }
    }
}
