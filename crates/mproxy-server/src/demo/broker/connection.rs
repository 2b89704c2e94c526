//! A connection to the broker of the demo: bytes to packets for the hub, and what the hub has for it to bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mproxy_codec::{Frame, Packet, PacketType, ReasonCode, Sender, Version};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::hub::{DemoEnd, DemoHub, LARGEST_PACKET};
use super::session::{DemoMail, Mailbox};

/// How long a connection may take until its CONNECT.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Until one of both sides has enough.
pub(super) async fn serve(stream: TcpStream, hub: Arc<Mutex<DemoHub>>) {
    // Else an answer waits for the acknowledgement of what was sent before it.
    let _ = stream.set_nodelay(true);
    let (reading, writing) = stream.into_split();
    let (mailbox, mail) = Mailbox::new();
    tokio::select! {
        () = receive(reading, &hub, mailbox) => {}
        // It is no worse than a client that has gone.
        _ = send(writing, mail) => {}
    }
}

/// Writes what comes, until a last word.
async fn send(mut writing: OwnedWriteHalf, mut mail: mpsc::UnboundedReceiver<DemoMail>) -> io::Result<()> {
    while let Some(DemoMail { bytes, room, last }) = mail.recv().await {
        writing.write_all(&bytes).await?;
        drop(room);
        if last {
            break;
        }
    }
    writing.shutdown().await
}

/// Takes the session off the hub at the end, however that comes: this future may be dropped anywhere.
struct AttachedSession<'a> {
    hub: &'a Mutex<DemoHub>,
    number: u64,
    end: DemoEnd,
}

impl Drop for AttachedSession<'_> {
    fn drop(&mut self) {
        self.hub.lock().detach(self.number, self.end);
    }
}

async fn receive(mut reading: OwnedReadHalf, hub: &Mutex<DemoHub>, mailbox: Mailbox) {
    let mut buffer = BytesMut::new();
    let first = timeout(CONNECT_WITHIN, packet(&mut reading, &mut buffer, None));
    let Ok(Some(first)) = first.await else { return };
    let Some((version, keep_alive, number)) = attach(hub, &first, &mailbox) else {
        // Behind what it was told.
        mailbox.close();
        return wait(reading).await;
    };
    let mut attached = AttachedSession { hub, number, end: DemoEnd::Vanished };
    // [MQTT-3.1.2-22]: one and a half times as long.
    let patience = match keep_alive {
        0 => Duration::MAX,
        seconds => Duration::from_millis(u64::from(seconds) * 1500),
    };
    loop {
        let Ok(read) = timeout(patience, packet(&mut reading, &mut buffer, Some(version))).await else {
            mailbox.end(version, ReasonCode::KEEP_ALIVE_TIMEOUT);
            break;
        };
        let Some(bytes) = read else { return };
        let said = match parse(&bytes, version) {
            Some(packet) => hub.lock().receive(number, &packet),
            None => Err(DemoEnd::Refused(ReasonCode::MALFORMED_PACKET)),
        };
        match said {
            Ok(()) => {}
            Err(DemoEnd::Refused(reason)) => {
                mailbox.end(version, reason);
                break;
            }
            Err(end) => {
                attached.end = end;
                return;
            }
        }
    }
    // The will is due now, and not when the client has read why.
    drop(attached);
    wait(reading).await;
}

/// Until the other side has closed, or what is to be written has been.
async fn wait(mut reading: OwnedReadHalf) {
    let mut rest = [0; 1024];
    while reading.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

/// Version, keep alive and number of a client that is in; `None`: it has been told why it is not.
fn attach(hub: &Mutex<DemoHub>, first: &[u8], mailbox: &Mailbox) -> Option<(Version, u16, u64)> {
    let Some(Packet::Connect(connect)) = parse(first, Version::V5) else { return None };
    let number = hub.lock().attach(&connect, mailbox.clone())?;
    Some((connect.version, connect.keep_alive, number))
}

fn parse(bytes: &[u8], version: Version) -> Option<Packet<'_>> {
    // CONNECT says its version itself, and a second one is judged as what it is.
    let first = bytes.first().is_some_and(|first| first >> 4 == PacketType::Connect as u8);
    let known = (!first).then_some(version);
    let (frame, _) = Frame::split(bytes, Sender::Client, known).ok()??;
    Packet::parse(&frame, Sender::Client, version).ok()
}

/// The bytes of the next packet; `None`: none comes any more.
///
/// Cancel safe: what was read stays in the buffer.
async fn packet(
    reading: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
    version: Option<Version>,
) -> Option<Bytes> {
    loop {
        if let Some(header) = mproxy_codec::FixedHeader::parse(buffer, Sender::Client, version).ok()? {
            if header.total() > LARGEST_PACKET {
                return None;
            }
            if buffer.len() >= header.total() {
                return Some(buffer.split_to(header.total()).freeze());
            }
            buffer.reserve(header.total() - buffer.len());
        }
        if reading.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}
