//! Access keys: address, cipher and secret of a node.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64_turbo::STANDARD_NO_PAD;
use httvps_proto::Target;
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

use crate::{Cipher, KeyError};

/// Longest key that is read, in bytes.
const MAX_KEY_LEN: usize = 4096;

/// Most characters of a tag that are kept.
const MAX_TAG_CHARS: usize = 128;

/// Longest salt prefix, in bytes: Outline's bound.
const MAX_PREFIX_LEN: usize = 16;

/// Fewest random bytes of a salt. Two streams with one salt would be encrypted alike; with 96 random
/// bits that is not to be expected before 2^48 streams.
pub(crate) const MIN_RANDOM_LEN: usize = 12;

/// The address of a node, its cipher and key.
///
/// Keeps the key that was derived from the password, not the password. `Debug` and `Display` show neither; memory that held
/// them is overwritten. Equal keys have the same node, cipher and secret; the tag is not compared.
#[derive(Clone)]
pub struct AccessKey {
    node: Target,
    cipher: Cipher,
    secret: Zeroizing<Vec<u8>>,
    prefix: Box<[u8]>,
    tag: Option<Box<str>>,
}

impl AccessKey {
    /// Reads an `ss://` line, at most 4,096 bytes long.
    ///
    /// SIP002 with its user info plain, percent-encoded or in base64; and the older form that is in base64 as a whole.
    /// Base64 may be of either alphabet, with padding or without. Of the parameters, `prefix` is Outline's salt prefix
    /// (see [`with_prefix`](Self::with_prefix)) and `plugin` an error; others are ignored.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim_ascii();
        if text.len() > MAX_KEY_LEN {
            return Err(KeyError::TooLong);
        }
        let is_ours = text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("ss://"));
        let rest = if is_ours { &text[5..] } else { return Err(KeyError::Scheme) };
        let (rest, tag) = rest.split_once('#').unwrap_or((rest, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let key = match rest.rsplit_once('@') {
            Some((user, node)) => Self::from_sip002(user, node)?,
            None => Self::from_legacy(rest)?,
        };
        Ok(key.with_query(query)?.with_tag(&percent_decode_str(tag).decode_utf8_lossy()))
    }

    /// Builds a key from its parts, as an API or a JSON object names them. The host may be an IPv6 address with or
    /// without brackets.
    pub fn from_parts(
        host: &str,
        port: u16,
        method: &str,
        password: &str,
    ) -> Result<Self, KeyError> {
        Self::new(Target::from_parts(host, port).map_err(KeyError::Node)?, method, password)
    }

    fn new(node: Target, method: &str, password: &str) -> Result<Self, KeyError> {
        let cipher = Cipher::from_name(method).ok_or(KeyError::Method)?;
        if password.is_empty() {
            return Err(KeyError::NoPassword);
        }
        let secret = if cipher.is_2022() {
            key_of_base64(cipher, password)?
        } else {
            cipher.key_of_password(password.as_bytes())
        };
        Ok(Self { node, cipher, secret, prefix: Box::default(), tag: None })
    }

    /// `user@node` with the user info in one of its forms.
    fn from_sip002(user: &str, node: &str) -> Result<Self, KeyError> {
        let user = Zeroizing::new(percent_decode_str(user).collect::<Vec<u8>>());
        let user = match std::str::from_utf8(&user) {
            Ok(plain) if plain.contains(':') => user,
            Ok(encoded) => base64(encoded).ok_or(KeyError::UserInfo)?,
            Err(_) => return Err(KeyError::UserInfo),
        };
        let user = std::str::from_utf8(&user).map_err(|_| KeyError::UserInfo)?;
        let (method, password) = user.split_once(':').ok_or(KeyError::UserInfo)?;
        let node = Target::parse(node.trim_end_matches('/')).map_err(KeyError::Node)?;
        Self::new(node, method, password)
    }

    /// `method:password@host:port`, all of it in base64. The password is plain in there and may have any character.
    fn from_legacy(encoded: &str) -> Result<Self, KeyError> {
        let encoded = percent_decode_str(encoded).decode_utf8().map_err(|_| KeyError::Form)?;
        let decoded = base64(&encoded).ok_or(KeyError::Form)?;
        let decoded = std::str::from_utf8(&decoded).map_err(|_| KeyError::Form)?;
        let (user, node) = decoded.rsplit_once('@').ok_or(KeyError::Form)?;
        let (method, password) = user.split_once(':').ok_or(KeyError::UserInfo)?;
        Self::new(Target::parse(node).map_err(KeyError::Node)?, method, password)
    }

    fn with_query(mut self, query: &str) -> Result<Self, KeyError> {
        let mut prefix = None;
        for parameter in query.split('&') {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("plugin", value) if !value.is_empty() => return Err(KeyError::Plugin),
                ("prefix", value) => prefix = prefix.or(Some(value)),
                _ => {}
            }
        }
        if let Some(prefix) = prefix {
            // A query is a form, whose spaces are pluses; Outline's own clients read it so.
            let spaced = prefix.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8();
            self = self.with_prefix(&decoded.map_err(|_| KeyError::PrefixCharacter)?)?;
        }
        Ok(self)
    }

    /// Sets Outline's salt prefix: the salt of each stream begins with these bytes, one for each character up to
    /// U+00FF. Datagrams have none.
    ///
    /// At most 16 bytes, and 12 bytes of the salt stay random: so at most 4 with the ciphers whose salts are 16 bytes
    /// long.
    pub fn with_prefix(mut self, prefix: &str) -> Result<Self, KeyError> {
        let most = MAX_PREFIX_LEN.min(self.cipher.key_len() - MIN_RANDOM_LEN);
        let bytes: Result<Vec<u8>, _> = prefix.chars().map(u8::try_from).collect();
        let bytes = bytes.map_err(|_| KeyError::PrefixCharacter)?;
        if bytes.len() > most {
            return Err(KeyError::PrefixLength(self.cipher, most));
        }
        self.prefix = bytes.into();
        Ok(self)
    }

    /// Sets the tag, a display name; 128 characters of it are kept, and no control characters.
    pub fn with_tag(mut self, tag: &str) -> Self {
        let tag: String = tag.chars().filter(|c| !c.is_control()).take(MAX_TAG_CHARS).collect();
        self.tag = (!tag.is_empty()).then(|| tag.into());
        self
    }

    /// The node's host and port.
    pub fn node(&self) -> &Target {
        &self.node
    }

    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// The name that the key gives to its node.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// What the salt of each stream begins with.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

fn key_of_base64(cipher: Cipher, password: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if password.contains(':') {
        return Err(KeyError::ManyUsers);
    }
    let key = base64(password).ok_or(KeyError::PasswordBase64(cipher))?;
    if key.len() == cipher.key_len() { Ok(key) } else { Err(KeyError::PasswordLength(cipher)) }
}

/// Decodes base64 of either alphabet, padded or not.
fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let standard = text.trim_end_matches('=').bytes().map(|byte| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    });
    let standard = Zeroizing::new(standard.collect::<Vec<u8>>());
    STANDARD_NO_PAD.decode(standard.as_slice()).ok().map(Zeroizing::new)
}

impl PartialEq for AccessKey {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
            && self.cipher == other.cipher
            && self.prefix == other.prefix
            && verify_slices_are_equal(&self.secret, &other.secret).is_ok()
    }
}

impl Eq for AccessKey {}

impl fmt::Display for AccessKey {
    /// Method and node, without what is secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ss://{}:***@{}", self.cipher, self.node)
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
