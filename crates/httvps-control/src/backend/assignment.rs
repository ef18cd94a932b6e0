//! Parsing responses to `assign-outline`.

use super::error::{BackendError, parse};
use httvps_config::Secret;
use serde::Deserialize;

/// The assignment of a node to a session.
#[derive(Debug)]
pub enum AssignOutlineResult {
    /// The session uses this node.
    Node(OutlineNode),
    /// The backend has no node.
    NoneAvailable,
}

/// A node that the backend assigned.
#[derive(Debug)]
pub struct OutlineNode {
    /// Its name: the backend's `node_id`, which may be a number there. At most
    /// [`OutlineNode::MAX_ID`] characters of a label: letters, digits, `.`, `_`, `-` and `:`.
    pub node_id: String,
    /// Its region.
    pub region: Option<String>,
    /// How to reach it.
    pub key: OutlineKey,
}

/// How to reach a node.
#[derive(Debug)]
pub enum OutlineKey {
    /// A complete key: `ss://…`, `ssconf://…` or `https://…`.
    Url(Secret),
    /// The parts of a key.
    Parts {
        /// Host name or address.
        host: String,
        /// Port, not 0.
        port: u16,
        /// The cipher as the backend wrote it; none = Outline's own, `chacha20-ietf-poly1305`.
        method: Option<String>,
        /// The password.
        password: Secret,
    },
}

impl OutlineNode {
    /// Longest name, in bytes.
    pub const MAX_ID: usize = 64;

    /// Whether a text can be the name of a node: names appear in logs and metrics.
    pub fn is_id(text: &str) -> bool {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"._-:".contains(&c);
        (1..=Self::MAX_ID).contains(&text.len()) && text.bytes().all(is_plain)
    }
}

#[derive(Deserialize)]
struct Body {
    node_id: Option<NodeId>,
    host: Option<String>,
    port: Option<u16>,
    method: Option<String>,
    password: Option<Secret>,
    region: Option<String>,
    access_url: Option<Secret>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum NodeId {
    Number(i64),
    Text(String),
}

#[derive(Deserialize)]
struct Refusal {
    detail: String,
}

const TYPES: &str = "a member has another type than the API says: node_id is a number or text, port a number \
                     up to 65535, the others are text";

/// The `detail` that means that there is no node.
const NONE_AVAILABLE: &str = "no_outline_nodes_available";
/// Longest region that is kept, in bytes.
const MAX_REGION: usize = 128;

/// Parses a response. Anything but a complete node or that `detail` is an error.
pub(super) fn read(status: u16, body: &[u8]) -> Result<AssignOutlineResult, BackendError> {
    let body = httvps_text::without_mark(body);
    match status {
        200 => {
            let node = parse::<Body>(body, TYPES).and_then(Body::into_node);
            let node = node.map_err(|problem| BackendError::BadBody { status, problem })?;
            Ok(AssignOutlineResult::Node(node))
        }
        503 => match serde_json::from_slice::<Refusal>(body) {
            Ok(refusal) if refusal.detail == NONE_AVAILABLE => {
                Ok(AssignOutlineResult::NoneAvailable)
            }
            _ => Err(BackendError::Status(status)),
        },
        other => Err(BackendError::Status(other)),
    }
}

impl Body {
    fn into_node(self) -> Result<OutlineNode, &'static str> {
        let node_id = match self.node_id.ok_or("node_id is missing")? {
            NodeId::Number(number) => number.to_string(),
            NodeId::Text(text) => text,
        };
        if !OutlineNode::is_id(&node_id) {
            return Err("node_id is not 1 to 64 letters, digits or one of ._-:");
        }
        let is_given = |secret: &Secret| !secret.expose().is_empty();
        let key = match self.access_url.filter(is_given) {
            Some(url) => OutlineKey::Url(url),
            None => OutlineKey::Parts {
                host: self
                    .host
                    .filter(|host| (1..=255).contains(&host.len()))
                    .ok_or("host is missing, empty or longer than 255 bytes")?,
                port: self.port.filter(|port| *port != 0).ok_or("port is missing or 0")?,
                method: self.method.filter(|method| !method.is_empty()),
                password: self
                    .password
                    .filter(is_given)
                    .ok_or("access_url and password are missing or empty")?,
            },
        };
        let region = self.region.filter(|region| (1..=MAX_REGION).contains(&region.len()));
        Ok(OutlineNode { node_id, region, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(body: &str) -> OutlineNode {
        match read(200, body.as_bytes()) {
            Ok(AssignOutlineResult::Node(node)) => node,
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn the_founding_answers_are_read() {
        let parts = node(
            r#"{"node_id":"n1","host":"h","port":1,"method":"aes-256-gcm","password":"p4ss",
                "region":"eu","access_key_id":"3","access_url":null}"#,
        );
        assert_eq!((parts.node_id.as_str(), parts.region.as_deref()), ("n1", Some("eu")));
        let OutlineKey::Parts { host, port, method, password } = &parts.key else { panic!() };
        assert_eq!((host.as_str(), *port, method.as_deref()), ("h", 1, Some("aes-256-gcm")));
        assert_eq!(password.expose(), "p4ss");
        assert!(!format!("{parts:?}").contains("p4ss"));

        let bare = node(r#"{"node_id":7,"host":"h","port":1,"password":"p"}"#);
        assert_eq!((bare.node_id.as_str(), bare.region), ("7", None));
        assert!(matches!(bare.key, OutlineKey::Parts { method: None, .. }));

        let none = read(503, br#"{"detail":"no_outline_nodes_available"}"#);
        assert!(matches!(none, Ok(AssignOutlineResult::NoneAvailable)));
    }

    #[test]
    fn a_byte_order_mark_before_an_answer_does_not_matter() {
        let marked = |text: &str| format!("\u{feff}{text}");
        let bare = node(&marked(r#"{"node_id":7,"host":"h","port":1,"password":"p"}"#));
        assert_eq!(bare.node_id, "7");
        let none = read(503, marked(r#"{"detail":"no_outline_nodes_available"}"#).as_bytes());
        assert!(matches!(none, Ok(AssignOutlineResult::NoneAvailable)));
    }

    #[test]
    fn the_access_url_wins_over_the_parts() {
        let both = node(
            r#"{"node_id":"n","host":"h","port":1,"method":"m","password":"p","access_url":"ss://x"}"#,
        );
        assert!(matches!(&both.key, OutlineKey::Url(url) if url.expose() == "ss://x"));
        let alone = node(r#"{"node_id":"n","host":null,"port":null,"access_url":"ss://x"}"#);
        assert!(matches!(alone.key, OutlineKey::Url(_)));
        let empty = node(r#"{"node_id":"n","host":"h","port":1,"password":"p","access_url":""}"#);
        assert!(matches!(empty.key, OutlineKey::Parts { .. }));
    }

    #[test]
    fn whatever_is_not_clear_is_an_error() {
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, "[]"),
            (200, r#"{"node_id":"n"}"#),
            (200, r#"{"node_id":null,"host":"h","port":1,"password":"p"}"#),
            (200, r#"{"node_id":"","host":"h","port":1,"password":"p"}"#),
            (200, r#"{"node_id":"a b","host":"h","port":1,"password":"p"}"#),
            (200, r#"{"node_id":"n","host":"","port":1,"password":"p"}"#),
            (200, r#"{"node_id":"n","host":"h","port":0,"password":"p"}"#),
            (200, r#"{"node_id":"n","host":"h","port":65536,"password":"p"}"#),
            (200, r#"{"node_id":"n","host":"h","port":"1","password":"p"}"#),
            (200, r#"{"node_id":"n","host":"h","port":1,"password":null}"#),
            (200, r#"{"node_id":"n","host":"h","port":1,"password":""}"#),
            (200, r#"{"node_id":"n","host":"h","port":1,"password":"p","access_url":5}"#),
            (200, r#"{"detail":"no_outline_nodes_available"}"#),
            (403, r#"{"detail":"no_outline_nodes_available"}"#),
            (503, r#"{"detail":"maintenance"}"#),
            (503, r#"{"detail":{"x":1}}"#),
            (503, ""),
        ] {
            assert!(read(status, body.as_bytes()).is_err(), "{status} {body}");
        }
    }
}
