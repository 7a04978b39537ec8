//! The header in front of every request, read by hand because it must be read before it is known whether the rest can be.

use bytes::{Buf, Bytes};

use super::shape::varint;

/// What a request says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub(crate) api_key: i16,
    pub(crate) api_version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: String,
}

/// A request whose header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request header is broken")]
pub(crate) struct BrokenHeader;

impl RequestHeader {
    /// Takes the header off the front of a frame. `is_flexible` tells whether an API has tagged fields in this version.
    pub(crate) fn take(frame: &mut Bytes, is_flexible: fn(i16, i16) -> bool) -> Result<Self, BrokenHeader> {
        let api_key = frame.try_get_i16().map_err(|_| BrokenHeader)?;
        let api_version = frame.try_get_i16().map_err(|_| BrokenHeader)?;
        let correlation_id = frame.try_get_i32().map_err(|_| BrokenHeader)?;
        let client_id = match usize::try_from(frame.try_get_i16().map_err(|_| BrokenHeader)?) {
            Ok(length) if length <= frame.len() => String::from_utf8_lossy(&frame.split_to(length)).into_owned(),
            Ok(_) => return Err(BrokenHeader),
            Err(_) => String::new(),
        };
        if is_flexible(api_key, api_version) {
            for _ in 0..varint(frame).ok_or(BrokenHeader)? {
                varint(frame).ok_or(BrokenHeader)?;
                let size = varint(frame).ok_or(BrokenHeader)? as usize;
                if size > frame.len() {
                    return Err(BrokenHeader);
                }
                frame.advance(size);
            }
        }
        Ok(Self { api_key, api_version, correlation_id, client_id })
    }
}
