//! Bytes on the connection: frames, request headers, which versions are spoken, and a check of every length in a request
//! before the decoder sees it. Knows nothing of what requests mean.

pub(crate) mod frame;
pub(crate) mod header;
pub(crate) mod shape;
pub(crate) mod shapes;
pub(crate) mod versions;
