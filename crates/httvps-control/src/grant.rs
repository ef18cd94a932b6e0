//! What the backend allows a session.

use crate::json::Object;
use serde_json::value::RawValue;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// What the backend allows one session, its device and its user: the object `grant` of its answers.
///
/// Every member is optional. `None` leaves the matter to the settings of the gateway; a count of
/// 0 means none. The default is a grant that says nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Orders the grants of a session; one without a version is the newest.
    pub version: Option<u64>,
    /// By which the backend finds the session again when it is asked to refresh the grant. Opaque,
    /// at most [`Grant::MAX_HANDLE`] bytes, and not for a log.
    pub handle: Option<Box<str>>,
    /// Repeated in reports of usage. Opaque, at most [`Grant::MAX_CLASS`] bytes.
    pub class: Option<Box<str>>,
    /// How long the session may last from now on; zero = it has ended.
    pub expires_in: Option<Duration>,
    /// When to refresh the grant, and how long it may admit the device again; zero = never.
    pub ttl: Option<Duration>,
    /// How long it holds beyond `ttl` while the backend cannot be asked; zero = not at all.
    pub stale: Option<Duration>,
    /// Limits of the session.
    pub session: SessionGrant,
    /// Limits of all sessions of the device together.
    pub device: DeviceGrant,
    /// Limits of all sessions of the user together.
    pub user: UserGrant,
    /// Bytes that the user has left.
    pub quota: Option<QuotaGrant>,
    /// What happens to a session above a limit of sessions or devices.
    pub at_limit: AtLimit,
}

/// Limits of one session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionGrant {
    /// Streams that are open at once.
    pub max_streams: Option<u64>,
    /// Streams that are opened a second.
    pub opens_per_second: Option<NonZeroU64>,
    /// Streams that may be opened at once, above that rate.
    pub opens_burst: Option<u64>,
    /// How long the session may last without a stream; not zero.
    pub idle: Option<Duration>,
}

/// Limits of one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceGrant {
    /// Sessions at once.
    pub max_sessions: Option<u64>,
    /// Bytes a second from the device.
    pub up_bytes_per_second: Option<NonZeroU64>,
    /// Bytes a second to the device.
    pub down_bytes_per_second: Option<NonZeroU64>,
}

/// Limits of one user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserGrant {
    /// Devices with a session at once.
    pub max_devices: Option<u64>,
    /// Sessions at once, of all devices.
    pub max_sessions: Option<u64>,
    /// Bytes a second from all devices.
    pub up_bytes_per_second: Option<NonZeroU64>,
    /// Bytes a second to all devices.
    pub down_bytes_per_second: Option<NonZeroU64>,
}

/// Bytes that a user has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaGrant {
    /// Which quota this is, such as a month: 1 to [`QuotaGrant::MAX_ID`] bytes. Another id is
    /// another quota.
    pub id: Box<str>,
    /// Bytes that are left of it.
    pub remaining_bytes: u64,
    /// Which bytes it counts.
    pub counts: Counts,
    /// Below this the gateway asks for a fresh grant at once.
    pub low_bytes: Option<u64>,
    /// What happens at its end.
    pub at_end: AtEnd,
}

/// The bytes that a quota counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counts {
    /// Those from the client and those to the client.
    #[default]
    Both,
    /// Those from the client.
    Up,
    /// Those to the client.
    Down,
}

/// What happens at the end of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtEnd {
    /// The sessions end.
    #[default]
    Close,
    /// The sessions go on at this rate, in bytes a second.
    Throttle(NonZeroU64),
}

/// What happens to a session above a limit of sessions or devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AtLimit {
    /// It is refused.
    #[default]
    Refuse,
    /// It takes the place of the oldest.
    ReplaceOldest,
}

/// The word of `at_end` for [`AtEnd::Throttle`], whose rate is a member of its own.
#[derive(Clone, Copy)]
enum EndWord {
    Close,
    Throttle,
}

/// The readers of [`Object`], each with an error that names the member.
macro_rules! member {
    ($object:ident . count($name:literal)) => {
        $object.count($name, wrong!($object, $name, "is not a whole number from 0 to 2^53"))
    };
    ($object:ident . rate($name:literal)) => {
        $object.rate($name, wrong!($object, $name, "is not a whole number from 1 to 2^53"))
    };
    ($object:ident . seconds($name:literal)) => {
        $object.seconds($name, wrong!($object, $name, "is not a whole number from 0 to 2^53"))
    };
    ($object:ident . object($name:literal)) => {
        $object.object($name, wrong!($object, $name, "is not an object"))
    };
}

macro_rules! wrong {
    ($object:ident, $name:literal, $problem:literal) => {
        concat!(stringify!($object), ".", $name, " ", $problem)
    };
}

impl Grant {
    /// Longest `handle`, in bytes.
    pub const MAX_HANDLE: usize = 512;
    /// Longest `class`, in bytes.
    pub const MAX_CLASS: usize = 256;
    /// Longest JSON of a grant, in bytes.
    pub const MAX_JSON: usize = 16 * 1024;
    /// Most members of a grant, those of objects inside it included.
    pub const MAX_MEMBERS: usize = 64;

    /// Reads a grant. Members that are not known are ignored. The error is about the first
    /// violation, names the member, and holds nothing of what was read: a limit that cannot be
    /// read never becomes "no limit".
    pub(crate) fn read(value: &RawValue) -> Result<Self, &'static str> {
        let text = value.get();
        if text.len() > Self::MAX_JSON {
            return Err("grant is longer than 16 KiB");
        }
        let not_an_object = "grant is not an object, or its JSON is not valid";
        let grant = &Object::parse(text, Self::MAX_MEMBERS, not_an_object)?;
        Ok(Self {
            version: member!(grant.count("version"))?,
            handle: handle(grant)?,
            class: class(grant)?,
            expires_in: member!(grant.seconds("expires_in_seconds"))?,
            ttl: member!(grant.seconds("ttl_seconds"))?,
            stale: member!(grant.seconds("stale_seconds"))?,
            session: member!(grant.object("session"))?
                .map_or(Ok(SessionGrant::default()), session)?,
            device: member!(grant.object("device"))?.map_or(Ok(DeviceGrant::default()), device)?,
            user: member!(grant.object("user"))?.map_or(Ok(UserGrant::default()), user)?,
            quota: member!(grant.object("quota"))?.map(quota).transpose()?,
            at_limit: at_limit(grant)?,
        })
    }
}

/// Texts of a grant are opaque: they may be empty.
fn handle(grant: &Object) -> Result<Option<Box<str>>, &'static str> {
    let bad = "grant.handle is not text of at most 512 bytes";
    Ok(grant.text("handle", 0..=Grant::MAX_HANDLE, bad)?.map(Box::from))
}

fn class(grant: &Object) -> Result<Option<Box<str>>, &'static str> {
    let bad = "grant.class is not text of at most 256 bytes";
    Ok(grant.text("class", 0..=Grant::MAX_CLASS, bad)?.map(Box::from))
}

fn at_limit(grant: &Object) -> Result<AtLimit, &'static str> {
    let words = [("refuse", AtLimit::Refuse), ("replace_oldest", AtLimit::ReplaceOldest)];
    let bad = "grant.at_limit is neither \"refuse\" nor \"replace_oldest\"";
    Ok(grant.word("at_limit", &words, bad)?.unwrap_or_default())
}

fn session(session: &Object) -> Result<SessionGrant, &'static str> {
    let idle = member!(session.rate("idle_seconds"))?;
    Ok(SessionGrant {
        max_streams: member!(session.count("max_streams"))?,
        opens_per_second: member!(session.rate("opens_per_second"))?,
        opens_burst: member!(session.count("opens_burst"))?,
        idle: idle.map(|seconds| Duration::from_secs(seconds.get())),
    })
}

fn device(device: &Object) -> Result<DeviceGrant, &'static str> {
    Ok(DeviceGrant {
        max_sessions: member!(device.count("max_sessions"))?,
        up_bytes_per_second: member!(device.rate("up_bytes_per_second"))?,
        down_bytes_per_second: member!(device.rate("down_bytes_per_second"))?,
    })
}

fn user(user: &Object) -> Result<UserGrant, &'static str> {
    Ok(UserGrant {
        max_devices: member!(user.count("max_devices"))?,
        max_sessions: member!(user.count("max_sessions"))?,
        up_bytes_per_second: member!(user.rate("up_bytes_per_second"))?,
        down_bytes_per_second: member!(user.rate("down_bytes_per_second"))?,
    })
}

impl QuotaGrant {
    /// Longest `id`, in bytes.
    pub const MAX_ID: usize = 128;
}

fn quota(quota: &Object) -> Result<QuotaGrant, &'static str> {
    let bad_id = "quota.id is missing, or is not text of 1 to 128 bytes";
    let id = quota.text("id", 1..=QuotaGrant::MAX_ID, bad_id)?.ok_or(bad_id)?;
    let remaining = member!(quota.count("remaining_bytes"))?;
    let words = [("both", Counts::Both), ("up", Counts::Up), ("down", Counts::Down)];
    let counts =
        quota.word("counts", &words, "quota.counts is not \"both\", \"up\" or \"down\"")?;
    Ok(QuotaGrant {
        id: id.into(),
        remaining_bytes: remaining.ok_or("quota.remaining_bytes is missing")?,
        counts: counts.unwrap_or_default(),
        low_bytes: member!(quota.count("low_bytes"))?,
        at_end: at_end(quota)?,
    })
}

/// The rate is read in any case: one that is wrong is an error even where it is not used.
fn at_end(quota: &Object) -> Result<AtEnd, &'static str> {
    let words = [("close", EndWord::Close), ("throttle", EndWord::Throttle)];
    let bad = "quota.at_end is neither \"close\" nor \"throttle\"";
    let word = quota.word("at_end", &words, bad)?;
    match (word, member!(quota.rate("throttle_bytes_per_second"))?) {
        (None | Some(EndWord::Close), _) => Ok(AtEnd::Close),
        (Some(EndWord::Throttle), Some(rate)) => Ok(AtEnd::Throttle(rate)),
        (Some(EndWord::Throttle), None) => Err("quota.throttle_bytes_per_second is missing"),
    }
}

impl fmt::Debug for Grant {
    /// Leaves out the handle, by which whoever has it could ask about the session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            handle,
            class,
            expires_in,
            ttl,
            stale,
            session,
            device,
            user,
            quota,
            at_limit,
        } = self;
        f.debug_struct("Grant")
            .field("version", version)
            .field("handle", &handle.as_ref().map(|_| "***"))
            .field("class", class)
            .field("expires_in", expires_in)
            .field("ttl", ttl)
            .field("stale", stale)
            .field("session", session)
            .field("device", device)
            .field("user", user)
            .field("quota", quota)
            .field("at_limit", at_limit)
            .finish()
    }
}

#[cfg(test)]
mod tests;
