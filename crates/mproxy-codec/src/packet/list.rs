//! What SUBSCRIBE and UNSUBSCRIBE share: topic filters, each with what belongs to it, up to the packet's end.

use crate::encode::{Body, EncodeError};
use crate::error::{ErrorKind, Malformed};
use crate::property::PropertyEdit;
use crate::read::BodyReader;
use crate::topic::{TopicFilter, check_filter_of};
use crate::types::{PacketId, Version};

/// Checks each entry with `check`: their bytes, and how many they are.
pub(super) fn read<'a>(
    reader: &mut BodyReader<'a>,
    check: impl Fn(&mut BodyReader<'a>) -> Result<(), Malformed>,
) -> Result<(&'a [u8], usize), Malformed> {
    let entries = reader.rest();
    // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
    if entries.is_empty() {
        return Err(reader.fault(ErrorKind::NoTopicFilter));
    }
    let mut count = 0;
    while !reader.is_empty() {
        check(reader)?;
        count += 1;
    }
    Ok((entries, count))
}

/// Takes a topic filter off the reader.
pub(super) fn read_filter<'a>(
    reader: &mut BodyReader<'a>,
    version: Version,
) -> Result<TopicFilter<'a>, Malformed> {
    // A fault in the text is told where it stands, which is behind the two bytes of its length.
    let at = reader.at() + 2;
    let filter = reader.text()?;
    check_filter_of(version, filter).map_err(|error| reader.fault_at(error.into(), at + error.at()))?;
    Ok(TopicFilter::assume_checked(filter))
}

/// What follows the fixed header: `write` appends each entry. In 3.x the properties are left out.
///
/// # Errors
/// There is no entry.
pub(super) fn body<I>(
    version: Version,
    packet_id: PacketId,
    properties: &PropertyEdit<'_>,
    entries: I,
    write: impl Fn(I::Item, &mut Body<'_>) -> Result<(), EncodeError>,
) -> Result<impl Fn(&mut Body<'_>) -> Result<(), EncodeError>, EncodeError>
where
    I: IntoIterator<IntoIter: Clone>,
{
    let entries = entries.into_iter();
    // Without an entry the packet is an error [MQTT-3.8.3-2]: better here than at the broker, under the client's name.
    if entries.clone().next().is_none() {
        return Err(EncodeError::Impossible { what: "SUBSCRIBE and UNSUBSCRIBE need a topic filter" });
    }
    Ok(move |body: &mut Body<'_>| {
        body.u16(packet_id.get());
        super::write_properties(body, version, properties)?;
        entries.clone().try_for_each(|entry| write(entry, body))
    })
}
