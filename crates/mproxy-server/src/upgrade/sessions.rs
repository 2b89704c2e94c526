//! Sessions over the channel: the old process offers them, a few at a time, the new one says which of these it could go on with,
//! and the old one says of all that were offered which it does. Until then they are the old one's, however far the new one has
//! come; from then on they are the new one's. What becomes of either process in between, no session is in both.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::message::Message;

/// Sessions that are offered at a time at most.
pub(crate) const AT_ONCE: usize = 64;

/// Bytes of them after which no further one is offered with them.
pub(crate) const BYTES_AT_ONCE: usize = 1 << 20;

/// How long the new process may take for as many. They stand still meanwhile.
const RECEIVED_WITHIN: Duration = Duration::from_secs(2);

/// One session: its bytes, and its sockets to the client and to the broker.
#[derive(Debug)]
pub(crate) struct SessionParcel {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sockets: [OwnedFd; 2],
}

/// What became of the sessions of the old process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandoverReport {
    pub(crate) handed_over: u64,
    /// Those that stay with it, by the reason.
    pub(crate) stayed: BTreeMap<String, u64>,
}

/// The old process: what it has to say of sessions.
#[derive(Debug)]
pub(crate) struct SessionChannel(pub(super) Channel);

impl SessionChannel {
    /// Offers these, which stand still. Gives for each why the new process does not take it.
    ///
    /// # Errors
    /// The new process is gone, or does not answer. None of them is its own.
    pub(crate) fn offer(&mut self, parcels: &[SessionParcel]) -> io::Result<Vec<Option<String>>> {
        let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let lengths = parcels.iter().map(|parcel| u32::try_from(parcel.bytes.len()).map_err(too_large));
        let message = Message::Sessions { lengths: lengths.collect::<io::Result<_>>()? };
        let bytes: Vec<_> = parcels.iter().map(|parcel| &*parcel.bytes).collect();
        let sockets: Vec<_> =
            parcels.iter().flat_map(|parcel| &parcel.sockets).map(|socket| socket.as_fd()).collect();
        self.0.send_before(&message, &bytes, &sockets)?;
        match self.0.receive(Instant::now() + RECEIVED_WITHIN)?.0 {
            Message::Received { refused } if refused.len() == parcels.len() => Ok(refused),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "another answer than to these sessions")),
        }
    }

    /// Says of those that were offered since this was last said which are the new process' own from now on, in their order.
    ///
    /// # Errors
    /// The new process is gone: none of them is.
    pub(crate) fn conclude(&mut self, keep: Vec<bool>) -> io::Result<()> {
        self.0.send(&Message::Concluded { keep }, &[])
    }

    /// No more come. If the new process is gone, it need not know.
    pub(crate) fn report(&mut self, report: &HandoverReport) {
        let HandoverReport { handed_over, stayed } = report.clone();
        let _ = self.0.send(&Message::HandedOver { handed_over, stayed }, &[]);
    }

    /// All is told of those that have gone over that was to be told before.
    pub(crate) fn told(&mut self) {
        let _ = self.0.send(&Message::EventsTold, &[]);
    }
}

/// The old process: who gives its sessions away.
pub(crate) trait SessionOfferer: Send {
    /// Offers all that can go. The last of them stand still until [`conclude`](Self::conclude).
    ///
    /// # Errors
    /// The new process is gone, or does not answer. All that were not said to be its own go on here.
    fn offer_all(&mut self, channel: &mut SessionChannel) -> io::Result<()>;
    /// Those that stand still are the new process' own.
    ///
    /// # Errors
    /// It is gone: they go on here.
    fn conclude(&mut self, channel: &mut SessionChannel) -> io::Result<()>;
    /// How many are the new process' own.
    fn handed_over(&self) -> u64;
}

/// The new process: who takes sessions.
pub(crate) trait SessionTaker: Send {
    /// Gives for each of these why it is not taken. Those that are wait for [`keep`](Self::keep).
    fn take(&mut self, parcels: Vec<SessionParcel>) -> Vec<Option<String>>;
    /// Which of those that were offered since this was last said are this process' own. The others are not, and their sockets are not touched.
    fn keep(&mut self, keep: &[bool]);
    /// No more come.
    fn finish(&mut self, report: &HandoverReport);
    /// From now on events may be told: of each session after those that the old process has told of it.
    fn tell(&mut self);
}

/// What the new process does with a message about sessions; any other is given back.
pub(super) fn take(
    channel: &mut Channel,
    taker: &mut dyn SessionTaker,
    (message, descriptors): (Message, Vec<OwnedFd>),
) -> io::Result<Option<Message>> {
    match message {
        Message::Sessions { lengths } => {
            let missing =
                || io::Error::new(io::ErrorKind::InvalidData, "not two descriptors for each session");
            if descriptors.len() != 2 * lengths.len() {
                return Err(missing());
            }
            let mut descriptors = descriptors.into_iter();
            let mut parcels = Vec::with_capacity(lengths.len());
            for length in lengths {
                let bytes = channel.receive_bytes(length as usize, Instant::now() + RECEIVED_WITHIN)?;
                let sockets = descriptors.next().zip(descriptors.next()).ok_or_else(missing)?;
                parcels.push(SessionParcel { bytes, sockets: sockets.into() });
            }
            channel.send(&Message::Received { refused: taker.take(parcels) }, &[])?;
        }
        Message::Concluded { keep } => taker.keep(&keep),
        Message::HandedOver { handed_over, stayed } => {
            taker.finish(&HandoverReport { handed_over, stayed });
        }
        Message::EventsTold => taker.tell(),
        other => return Ok(Some(other)),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    /// Takes all but those that say so.
    #[derive(Default)]
    struct Taking {
        waiting: Vec<Option<SessionParcel>>,
        kept: Vec<SessionParcel>,
        report: Option<HandoverReport>,
        tells: bool,
    }

    impl SessionTaker for Taking {
        fn take(&mut self, parcels: Vec<SessionParcel>) -> Vec<Option<String>> {
            let taken: Vec<_> = parcels.into_iter().map(|one| (one.bytes != b"no").then_some(one)).collect();
            let refused = taken.iter().map(|one| one.is_none().then(|| "full".to_owned())).collect();
            self.waiting.extend(taken);
            refused
        }

        fn keep(&mut self, keep: &[bool]) {
            let concluded = self.waiting.drain(..).zip(keep);
            self.kept.extend(concluded.filter_map(|(one, keep)| one.filter(|_| *keep)));
        }

        fn finish(&mut self, report: &HandoverReport) {
            self.report = Some(report.clone());
        }

        fn tell(&mut self) {
            self.tells = true;
        }
    }

    fn pair() -> (SessionChannel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (SessionChannel(Channel::new(one).unwrap()), Channel::new(other).unwrap())
    }

    /// A session of these bytes, and the other ends of its sockets.
    fn parcel(bytes: &[u8]) -> (SessionParcel, [UnixStream; 2]) {
        let [(near, client), (far, broker)] = std::array::from_fn(|_| UnixStream::pair().unwrap());
        (SessionParcel { bytes: bytes.to_vec(), sockets: [near.into(), far.into()] }, [client, broker])
    }

    /// Reads all that is said until the other side is gone.
    fn read_all(mut channel: Channel) -> Taking {
        let mut taking = Taking::default();
        while let Ok(said) = channel.receive(Instant::now() + Duration::from_secs(20)) {
            assert_eq!(take(&mut channel, &mut taking, said).unwrap(), None);
        }
        taking
    }

    #[test]
    fn those_that_are_taken_and_concluded_go_over_with_their_sockets() {
        let (mut old, new) = pair();
        let taking = thread::scope(|scope| {
            let new = scope.spawn(|| read_all(new));
            let large = vec![b'x'; 3 << 20];
            let (parcels, mut peers): (Vec<_>, Vec<_>) =
                [&b"one"[..], b"no", b"kept here", &large].map(parcel).into_iter().unzip();
            let mut refused = old.offer(&parcels[..2]).unwrap();
            refused.extend(old.offer(&parcels[2..]).unwrap());
            assert_eq!(refused, [None, Some("full".to_owned()), None, None]);
            old.conclude(vec![true, false, false, true]).unwrap();
            // The old process lets go of all, and two of them are open all the same.
            drop(parcels);
            old.report(&HandoverReport { handed_over: 2, stayed: [("full".to_owned(), 1)].into() });
            old.told();
            drop(old);
            let taking = new.join().unwrap();
            peers[3][0].write_all(b"hello").unwrap();
            let mut socket = UnixStream::from(taking.kept[1].sockets[0].try_clone().unwrap());
            let mut got = [0; 5];
            socket.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"hello");
            assert_eq!(peers[2][0].read(&mut got).unwrap(), 0, "nobody has it");
            taking
        });
        let kept: Vec<_> = taking.kept.iter().map(|one| one.bytes.len()).collect();
        assert_eq!((kept, taking.tells), (vec![3, 3 << 20], true));
        assert_eq!(taking.report.unwrap().stayed["full"], 1);
    }

    #[test]
    fn what_is_not_concluded_is_not_the_new_process_own() {
        let (mut old, new) = pair();
        let (parcel, _peers) = parcel(b"one");
        let taking = thread::scope(|scope| {
            let new = scope.spawn(|| read_all(new));
            assert_eq!(old.offer(&[parcel]).unwrap(), [None]);
            drop(old);
            new.join().unwrap()
        });
        assert!(taking.kept.is_empty() && taking.waiting.len() == 1);
    }

    #[test]
    fn a_process_that_dies_in_between_has_none_of_them() {
        let (mut old, mut new) = pair();
        let (parcel, _peers) = parcel(b"one");
        thread::scope(|scope| {
            scope.spawn(move || drop(new.receive(Instant::now() + Duration::from_secs(20))));
            let error = old.offer(&[parcel]).unwrap_err();
            assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset));
        });
        let concluded = old.conclude(vec![true]);
        assert_eq!(concluded.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
