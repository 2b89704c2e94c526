//! A cursor over one packet: each field is taken once, checked, and a fault knows where it stands.

use crate::error::{ErrorKind, Malformed};
use crate::types::{PacketId, PacketType};
use crate::{text, varint};

/// Reads fields from `at` up to the end of `bytes`, which begin with the packet's first byte.
#[derive(Clone, Copy)]
pub(crate) struct BodyReader<'a> {
    bytes: &'a [u8],
    at: usize,
    kind: PacketType,
}

impl<'a> BodyReader<'a> {
    #[inline]
    pub(crate) const fn new(kind: PacketType, bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, kind }
    }

    #[inline]
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// A fault at the field that comes next.
    #[cold]
    // Cold, as all faults: a good packet's way through the parsers stays free of the code that explains a bad one.
    pub(crate) fn fault(&self, kind: ErrorKind) -> Malformed {
        self.fault_at(kind, self.at)
    }

    #[cold]
    pub(crate) fn fault_at(&self, kind: ErrorKind, at: usize) -> Malformed {
        Malformed::new(kind, Some(self.kind), at)
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Everything that is left.
    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        // Never behind the end: `at` moves only by what was there to be taken.
        self.bytes.get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        match self.rest().get(..len) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => Err(self.fault(ErrorKind::Overrun)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        match self.rest().first_chunk::<N>() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.fault(ErrorKind::Overrun)),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, Malformed> {
        match varint::read(self.rest()) {
            Ok(Some((value, len))) => {
                self.at += usize::from(len);
                Ok(value)
            }
            Ok(None) => Err(self.fault(ErrorKind::Overrun)),
            Err(kind) => Err(self.fault(kind)),
        }
    }

    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Malformed> {
        let at = self.at;
        PacketId::new(self.u16()?).ok_or_else(|| self.fault_at(ErrorKind::PacketIdZero, at))
    }

    /// Bytes behind a two-byte length.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// Checked text behind a two-byte length.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Malformed> {
        let bytes = self.binary()?;
        // The reader stands behind the text by now; the fault is told where the bad byte is, for a log to be of use.
        text::check(bytes).map_err(|(kind, at)| self.fault_at(kind, self.at - bytes.len() + at))
    }

    /// A cursor over the next `len` bytes alone; this one goes on behind them.
    #[inline]
    pub(crate) fn section(&mut self, len: usize) -> Result<Self, Malformed> {
        let at = self.at;
        self.take(len)?;
        // It ends where `take` has brought this one.
        Ok(Self { bytes: self.bytes.get(..self.at).unwrap_or(self.bytes), at, kind: self.kind })
    }

    /// Nothing may be left.
    #[inline]
    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.is_empty() { Ok(()) } else { Err(self.fault(ErrorKind::TrailingBytes)) }
    }
}
