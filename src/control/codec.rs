//! Frames of the control channel: `length u32 | crc32c u32 | version u32 | body`, little-endian. The
//! length is the body's, at most 1 MiB; the checksum covers version and body; the body is bincode 2.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::{self, Read, Write};

/// Version of the messages; both ends must be of the same.
pub const PROTOCOL_VERSION: u32 = 1;

/// Largest body.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 12;

/// What can be wrong with a frame.
#[derive(Debug)]
pub enum CodecError {
    Io(io::Error),
    /// The other end closed before a frame began.
    Closed,
    TooLong(usize),
    Checksum,
    Version(u32),
    Body(String),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecError::Io(e) => write!(f, "{e}"),
            CodecError::Closed => write!(f, "the other end closed the connection"),
            CodecError::TooLong(n) => write!(f, "a message of {n} bytes (at most {FRAME_BYTES_MAX})"),
            CodecError::Checksum => write!(f, "a damaged message"),
            CodecError::Version(v) => {
                write!(
                    f,
                    "messages of version {v}, not {PROTOCOL_VERSION}: the gateway is another release of forelog"
                )
            }
            CodecError::Body(e) => write!(f, "a message that cannot be read: {e}"),
        }
    }
}

impl From<io::Error> for CodecError {
    fn from(e: io::Error) -> Self {
        CodecError::Io(e)
    }
}

fn bincode_config() -> impl bincode::config::Config {
    // The limit also bounds what a forged length inside a body can make us allocate.
    bincode::config::standard().with_limit::<FRAME_BYTES_MAX>()
}

/// A message as a body.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    bincode::serde::encode_to_vec(message, bincode_config()).map_err(|e| CodecError::Body(e.to_string()))
}

/// A body as a message; every byte must be used.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    match bincode::serde::decode_from_slice(body, bincode_config()) {
        Ok((message, n)) if n == body.len() => Ok(message),
        Ok(_) => Err(CodecError::Body("bytes left over".into())),
        Err(e) => Err(CodecError::Body(e.to_string())),
    }
}

fn checksum(version: [u8; 4], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&version), body)
}

/// Writes one frame.
pub fn send<T: Serialize>(out: &mut impl Write, message: &T) -> Result<(), CodecError> {
    let body = encode(message)?;
    if body.len() > FRAME_BYTES_MAX {
        return Err(CodecError::TooLong(body.len()));
    }
    let version = PROTOCOL_VERSION.to_le_bytes();
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&checksum(version, &body).to_le_bytes());
    frame.extend_from_slice(&version);
    frame.extend_from_slice(&body);
    out.write_all(&frame)?;
    Ok(out.flush()?)
}

/// Reads one frame.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, CodecError> {
    let mut header = [0u8; HEADER_BYTES];
    loop {
        match from.read(&mut header[..1]) {
            Ok(0) => return Err(CodecError::Closed),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    from.read_exact(&mut header[1..])?;
    let word = |i: usize| [header[i], header[i + 1], header[i + 2], header[i + 3]];
    let len = u32::from_le_bytes(word(0)) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(CodecError::TooLong(len));
    }
    let mut body = vec![0u8; len];
    from.read_exact(&mut body)?;
    if checksum(word(8), &body) != u32::from_le_bytes(word(4)) {
        return Err(CodecError::Checksum);
    }
    match u32::from_le_bytes(word(8)) {
        PROTOCOL_VERSION => decode(&body),
        other => Err(CodecError::Version(other)),
    }
}
