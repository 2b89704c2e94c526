//! Which filters a client has subscribed to under its own names, and whether somebody was asked about each: what has to end
//! when a grant is replaced, and what deliveries are held against then.

use std::collections::BTreeMap;
use std::mem;

use mproxy_codec::types::QoS;
use serde::{Deserialize, Serialize};

/// So many filters, of so many bytes together, are remembered. What is subscribed to beyond counts as unknown.
const MOST: usize = 4096;
const MOST_BYTES: usize = 256 << 10;

/// More than so many, or of more bytes, are not kept in one piece.
const FEW: usize = 16;
const FEW_BYTES: usize = 1 << 10;

/// What a filter in a map costs beside its bytes.
const ENTRY: usize = 96;

/// Who allowed a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AllowedBy {
    /// The rules of then: a file's, or those of the client's grant.
    Rules,
    /// Somebody who was asked about it, or nobody objected.
    Answer,
}

/// What is known of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownFilter {
    /// Who allowed it.
    pub(super) by: AllowedBy,
    /// The QoS that the broker has granted; `None` as long as it has not.
    pub(super) granted: Option<QoS>,
}

impl KnownFilter {
    /// In one byte.
    const fn pack(self) -> u8 {
        let granted = match self.granted {
            None => 0,
            Some(qos) => qos as u8 + 1,
        };
        (granted << 1) | matches!(self.by, AllowedBy::Answer) as u8
    }

    fn unpack(byte: u8) -> Self {
        let by = if byte & 1 == 0 { AllowedBy::Rules } else { AllowedBy::Answer };
        Self { by, granted: (byte >> 1).checked_sub(1).and_then(QoS::from_bits) }
    }
}

/// Filters, each once. Most clients have a few, which take little more than their bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum KnownFilters {
    /// One after the other: a [`KnownFilter`] in a byte, the length in two bytes, the text.
    Few(Box<[u8]>),
    /// Where there are more.
    Many(Box<ManyFilters>),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ManyFilters {
    filters: BTreeMap<Box<str>, KnownFilter>,
    bytes: usize,
    /// There are some that are not remembered.
    incomplete: bool,
}

impl Default for KnownFilters {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl KnownFilters {
    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, AllowedBy)> {
        self.entries().map(|(filter, known)| (filter, known.by))
    }

    /// All of them, with all that is known.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, KnownFilter)> {
        let (few, many) = match self {
            Self::Few(bytes) => (Some(FewFilters(bytes)), None),
            Self::Many(many) => (None, Some(many.filters.iter().map(|(name, known)| (&**name, *known)))),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(bytes) => FewFilters(bytes).count(),
            Self::Many(many) => many.filters.len(),
        }
    }

    /// Whether there are some that are not remembered.
    pub(super) fn is_incomplete(&self) -> bool {
        matches!(self, Self::Many(many) if many.incomplete)
    }

    /// Bytes that it holds.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Few(bytes) => bytes.len(),
            Self::Many(many) => many.bytes + many.filters.len() * ENTRY,
        }
    }

    pub(super) fn insert(&mut self, filter: &str, by: AllowedBy) {
        // Who allowed it may be another this time.
        self.remove(filter);
        if let Self::Few(bytes) = self {
            let grown = bytes.len() + 3 + filter.len();
            if grown <= FEW_BYTES && FewFilters(bytes).count() < FEW {
                let mut longer = Vec::with_capacity(grown);
                longer.extend_from_slice(bytes);
                longer.push(KnownFilter { by, granted: None }.pack());
                // A filter in a packet has a length of two bytes, too.
                longer.extend_from_slice(&(filter.len() as u16).to_be_bytes());
                longer.extend_from_slice(filter.as_bytes());
                *bytes = longer.into();
                return;
            }
        }
        let Some(many) = self.many() else { return };
        if many.filters.len() < MOST && many.bytes + filter.len() <= MOST_BYTES {
            many.bytes += filter.len();
            many.filters.insert(filter.into(), KnownFilter { by, granted: None });
        } else {
            // Once some are missing, nothing that is there proves that no other filter explains a delivery.
            many.incomplete = true;
        }
    }

    /// The broker has granted this one, if it is among them.
    pub(super) fn grant(&mut self, filter: &str, qos: QoS) {
        match self {
            Self::Few(bytes) => {
                let mut at = 0;
                for (name, known) in FewFilters(bytes) {
                    if name == filter {
                        bytes[at] = KnownFilter { granted: Some(qos), ..known }.pack();
                        return;
                    }
                    at += 3 + name.len();
                }
            }
            Self::Many(many) => {
                if let Some(known) = many.filters.get_mut(filter) {
                    known.granted = Some(qos);
                }
            }
        }
    }

    /// Whether it was among them.
    pub(super) fn remove(&mut self, filter: &str) -> bool {
        match self {
            Self::Few(bytes) => {
                let mut at = 0;
                for (name, _) in FewFilters(bytes) {
                    let end = at + 3 + name.len();
                    if name == filter {
                        *bytes = [&bytes[..at], &bytes[end..]].concat().into();
                        return true;
                    }
                    at = end;
                }
                false
            }
            Self::Many(many) => {
                let found = many.filters.remove(filter).is_some();
                many.bytes -= if found { filter.len() } else { 0 };
                found
            }
        }
    }

    fn many(&mut self) -> Option<&mut ManyFilters> {
        if let Self::Few(bytes) = self {
            let bytes = mem::take(bytes);
            let filters: BTreeMap<Box<str>, _> =
                FewFilters(&bytes).map(|(name, known)| (name.into(), known)).collect();
            let bytes = filters.keys().map(|name| name.len()).sum();
            *self = Self::Many(Box::new(ManyFilters { filters, bytes, incomplete: false }));
        }
        match self {
            Self::Many(many) => Some(many),
            Self::Few(_) => None,
        }
    }
}

/// Those that are kept in one piece, from the first on.
struct FewFilters<'a>(&'a [u8]);

impl<'a> Iterator for FewFilters<'a> {
    type Item = (&'a str, KnownFilter);

    fn next(&mut self) -> Option<Self::Item> {
        let ([known, high, low], rest) = self.0.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])))?;
        self.0 = rest;
        Some((str::from_utf8(name).ok()?, KnownFilter::unpack(*known)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_found_once() {
        let mut known = KnownFilters::default();
        for filter in ["b", "a", "b", "c"] {
            known.insert(filter, AllowedBy::Rules);
        }
        assert!(known.remove("b") && !known.remove("b") && !known.remove("d"));
        assert_eq!(known.len(), 2);
        known.insert("a", AllowedBy::Answer);
        assert_eq!(known.iter().collect::<Vec<_>>(), [("c", AllowedBy::Rules), ("a", AllowedBy::Answer)]);
        for n in 0..2 * MOST {
            assert_eq!(known.is_incomplete(), known.len() == MOST && n > MOST - 2, "{n}");
            known.insert(&n.to_string(), AllowedBy::Rules);
        }
        assert_eq!(known.len(), MOST);
        assert!(known.remove("a") && known.iter().all(|(name, _)| name != "a"));
    }

    #[test]
    fn what_the_broker_grants_is_remembered_in_the_same_bytes() {
        let mut known = KnownFilters::default();
        let granted = |known: &KnownFilters, name: &str| {
            known.entries().find(|(filter, _)| *filter == name).and_then(|(_, known)| known.granted)
        };
        for n in 0..2 * FEW {
            let name = n.to_string();
            known.insert(&name, AllowedBy::Answer);
            let weight = known.weight();
            assert_eq!(granted(&known, &name), None);
            known.grant(&name, QoS::ExactlyOnce);
            assert_eq!((granted(&known, &name), known.weight()), (Some(QoS::ExactlyOnce), weight));
            known.grant("another", QoS::AtMostOnce);
        }
        assert!(known.iter().all(|(_, by)| by == AllowedBy::Answer));
        // Asked for once more, it is granted once more.
        known.insert("0", AllowedBy::Rules);
        assert_eq!(granted(&known, "0"), None);
        known.grant("0", QoS::AtMostOnce);
        assert_eq!(granted(&known, "0"), Some(QoS::AtMostOnce));
    }

    #[test]
    fn few_take_little_more_than_their_bytes_and_many_have_a_bound() {
        let mut known = KnownFilters::default();
        known.insert("devices/17/commands", AllowedBy::Rules);
        assert!(known.weight() <= 24, "{}", known.weight());
        let long = "x".repeat(60_000);
        for n in 0..8 {
            known.insert(&format!("{n}{long}"), AllowedBy::Rules);
        }
        assert!(known.is_incomplete() && known.weight() <= MOST_BYTES + 8 * ENTRY);
        assert!(size_of::<KnownFilters>() <= 24);
    }
}
