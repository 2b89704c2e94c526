//! How a game begins: a CONNECT whose questions fail for a while, a broker that is away for a while, a client that may not
//! wait for it. What is tried again is tried within its time, and never once the broker has the CONNECT.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mproxy_codec::packet::Connack;
use mproxy_codec::{ReasonCode, Version};
use mproxy_core::fault::{Fault, Unreachable};
use mproxy_core::grant::GrantLimits;
use mproxy_core::policy::{Decision, Failure, FailureKind, Hook, Overload, Refusal};
use mproxy_core::session::OnUnavailable;
use mproxy_core::{Limits, Side};

use super::super::fate::undecided_connect;
use super::super::rng::Rng;
use super::super::stage::DialScript;
use super::super::verdict::Verdict;
use super::World;
use super::owing::admission;

/// What a dial has at least, whatever its admission has used up.
const DIAL_AT_LEAST: Duration = Duration::from_secs(1);

/// What stands between a CONNECT and its broker, and what has become of it.
#[derive(Debug)]
pub(super) struct Entrance {
    pub(super) on_unavailable: OnUnavailable,
    timeout: Duration,
    /// Dials that fail before one succeeds; `None`: all of them.
    failing_dials: Option<usize>,
    /// The dial that comes to that never comes to an end.
    hangs: bool,
    /// Dials of which it is told what became of them.
    dialled: usize,
    /// Somebody said a clear no, or what cannot be taken for a yes.
    refuses: bool,
    /// Somebody has said a clear word: whether it was a yes.
    settled: Option<bool>,
    /// When the CONNECT was whole.
    since: Option<Instant>,
    /// Since the broker has it: dials and questions until then.
    introduced: Option<(usize, usize)>,
    /// What the client got: the code of each CONNACK.
    connacks: Vec<u8>,
}

/// What trouble there is in a game: none in most of them.
impl Entrance {
    pub(super) fn draw(rng: &mut Rng, limits: &mut Limits) -> Self {
        let troubled = rng.one_in(3);
        if troubled {
            limits.admission_timeout = Duration::from_millis(200 + rng.below(5_000) as u64);
        }
        Self {
            on_unavailable: *rng.pick(&[OnUnavailable::Close, OnUnavailable::Connack]),
            timeout: limits.admission_timeout,
            failing_dials: match rng.below(8) {
                _ if !troubled => Some(0),
                0 => None,
                n => Some(n - 1),
            },
            hangs: troubled && rng.one_in(8),
            dialled: 0,
            refuses: false,
            settled: None,
            since: None,
            introduced: None,
            connacks: Vec::new(),
        }
    }

    /// What is said of the CONNECT, question by question; the last for good. `on_error`: what a failed answer means.
    pub(super) fn answers(
        &mut self,
        rng: &mut Rng,
        prefix: &'static str,
        limits: GrantLimits,
    ) -> VecDeque<Verdict> {
        let mut answers = VecDeque::new();
        for _ in 0..if rng.one_in(6) { 1 + rng.below(5) } else { 0 } {
            answers.push_back(trouble(rng));
        }
        answers.push_back(match rng.below(60) {
            0..2 => Verdict::refuse(Hook::Connect, Refusal::default()),
            2..5 => undecided_connect(rng),
            _ if prefix.is_empty() && limits == GrantLimits::default() => Verdict::allow(Hook::Connect),
            _ => admission(prefix, limits),
        });
        answers
    }

    /// Whether anybody who is asked lets the client in in the end, and whether he does with the grant.
    fn admits(&mut self, answers: &VecDeque<Verdict>, open: bool) -> bool {
        let last = answers.iter().find(|answer| !passes(answer, open));
        let granted = matches!(last, Some(Verdict::Connect(Decision::Allow(_))));
        self.refuses = !granted && last.is_some_and(|last| !matches!(last, Verdict::Failed(_)));
        granted
    }

    /// This was said of the CONNECT, in time.
    pub(super) fn note_verdict(&mut self, verdict: &Verdict, open: bool) {
        if !passes(verdict, open) {
            self.settled = Some(matches!(verdict, Verdict::Connect(Decision::Allow(_)) | Verdict::Failed(_)));
        }
    }
}

/// Trouble that may pass.
fn trouble(rng: &mut Rng) -> Verdict {
    match rng.below(3) {
        0 => Verdict::Overloaded(Overload::new("sim", "too much")),
        1 => Verdict::Failed(Failure::new(FailureKind::Deadline, "too slow")),
        _ => Verdict::Failed(Failure::new(FailureKind::Unavailable, "gone")),
    }
}

/// Whether the question is put again after this. `open`: failed answers let in.
fn passes(verdict: &Verdict, open: bool) -> bool {
    match verdict {
        Verdict::Overloaded(_) => true,
        Verdict::Failed(_) => !open,
        _ => false,
    }
}

impl World {
    /// Draws what is said of the CONNECT.
    pub(super) fn prepare_entrance(&mut self) {
        let open = self.on_error.connect == mproxy_core::policy::OnError::Allow;
        let answers = self.entrance.answers(&mut self.rng, self.prefix, self.rates);
        if !self.entrance.admits(&answers, open) {
            // Whoever is let in without an answer comes without a grant.
            (self.prefix, self.rates) = ("", GrantLimits::default());
            (self.up.prefix, self.down.prefix, self.broker.prefix) = ("", "", "");
        }
        self.book().connects = answers;
        self.stage.dialing = DialScript::Hangs;
    }

    /// Until the broker has the CONNECT, or never will.
    pub(super) fn enter(&mut self) -> Result<(), String> {
        let leaves = self.rng.one_in(30);
        while matches!(self.stage.session.phase_name(), "greeting" | "admitting" | "dialing") {
            match self.rng.below(8) {
                0 | 1 => self.carry(Side::Client),
                2 | 3 => self.decide(),
                4 | 5 => self.dial_comes_to_something(),
                6 if leaves && self.rng.one_in(4) => self.leave_early(),
                _ => {
                    let greeting = self.stage.session.phase_name() == "greeting";
                    let most = if greeting { 5 } else { 150 };
                    self.stage.pass(Duration::from_millis(self.rng.below(most) as u64));
                }
            }
            self.look()?;
        }
        Ok(())
    }

    fn dial_comes_to_something(&mut self) {
        if self.stage.dials == self.entrance.dialled || self.stage.session.phase_name() != "dialing" {
            return;
        }
        let fails = self.entrance.failing_dials.is_none_or(|most| self.entrance.dialled < most);
        if !fails && self.entrance.hangs {
            return;
        }
        self.entrance.dialled += 1;
        self.stage.dialed(if fails { Err(Unreachable::away("connection refused")) } else { Ok(()) });
    }

    /// The client does not wait, or mproxy does not.
    fn leave_early(&mut self) {
        self.ending = true;
        match self.rng.below(4) {
            0 => self.stage.drain(),
            1 => {
                self.stage.session.revoke(ReasonCode::ADMINISTRATIVE_ACTION, self.stage.now);
                self.stage.run();
            }
            2 => self.stage.close(Side::Client),
            _ => self.stage.reset(Side::Client),
        }
    }

    /// What must hold of the time before CONNACK, at any time.
    pub(super) fn watch_entrance(&mut self) -> Result<(), String> {
        let phase = self.stage.session.phase_name();
        let now = self.stage.now;
        let asked = self.book().connects_asked;
        match phase {
            "greeting" => return Ok(()),
            "admitting" | "dialing" => {
                let since = *self.entrance.since.get_or_insert(now);
                let most = match phase {
                    "admitting" => self.entrance.timeout,
                    // Reached from an admission that took all the time there was.
                    _ => self.entrance.timeout + DIAL_AT_LEAST,
                };
                if now.duration_since(since) >= most {
                    return Err(format!("still {phase} after {:?}", now.duration_since(since)));
                }
                if self.stage.dials > self.entrance.dialled + 1 {
                    return Err("a dial before the one before it came to anything".into());
                }
                // A clear word is taken at once, and only a yes leads to a dial.
                if self.entrance.settled != (phase == "dialing").then_some(true)
                    || phase == "admitting" && self.stage.dials > 0
                {
                    return Err(format!("{phase} after {:?}", self.entrance.settled));
                }
                return Ok(());
            }
            "introduced" | "open" => {
                self.entrance.introduced.get_or_insert((self.stage.dials, asked));
            }
            _ if self.entrance.introduced.is_none() && !self.ending => {
                // It ended before the broker had the CONNECT.
                self.ending = true;
                let waited = now.duration_since(self.entrance.since.unwrap_or(now));
                // No try begins that would come too late: so long may the last pause be.
                let patient = waited + Duration::from_secs(1) >= self.entrance.timeout;
                if !patient && !self.entrance.refuses {
                    return Err(format!("given up after {waited:?} of {:?}", self.entrance.timeout));
                }
            }
            _ => {}
        }
        // A broker that has the CONNECT may have taken a session over with it: a second try would do that again.
        if self.entrance.introduced.is_some_and(|until| until != (self.stage.dials, asked)) {
            return Err("tried again after the broker had the CONNECT".into());
        }
        Ok(())
    }

    /// The client got a CONNACK.
    pub(super) fn take_connack(&mut self, connack: &Connack<'_>) -> Result<(), String> {
        self.entrance.connacks.push(connack.reason);
        if self.entrance.connacks.len() > 1 {
            return Err(format!("more than one CONNACK: {:02x?}", self.entrance.connacks));
        }
        if connack.reason == 0 && self.entrance.introduced.is_none() {
            return Err("a CONNACK that no broker sent".into());
        }
        Ok(())
    }

    /// What the client must have been told in the end.
    pub(super) fn check_client_answer(&self) -> Result<(), String> {
        let Entrance { on_unavailable, connacks, introduced, .. } = &self.entrance;
        if introduced.is_some() || self.book().connects_asked == 0 {
            return Ok(());
        }
        let (unavailable, no) = match self.client.version {
            Version::V5 => (0x88, 0x87),
            Version::V31 | Version::V311 => (3, 5),
        };
        let expected = match (self.stage.done(), on_unavailable) {
            (Some(Fault::Refused { .. }), _) => vec![no],
            (Some(Fault::Kicked { .. }), _) if self.client.version.is_v5() => vec![unavailable],
            (Some(Fault::Kicked { .. }), _) => vec![no],
            (Some(Fault::Lost { side: Side::Client, .. }), _) => Vec::new(),
            // Trouble is not a refusal.
            (
                Some(
                    Fault::PolicyFailed { .. }
                    | Fault::Overloaded { .. }
                    | Fault::Unreachable(_)
                    | Fault::Drained { .. },
                ),
                how,
            ) => match how {
                OnUnavailable::Close => Vec::new(),
                OnUnavailable::Connack => vec![unavailable],
            },
            (other, _) if self.entrance.refuses => match &connacks[..] {
                [code] if *code != 0 => return Ok(()),
                _ => return Err(format!("the client was told {connacks:02x?} of {other:?}")),
            },
            (other, _) => return Err(format!("it ended before the broker had the CONNECT: {other:?}")),
        };
        if *connacks == expected {
            return Ok(());
        }
        Err(format!("the client was told {connacks:02x?}, not {expected:02x?}, of {:?}", self.stage.done()))
    }
}
