//! A line of the table as a scene: the bytes that are seen when it is played. The packet has id 1; a SUBSCRIBE names
//! three filters with QoS 1, 2 and 0, of which the middle one or all are refused; the code is 0x87.

use super::{RefusalRow, RefusalView, RefusedPacket, ToClient};
use crate::wire::{self, Version};

impl RefusalRow {
    /// What is seen in this version.
    pub fn seen(&self, version: Version) -> RefusalView {
        if version == Version::V5 { self.v5 } else { self.v3 }
    }

    /// The packet that the client gets; empty where it gets none.
    pub fn client_gets(&self, version: Version) -> Vec<u8> {
        let v5 = version == Version::V5;
        let no = if v5 { 0x87 } else { 0x80 };
        match self.seen(version).client {
            ToClient::Nothing => Vec::new(),
            ToClient::Connack => wire::connack(version, false, if v5 { 0x87 } else { 5 }, &[]),
            ToClient::Refusal => wire::packet(self.packet.acknowledged_by(), &[0, 1, 0x87]),
            ToClient::Taken => wire::packet(self.packet.acknowledged_by(), &[0, 1]),
            ToClient::Suback if self.packet == RefusedPacket::AllFilters => {
                wire::suback(version, 1, &[no; 3])
            }
            ToClient::Suback => wire::suback(version, 1, &[1, no, 0]),
            ToClient::Goodbye => wire::packet(0xE0, &[0x87]),
        }
    }
}

impl RefusedPacket {
    /// The first byte of the first acknowledgement of such a PUBLISH.
    pub fn acknowledged_by(self) -> u8 {
        if matches!(self, Self::Publish(2) | Self::Delivery(2)) { 0x50 } else { 0x40 }
    }
}
