//! One device of the file.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::{SubscriptionEnd, SubscriptionStatus, TokenDigest};

/// A device, its owner's subscription and what is kept of its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// The name under which the device says hello; unique in the file.
    pub device_id: DeviceId,
    /// The owner, as the answer to the gateway names him.
    pub user_id: u64,
    /// The status of the owner's subscription.
    pub subscription_status: SubscriptionStatus,
    /// When the subscription ends; `None` means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription_end: Option<SubscriptionEnd>,
    /// The digest of the device's token; unique in the file.
    pub token_sha256: TokenDigest,
}

impl Device {
    /// Whether the subscription lets the device in at `now`: the status allows it and the end is
    /// not past.
    pub fn is_entitled(&self, now: SystemTime) -> bool {
        self.subscription_status.allows() && !self.is_over(now)
    }

    /// The status to report at `now`: an allowing status whose end is past is `expired`.
    pub fn reported_status(&self, now: SystemTime) -> &str {
        if self.subscription_status.allows() && self.is_over(now) {
            "expired"
        } else {
            self.subscription_status.as_str()
        }
    }

    fn is_over(&self, now: SystemTime) -> bool {
        self.subscription_end.as_ref().is_some_and(|end| end.is_past(now))
    }
}

/// The name of a device: 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

impl DeviceId {
    /// Longest name, in bytes; the limit of the gateway's `hello`.
    pub const MAX_LEN: usize = 128;

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed =
            (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic());
        if well_formed { Ok(Self(text.to_owned())) } else { Err(InvalidDeviceId) }
    }
}

impl TryFrom<String> for DeviceId {
    type Error = InvalidDeviceId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The text is not a [`DeviceId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidDeviceId;

impl fmt::Display for InvalidDeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device id is 1 to 128 printable ASCII characters without spaces")
    }
}

impl std::error::Error for InvalidDeviceId {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn device(status: &str, end: Option<&str>) -> Device {
        Device {
            device_id: "d".parse().unwrap(),
            user_id: 1,
            subscription_status: status.parse().unwrap(),
            subscription_end: end.map(|end| end.parse().unwrap()),
            token_sha256: TokenDigest::of("t"),
        }
    }

    #[test]
    fn status_and_end_decide_together() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000); // 2027-01-15
        for (status, end, entitled, reported) in [
            ("active", None, true, "active"),
            ("trialing", Some("2027-01-15"), true, "trialing"),
            ("active", Some("2027-01-14"), false, "expired"),
            ("past_due", None, false, "past_due"),
            ("past_due", Some("2027-01-14"), false, "past_due"),
        ] {
            let device = device(status, end);
            assert_eq!(device.is_entitled(now), entitled, "{status} {end:?}");
            assert_eq!(device.reported_status(now), reported, "{status} {end:?}");
        }
    }

    #[test]
    fn a_device_id_is_printable_and_short() {
        assert!("laptop-anna".parse::<DeviceId>().is_ok());
        assert!("d".repeat(128).parse::<DeviceId>().is_ok());
        for bad in ["", "two words", "line\n", "\u{202e}x", "\u{1b}[2J", &"d".repeat(129)] {
            assert_eq!(bad.parse::<DeviceId>(), Err(InvalidDeviceId), "{bad:?}");
        }
    }
}
