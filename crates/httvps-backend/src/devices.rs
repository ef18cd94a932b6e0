//! All devices of one reading of the file, and the answer to "may this one in?".

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::SystemTime;

use crate::node::Nodes;
use crate::{Device, Node, TokenDigest};

/// An immutable set of devices with distinct ids and distinct tokens.
///
/// Lookups by id and by token digest use maps with a random hasher, so a file cannot make them
/// slow.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    list: Vec<Device>,
    /// The Outline nodes that stand in the same file.
    nodes: Nodes,
    by_id: HashMap<String, usize>,
    by_token: HashMap<TokenDigest, usize>,
}

impl Devices {
    /// Takes the devices in the order of the file; the error names the two that share an id or a
    /// token.
    pub(crate) fn new(list: Vec<Device>) -> Result<Self, String> {
        let mut by_id = HashMap::with_capacity(list.len());
        let mut by_token = HashMap::with_capacity(list.len());
        for (index, device) in list.iter().enumerate() {
            match by_id.entry(device.device_id.as_str().to_owned()) {
                Entry::Vacant(free) => free.insert(index),
                Entry::Occupied(first) => {
                    let first = first.get();
                    let id = &device.device_id;
                    return Err(format!(
                        "devices[{first}] and devices[{index}] have the same device_id {id:?}",
                        id = id.as_str(),
                    ));
                }
            };
            match by_token.entry(device.token_sha256.clone()) {
                Entry::Vacant(free) => free.insert(index),
                Entry::Occupied(first) => {
                    let first = first.get();
                    return Err(format!(
                        "devices[{first}] and devices[{index}] have the same token_sha256; \
                         give one of them a token of its own with rotate-token"
                    ));
                }
            };
        }
        Ok(Self { list, nodes: Nodes::default(), by_id, by_token })
    }

    /// The same devices with these nodes.
    pub(crate) fn with_nodes(self, nodes: Nodes) -> Self {
        Self { nodes, ..self }
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(crate) fn list(&self) -> &[Device] {
        &self.list
    }

    pub(crate) fn into_lists(self) -> (Vec<Device>, Vec<Node>) {
        (self.list, self.nodes.into_list())
    }

    pub(crate) fn position(&self, device_id: &str) -> Option<usize> {
        self.by_id.get(device_id).copied()
    }

    /// Decides about one pair of device and token.
    ///
    /// The token is checked before the subscription, so that a subscription is revealed only to
    /// a holder of its token. An unknown device costs the same work as a wrong token: one hash, one
    /// comparison, one lookup of the token's owner.
    pub(crate) fn validate(&self, device_id: &str, token: &str, now: SystemTime) -> Verdict {
        let presented = TokenDigest::of(token);
        let device = self.position(device_id).map(|index| &self.list[index]);
        let expected = device.map_or(&TokenDigest::OF_NO_DEVICE, |device| &device.token_sha256);
        let is_right = expected.matches(&presented);
        let has_owner = self.by_token.contains_key(&presented);
        let Some(device) = device else { return Verdict::refused(Refusal::DeviceNotFound) };
        if !is_right {
            return Verdict::refused(if has_owner {
                Refusal::DeviceMismatch
            } else {
                Refusal::InvalidToken
            });
        }
        let subscription_status = device.reported_status(now).to_owned();
        if device.is_entitled(now) {
            Verdict::Allowed { user_id: device.user_id, subscription_status }
        } else {
            Verdict::Refused {
                reason: Refusal::NoActiveSubscription,
                subscription_status: Some(subscription_status),
            }
        }
    }
}

/// The answer to one `validate-device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The device may connect.
    Allowed {
        /// The owner of the device.
        user_id: u64,
        /// The status of his subscription.
        subscription_status: String,
    },
    /// The device may not connect.
    Refused {
        /// Why.
        reason: Refusal,
        /// The status of the subscription; known only to who has the right token.
        subscription_status: Option<String>,
    },
}

impl Verdict {
    fn refused(reason: Refusal) -> Self {
        Self::Refused { reason, subscription_status: None }
    }
}

/// Why a device is refused; the reasons of the founding API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No device of the file has this id.
    DeviceNotFound,
    /// The token is right, but the status does not allow it or the end is past.
    NoActiveSubscription,
    /// The token belongs to no device of the file.
    InvalidToken,
    /// The token belongs to another device of the file.
    DeviceMismatch,
}

impl Refusal {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceNotFound => "device_not_found",
            Self::NoActiveSubscription => "no_active_subscription",
            Self::InvalidToken => "invalid_token",
            Self::DeviceMismatch => "device_mismatch",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(id: &str, status: &str, token: &str) -> Device {
        Device {
            device_id: id.parse().unwrap(),
            user_id: 7,
            subscription_status: status.parse().unwrap(),
            subscription_end: None,
            token_sha256: TokenDigest::of(token),
        }
    }

    fn refusal(verdict: Verdict) -> (Refusal, Option<String>) {
        match verdict {
            Verdict::Refused { reason, subscription_status } => (reason, subscription_status),
            Verdict::Allowed { .. } => panic!("the device was let in"),
        }
    }

    #[test]
    fn each_pair_gets_its_reason() {
        let devices = Devices::new(vec![
            device("anna", "active", "anna's"),
            device("berta", "canceled", "berta's"),
        ])
        .unwrap();
        let ask = |id, token| devices.validate(id, token, SystemTime::now());
        assert_eq!(
            ask("anna", "anna's"),
            Verdict::Allowed { user_id: 7, subscription_status: "active".to_owned() }
        );
        assert_eq!(
            refusal(ask("berta", "berta's")),
            (Refusal::NoActiveSubscription, Some("canceled".to_owned()))
        );
        assert_eq!(refusal(ask("anna", "wrong")), (Refusal::InvalidToken, None));
        assert_eq!(refusal(ask("anna", "")), (Refusal::InvalidToken, None));
        assert_eq!(refusal(ask("anna", "berta's")), (Refusal::DeviceMismatch, None));
        assert_eq!(refusal(ask("berta", "wrong")), (Refusal::InvalidToken, None));
        assert_eq!(refusal(ask("unknown", "anna's")), (Refusal::DeviceNotFound, None));
        assert_eq!(refusal(ask("", "")), (Refusal::DeviceNotFound, None));
    }

    #[test]
    fn shared_ids_and_tokens_are_refused() {
        let same_id = vec![device("anna", "active", "1"), device("anna", "active", "2")];
        assert!(Devices::new(same_id).unwrap_err().contains("same device_id \"anna\""));
        let same_token = vec![device("anna", "active", "1"), device("berta", "active", "1")];
        assert!(Devices::new(same_token).unwrap_err().contains("same token_sha256"));
    }
}
