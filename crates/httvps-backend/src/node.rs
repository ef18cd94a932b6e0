//! One Outline node of the file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An Outline (Shadowsocks) node that devices may be sent to.
///
/// The file keeps its password or key as it is: the gateway needs it. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The name of the node; unique in the file. Gateways use it as a label of metrics.
    pub node_id: NodeId,
    /// The region that devices ask for, compared without regard to case; `None` = any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Host name or address.
    pub host: String,
    /// Port, not 0.
    pub port: u16,
    /// The cipher; `None` leaves it to the gateway or to the access URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The password; needed where there is no access URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The number of the key at the node's own management.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_id: Option<String>,
    /// The whole key (`ss://…`, `ssconf://…`); gateways prefer it to the other fields.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_url: Option<String>,
    /// Whether devices are sent there.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_yes(value: &bool) -> bool {
    *value
}

impl Node {
    /// What is wrong with the fields taken together, as a phrase after the node's name.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let is_blank = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        if self.host.is_empty() || self.host.len() > 255 {
            return Some("has no host of 1 to 255 characters");
        }
        if self.port == 0 {
            return Some("has the port 0");
        }
        if is_blank(&self.password) && is_blank(&self.access_url) {
            return Some("has neither a password nor an access_url");
        }
        None
    }

    /// Whether the node stands in the region.
    pub(crate) fn is_in(&self, region: &str) -> bool {
        self.region.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(region))
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("node_id", &self.node_id)
            .field("region", &self.region)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

/// The name of a node: 1 to 64 characters of letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// Longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let is_sound = (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(is_plain);
        if is_sound { Ok(Self(text.to_owned())) } else { Err(InvalidNodeId) }
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The text is not a [`NodeId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidNodeId;

impl fmt::Display for InvalidNodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a node id is 1 to 64 characters of letters, digits, '.', '_' and '-'")
    }
}

impl std::error::Error for InvalidNodeId {}

/// The nodes of one reading of the file, with distinct ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nodes(Vec<Node>);

impl Nodes {
    /// Takes the nodes in the order of the file; the error names what is wrong.
    pub(crate) fn new(list: Vec<Node>) -> Result<Self, String> {
        for (index, node) in list.iter().enumerate() {
            if let Some(problem) = node.problem() {
                return Err(format!("the node {} {problem}", node.node_id));
            }
            if list[..index].iter().any(|other| other.node_id == node.node_id) {
                return Err(format!("there are two nodes with the node_id {}", node.node_id));
            }
        }
        Ok(Self(list))
    }

    pub(crate) fn list(&self) -> &[Node] {
        &self.0
    }

    pub(crate) fn into_list(self) -> Vec<Node> {
        self.0
    }

    /// The node of the `turn`-th assignment: those of the region in turn, or all of them where the
    /// region is not given or has none. A gateway that asks again gets the next one.
    pub(crate) fn assign(&self, region: Option<&str>, turn: usize) -> Option<&Node> {
        let enabled = || self.0.iter().filter(|node| node.enabled);
        let pick = |nodes: Vec<&'_ Node>| {
            (!nodes.is_empty()).then(|| nodes[turn % nodes.len()].node_id.clone())
        };
        let near = region.and_then(|region| pick(enabled().filter(|n| n.is_in(region)).collect()));
        let id = near.or_else(|| pick(enabled().collect()))?;
        self.0.iter().find(|node| node.node_id == id)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn node(id: &str, region: Option<&str>) -> Node {
        Node {
            node_id: id.parse().unwrap(),
            region: region.map(str::to_owned),
            host: "192.0.2.1".to_owned(),
            port: 8388,
            method: None,
            password: Some("hunter2".to_owned()),
            access_key_id: None,
            access_url: None,
            enabled: true,
        }
    }

    fn turns(nodes: &Nodes, region: Option<&str>) -> Vec<String> {
        let one = |turn| nodes.assign(region, turn).map(|node| node.node_id.to_string());
        (0..3).filter_map(one).collect()
    }

    #[test]
    fn nodes_of_the_region_take_turns_and_others_stand_in() {
        let mut off = node("off", Some("eu"));
        off.enabled = false;
        let list = vec![node("a", Some("eu")), off, node("b", Some("EU")), node("c", None)];
        let nodes = Nodes::new(list).unwrap();
        assert_eq!(turns(&nodes, Some("eu")), ["a", "b", "a"]);
        assert_eq!(turns(&nodes, None), ["a", "b", "c"]);
        assert_eq!(turns(&nodes, Some("mars")), ["a", "b", "c"]);
        assert_eq!(Nodes::default().assign(None, 0), None);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_nothing_secret_shows() {
        let with = |change: fn(&mut Node)| {
            let mut node = node("a", None);
            change(&mut node);
            Nodes::new(vec![node]).unwrap_err()
        };
        assert!(with(|n| n.password = None).contains("neither a password nor an access_url"));
        assert!(with(|n| n.port = 0).contains("port 0"));
        assert!(with(|n| n.host = String::new()).contains("no host"));
        let twice = Nodes::new(vec![node("a", None), node("a", None)]).unwrap_err();
        assert!(twice.contains("two nodes with the node_id a"));
        assert!(!format!("{:?}", node("a", None)).contains("hunter2"));
        for bad in ["", "two words", "a/b", "\n", &"a".repeat(65)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
    }
}
