//! Length-prefixed frames. A length is checked before anything is allocated, and memory grows with what has arrived, not
//! with what was announced.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What an announced frame may first allocate.
const FIRST_CHUNK_BYTES: usize = 64 << 10;

/// Reads a frame's length. Nothing at a clean end of the stream.
pub(crate) async fn read_length<R: AsyncRead + Unpin>(stream: &mut R, max_bytes: usize) -> io::Result<Option<usize>> {
    let mut prefix = [0; 4];
    match stream.read_exact(&mut prefix).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = i32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(length) if length <= max_bytes => Ok(Some(length)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a request of {length} bytes was announced"))),
    }
}

/// Reads a frame's body of exactly `length` bytes.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(stream: &mut R, length: usize) -> io::Result<Bytes> {
    let mut body = BytesMut::with_capacity(length.min(FIRST_CHUNK_BYTES));
    let mut limited = stream.take(length as u64);
    while body.len() < length {
        if body.len() == body.capacity() {
            body.reserve(body.len().min(length - body.len()));
        }
        if limited.read_buf(&mut body).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(body.freeze())
}
