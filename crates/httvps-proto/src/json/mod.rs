//! The founding wire format: one JSON object per WebSocket text message.
//!
//! [`decode`] turns the bytes of a message into a [`Frame`] that borrows from them; the functions
//! of `encode` append frames to an [`crate::Outbox`]. `stream_data` has a fast path in both
//! directions: no allocation, base64 decoded and encoded by SIMD straight between the message and
//! the payload. Everything else goes through `serde_json`.

mod decode;
mod encode;
mod loose;
mod scan;

pub use decode::{Bad, Frame, Hello, decode};
pub(crate) use encode::escaped;
pub use encode::{
    AuthResult, auth_result, encoded_data_len, error, go_away, hello, ping, pong, stream_close,
    stream_data, stream_open, stream_opened,
};
