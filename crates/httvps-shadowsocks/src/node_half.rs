//! A node's half of the protocol, for tests only.

use crate::aead::{Direction, TAG_LEN};
use crate::{AccessKey, Cipher};
use httvps_proto::address;

/// A key for each cipher, all of one node.
pub(crate) fn key(cipher: Cipher) -> AccessKey {
    let password = if cipher.is_2022() {
        base64_turbo::STANDARD.encode(vec![7; cipher.key_len()])
    } else {
        "a password".to_owned()
    };
    AccessKey::from_parts("192.0.2.1", 1, cipher.name(), &password).unwrap()
}

/// What a node of 2022 says about itself before the first payload.
#[derive(Clone)]
pub(crate) struct About {
    pub(crate) kind: u8,
    pub(crate) time: u64,
    /// The salt of the request that is answered.
    pub(crate) request: Vec<u8>,
}

/// The bytes that a node sends for these chunks.
pub(crate) fn answer(key: &AccessKey, about: &About, chunks: &[Vec<u8>]) -> Vec<u8> {
    let salt = vec![9; key.cipher().key_len()];
    let mut direction = Direction::new(key, &salt);
    let mut bytes = salt;
    let mut add = |plain: &[u8]| {
        let mut piece = [plain, &[0; TAG_LEN]].concat();
        direction.seal(&mut piece);
        bytes.extend_from_slice(&piece);
    };
    for (i, chunk) in chunks.iter().enumerate() {
        let length = (chunk.len() as u16).to_be_bytes();
        if i == 0 && key.cipher().is_2022() {
            add(&[&[about.kind], &about.time.to_be_bytes()[..], &about.request, &length].concat());
        } else {
            add(&length);
        }
        add(chunk);
    }
    bytes
}

/// A request as a node understands it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) salt: Vec<u8>,
    pub(crate) time: Option<u64>,
    pub(crate) address: Vec<u8>,
    pub(crate) padding: usize,
    pub(crate) payload: Vec<u8>,
    /// Lengths of the chunks behind the header.
    pub(crate) chunks: Vec<usize>,
}

/// Reads all that a client has sent. Panics when it is not a whole number of pieces.
pub(crate) fn understand(key: &AccessKey, bytes: &[u8]) -> Request {
    let (salt, mut rest) = bytes.split_at(key.cipher().key_len());
    let mut direction = Direction::new(key, salt);
    let mut take = |len: usize| {
        let (piece, more) = rest.split_at(len + TAG_LEN);
        rest = more;
        (direction.open(&mut piece.to_vec()).unwrap().to_vec(), more.is_empty())
    };
    let mut request = Request { salt: salt.to_vec(), ..Request::default() };
    let mut is_over = false;
    if key.cipher().is_2022() {
        let (fixed, _) = take(11);
        assert_eq!(fixed[0], 0, "the type of a request");
        request.time = Some(u64::from_be_bytes(fixed[1..9].try_into().unwrap()));
        let (header, over) = take(usize::from(u16::from_be_bytes([fixed[9], fixed[10]])));
        let (address, variable) = header.split_at(address::header_len(&header).unwrap().unwrap());
        request.address = address.to_vec();
        request.padding = usize::from(u16::from_be_bytes([variable[0], variable[1]]));
        request.payload = variable[2 + request.padding..].to_vec();
        is_over = over;
    }
    while !is_over {
        let (length, _) = take(2);
        let (chunk, over) = take(usize::from(u16::from_be_bytes([length[0], length[1]])));
        request.chunks.push(chunk.len());
        request.payload.extend_from_slice(&chunk);
        is_over = over;
    }
    if !key.cipher().is_2022() {
        let payload = std::mem::take(&mut request.payload);
        let (address, payload) =
            payload.split_at(address::header_len(&payload).unwrap().unwrap().min(payload.len()));
        (request.address, request.payload) = (address.to_vec(), payload.to_vec());
    }
    request
}
