//! User and password at a proxy.

use zeroize::Zeroizing;

/// Credentials for a proxy; wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: Zeroizing<Vec<u8>>,
    pub(crate) password: Zeroizing<Vec<u8>>,
}
