//! Walks a request's bytes along its shape before the decoder allocates for them. The decoder trusts a count and reserves
//! room for it, and a failed reservation ends the process; after this walk every count and length is known to be real.

use bytes::{Buf, Bytes};

/// The shape of one field of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// So many bytes, whatever they mean.
    Fixed(usize),
    /// Text, or nothing.
    Text,
    /// Opaque bytes, or nothing.
    Blob,
    /// A counted list of structures.
    List(&'static [Field]),
    /// A counted list of numbers of so many bytes, without tagged fields of their own.
    Numbers(usize),
    /// A counted list of texts, without tagged fields of their own.
    Texts,
}

/// A field and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) shape: Shape,
    pub(crate) since: i16,
    pub(crate) until: i16,
}

/// A request that is longer, shorter or more numerous than it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request's lengths do not add up")]
pub(crate) struct BadShape;

/// One element takes some hundreds of bytes when it is decoded and answered. Ten thousand topics of one partition each,
/// the most there can be here, are twenty thousand.
const MAX_ELEMENTS: usize = 50_000;

struct Walk {
    rest: Bytes,
    version: i16,
    flexible: bool,
    elements_left: usize,
}

/// Checks a request's body, all of it.
pub(crate) fn check(body: &Bytes, fields: &[Field], version: i16, flexible: bool) -> Result<(), BadShape> {
    let mut walk = Walk { rest: body.clone(), version, flexible, elements_left: MAX_ELEMENTS };
    walk.structure(fields)?;
    // Trailing bytes are tolerated, as the decoder tolerates them.
    Ok(())
}

/// Reads an unsigned variable-length number of at most 32 bits.
pub(crate) fn varint(bytes: &mut Bytes) -> Option<u32> {
    let mut value = 0;
    for n in 0..5 {
        let byte = bytes.try_get_u8().ok()?;
        value |= u32::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Walk {
    fn structure(&mut self, fields: &[Field]) -> Result<(), BadShape> {
        let version = self.version;
        for field in fields.iter().filter(|f| (f.since..=f.until).contains(&version)) {
            match field.shape {
                Shape::Fixed(size) => self.skip(size)?,
                Shape::Text => self.text()?,
                Shape::Blob => self.blob()?,
                Shape::List(inner) => {
                    for _ in 0..self.count()? {
                        self.structure(inner)?;
                    }
                }
                Shape::Numbers(size) => {
                    let count = self.count()?;
                    self.skip(count * size)?;
                }
                Shape::Texts => {
                    for _ in 0..self.count()? {
                        self.text()?;
                    }
                }
            }
        }
        if self.flexible { self.tagged() } else { Ok(()) }
    }

    fn skip(&mut self, size: usize) -> Result<(), BadShape> {
        if size > self.rest.len() {
            return Err(BadShape);
        }
        self.rest.advance(size);
        Ok(())
    }

    fn varint(&mut self) -> Result<usize, BadShape> {
        varint(&mut self.rest).map(|n| n as usize).ok_or(BadShape)
    }

    fn text(&mut self) -> Result<(), BadShape> {
        let length = match self.flexible {
            true => self.varint()?.saturating_sub(1),
            false => usize::try_from(self.rest.try_get_i16().map_err(|_| BadShape)?).unwrap_or(0),
        };
        self.skip(length)
    }

    fn blob(&mut self) -> Result<(), BadShape> {
        let length = self.length()?;
        self.skip(length)
    }

    fn length(&mut self) -> Result<usize, BadShape> {
        Ok(match self.flexible {
            true => self.varint()?.saturating_sub(1),
            false => usize::try_from(self.rest.try_get_i32().map_err(|_| BadShape)?).unwrap_or(0),
        })
    }

    fn count(&mut self) -> Result<usize, BadShape> {
        let count = self.length()?;
        self.spend(count)?;
        Ok(count)
    }

    /// Every element takes at least one byte, so more of them than bytes is a lie.
    fn spend(&mut self, elements: usize) -> Result<(), BadShape> {
        if elements > self.rest.len() {
            return Err(BadShape);
        }
        self.elements_left = self.elements_left.checked_sub(elements).ok_or(BadShape)?;
        Ok(())
    }

    fn tagged(&mut self) -> Result<(), BadShape> {
        let count = self.varint()?;
        self.spend(count)?;
        for _ in 0..count {
            self.varint()?;
            let size = self.varint()?;
            self.skip(size)?;
        }
        Ok(())
    }
}
