//! A few bytes kept in place: heads and control frames while they come in, and while they go out.

/// Up to `N` bytes, and `N` is at most 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Short<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

impl<const N: usize> Short<N> {
    pub(crate) const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// Takes as many of these as there is room for; how many.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> usize {
        const { assert!(N <= u8::MAX as usize) };
        let room = self.bytes.get_mut(usize::from(self.len)..).unwrap_or_default();
        let mut taken = 0;
        for (to, from) in room.iter_mut().zip(bytes) {
            *to = *from;
            self.len += 1;
            taken += 1;
        }
        taken
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&self.bytes)
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..usize::from(self.len)).unwrap_or_default()
    }
}

/// The same on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing<const N: usize> {
    bytes: Short<N>,
    wrote: u8,
}

impl<const N: usize> Outgoing<N> {
    pub(crate) const EMPTY: Self = Self::new(Short::EMPTY);

    pub(crate) const fn new(bytes: Short<N>) -> Self {
        Self { bytes, wrote: 0 }
    }

    /// What is still to be written.
    pub(crate) fn rest(&self) -> &[u8] {
        self.bytes.as_slice().get(usize::from(self.wrote)..).unwrap_or_default()
    }

    /// So many more bytes were written.
    pub(crate) fn advance(&mut self, wrote: usize) {
        let all = usize::from(self.wrote).saturating_add(wrote);
        self.wrote = u8::try_from(all).map_or(self.bytes.len, |all| all.min(self.bytes.len));
    }

    /// Whether some of it was written.
    pub(crate) fn has_begun(&self) -> bool {
        self.wrote > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left() {
        let mut short = Short::<4>::EMPTY;
        assert_eq!((short.push(b"abc"), short.push(b"de"), short.push(b"f")), (3, 1, 0));
        assert_eq!(short.as_slice(), b"abcd");
        short.as_mut_slice()[0] = b'x';
        assert_eq!(short.as_slice(), b"xbcd");
        short.clear();
        assert_eq!(short.as_slice(), b"");
    }

    #[test]
    fn what_is_written_leaves_in_order() {
        let mut short = Short::<4>::EMPTY;
        short.push(b"abc");
        let mut outgoing = Outgoing::new(short);
        assert!(!outgoing.has_begun());
        outgoing.advance(2);
        assert_eq!((outgoing.rest(), outgoing.has_begun()), (&b"c"[..], true));
        outgoing.advance(1000);
        assert_eq!(outgoing.rest(), b"");
    }
}
