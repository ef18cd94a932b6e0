//! The limits of one session.

/// Limits of one session. The defaults are those of docs/reference/settings.md.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams open at once.
    pub max_streams: usize,
    /// `stream_open` frames a second; 0 = no limit.
    pub max_stream_opens_per_second: u32,
    /// `stream_open` frames of one burst above the rate.
    pub max_stream_open_burst: u32,
    /// `error` frames a second that one client may cause; 0 = no limit.
    pub max_errors_per_second: u32,
    /// `error` frames that may be caused at once before the rate holds.
    pub max_error_burst: u32,
    /// Bytes of a `stream_id`.
    pub max_stream_id: usize,
    /// Bytes of a `device_id`.
    pub max_device_id: usize,
    /// Bytes of a `token`.
    pub max_token: usize,
}

impl Limits {
    /// Bytes of a `target`: 255 of host and port, and the punctuation of an IPv6 literal.
    pub const MAX_TARGET: usize = 262;
    /// Levels of arrays and objects in one frame.
    pub const MAX_DEPTH: usize = 128;
    /// Members, entries, arrays and objects of one frame, all levels together. A frame needs about ten.
    pub const MAX_VALUES: usize = 4096;
    /// Entries of `capabilities` that are looked at; further ones are ignored.
    pub const MAX_CAPABILITIES: usize = 32;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_streams: 8,
            max_stream_opens_per_second: 200,
            max_stream_open_burst: 500,
            max_errors_per_second: 100,
            max_error_burst: 1000,
            max_stream_id: 64,
            max_device_id: 128,
            max_token: 8 * 1024,
        }
    }
}
