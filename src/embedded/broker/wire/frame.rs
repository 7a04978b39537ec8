//! Length-prefixed frames. A length is checked before anything is allocated, and memory, and the share of the budget for
//! it, grow with what has arrived, not with what was announced.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What an announced frame may first allocate.
const FIRST_CHUNK_BYTES: usize = 64 << 10;

/// The unit of a budget.
pub(crate) const BUDGET_UNIT_BYTES: usize = 1 << 10;

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

/// Reads a frame's body of exactly `length` bytes, and takes its share of the budget once the first of them are there: what
/// was merely announced holds up nobody, and who waits for the rest of its share holds little. Fails when nothing arrives
/// for as long as `patience`.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(
    stream: &mut R,
    length: usize,
    budget: &Arc<Semaphore>,
    patience: Duration,
) -> io::Result<(Bytes, OwnedSemaphorePermit)> {
    let first = length.min(FIRST_CHUNK_BYTES);
    let mut share = within(patience, take(budget, first)).await?;
    let mut rest = length - first;
    let mut body = BytesMut::with_capacity(first);
    let mut limited = stream.take(length as u64);
    while body.len() < length {
        if body.len() == body.capacity() {
            if rest > 0 {
                share.merge(take(budget, rest).await?);
                rest = 0;
            }
            body.reserve(body.len().min(length - body.len()));
        }
        if within(patience, limited.read_buf(&mut body)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((body.freeze(), share))
}

async fn take(budget: &Arc<Semaphore>, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
    let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
    Arc::clone(budget).acquire_many_owned(units).await.map_err(io::Error::other)
}

async fn within<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_body_takes_its_share_when_it_arrives_and_gives_up_when_it_does_not() {
        let budget = Arc::new(Semaphore::new(1_000));
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        client.write_all(&[7; 100_000]).await.unwrap();
        let (body, share) = read_body(&mut server, 100_000, &budget, Duration::from_secs(60)).await.unwrap();
        assert_eq!((body.len(), share.num_permits()), (100_000, 64 + 34));
        drop(share);
        // Nothing follows.
        let silent = read_body(&mut server, 100 << 20, &budget, Duration::from_millis(10)).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(budget.available_permits(), 1_000);
    }
}
