//! A client's connection over whatever transport, blocking; and what its bytes wear on the wire, for those who have
//! the socket elsewhere.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::Context as _;
use rustls::ClientConnection;

use super::{PATIENCE, Target, tls};
use crate::websocket::{self, Unframe};

#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) tcp: TcpStream,
    pub(super) coat: Coat,
    /// Came, and was not read yet.
    pub(super) plain: Vec<u8>,
}

impl Stream {
    /// With all handshakes but that of MQTT.
    pub(crate) fn open(Target { address, transport }: Target) -> anyhow::Result<Self> {
        let mut tcp = TcpStream::connect_timeout(&address, PATIENCE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let mut coat = Coat::default();
        if transport.is_tls() {
            let mut tls = tls::connection()?;
            while tls.is_handshaking() {
                tls.complete_io(&mut tcp).context("TLS")?;
            }
            coat.tls = Some(Box::new(tls));
        }
        let mut stream = Self { tcp, coat, plain: Vec::new() };
        if transport.is_websocket() {
            stream.write_all(websocket::REQUEST)?;
            while !websocket::is_answered(&stream.plain)? {
                stream.fill()?;
            }
            stream.plain.clear();
            stream.coat.frames = Some(Unframe::default());
        }
        Ok(stream)
    }

    /// In one write, and over WebSocket in one frame.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tcp.write_all(self.coat.wrap(bytes)?)
    }

    pub(crate) fn read_exact(&mut self, to: &mut [u8]) -> anyhow::Result<()> {
        while self.plain.len() < to.len() {
            self.fill()?;
        }
        to.copy_from_slice(&self.plain[..to.len()]);
        self.plain.drain(..to.len());
        Ok(())
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        let mut wire = [0; 4 << 10];
        let came = self.tcp.read(&mut wire)?;
        if came == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.coat.unwrap(&wire[..came], &mut self.plain)
    }
}

/// What a connection's bytes wear on the wire: nothing, TLS, frames, or frames in TLS.
#[derive(Debug, Default)]
pub(super) struct Coat {
    tls: Option<Box<ClientConnection>>,
    frames: Option<Unframe>,
    /// Kept for their room.
    framed: Vec<u8>,
    sealed: Vec<u8>,
}

impl Coat {
    /// These bytes as they go over the wire.
    pub(super) fn wrap<'a>(&'a mut self, plain: &'a [u8]) -> io::Result<&'a [u8]> {
        let mut bytes = plain;
        if self.frames.is_some() {
            self.framed.clear();
            websocket::head(&mut self.framed, plain.len(), Some(websocket::MASK));
            let head = self.framed.len();
            self.framed.extend_from_slice(plain);
            websocket::mask(&mut self.framed[head..], websocket::MASK);
            bytes = &self.framed;
        }
        if let Some(tls) = &mut self.tls {
            self.sealed.clear();
            tls.writer().write_all(bytes)?;
            while tls.wants_write() {
                tls.write_tls(&mut self.sealed)?;
            }
            bytes = &self.sealed;
        }
        Ok(bytes)
    }

    /// Appends what these bytes of the wire stand for.
    pub(super) fn unwrap(&mut self, mut wire: &[u8], to: &mut Vec<u8>) -> anyhow::Result<()> {
        let from = to.len();
        match &mut self.tls {
            None => to.extend_from_slice(wire),
            Some(tls) => {
                while !wire.is_empty() {
                    tls.read_tls(&mut wire)?;
                    let came = tls.process_new_packets()?.plaintext_bytes_to_read();
                    let at = to.len();
                    to.resize(at + came, 0);
                    tls.reader().read_exact(&mut to[at..])?;
                }
            }
        }
        if let Some(frames) = &mut self.frames {
            let came = frames.take(&mut to[from..])?;
            to.truncate(from + came);
        }
        Ok(())
    }
}
