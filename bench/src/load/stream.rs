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
    pub(crate) fn open(Target { address, transport, .. }: Target) -> anyhow::Result<Self> {
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Arc;
    use std::thread;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::load::Login;
    use crate::transport::BenchTransport;

    trait Wire: io::Read + io::Write {}
    impl<T: io::Read + io::Write> Wire for T {}

    /// Takes one client over this transport, and gives back so many bytes in two frames.
    fn echo(tcp: TcpStream, transport: BenchTransport, len: usize) {
        let mut wire: Box<dyn Wire> = if transport.is_tls() {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("its key");
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.into()], key)
                .expect("a configuration");
            Box::new(StreamOwned::new(ServerConnection::new(Arc::new(config)).expect("TLS"), tcp))
        } else {
            Box::new(tcp)
        };
        let mut bytes = vec![0; 4 << 10];
        let mut frames = None;
        if transport.is_websocket() {
            let came = wire.read(&mut bytes).expect("a request");
            let answer = websocket::answer(&bytes[..came]).expect("well formed").expect("in one piece");
            wire.write_all(&answer).expect("it listens");
            frames = Some(Unframe::default());
        }
        let mut whole = Vec::new();
        while whole.len() < len {
            let came = wire.read(&mut bytes).expect("more");
            let plain =
                frames.as_mut().map_or(came, |frames| frames.take(&mut bytes[..came]).expect("frames"));
            whole.extend_from_slice(&bytes[..plain]);
        }
        for part in whole.chunks(len.div_ceil(2)) {
            let mut sent = Vec::new();
            if frames.is_some() {
                websocket::head(&mut sent, part.len(), None);
            }
            sent.extend_from_slice(part);
            wire.write_all(&sent).expect("it listens");
        }
    }

    #[test]
    fn bytes_come_back_over_every_transport() {
        let sent: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        for transport in BenchTransport::ALL {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            let address = listener.local_addr().expect("an address");
            let len = sent.len();
            let server = thread::spawn(move || echo(listener.accept().expect("a client").0, transport, len));
            let mut stream =
                Stream::open(Target { address, transport, login: Login::Nothing }).expect("it is let in");
            stream.write_all(&sent[..3]).expect("it listens");
            stream.write_all(&sent[3..]).expect("it listens");
            let mut came = vec![0; len];
            stream.read_exact(&mut came).expect("all of it");
            assert!(came == sent, "over {}", transport.name());
            server.join().expect("it had nothing to complain about");
        }
    }
}
