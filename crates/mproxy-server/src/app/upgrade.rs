//! Has a new process take the place of this one: whether that is possible, and once at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::bans;
use super::handover::{self, SessionGiver};
use crate::admin::{ChangeGuard, NotUpgraded, Successor};
use crate::handover::form;
use crate::serve::House;
use crate::systemd::notify;
use crate::telemetry::metrics::Metrics;
use crate::upgrade::{self, Program, ServingSuccessor, SessionChannel, SharedListener, UpgradeFailure};

/// The first process of a container, or of a machine: when it ends, all others are ended.
const FIRST_PROCESS: u32 = 1;

/// How long sessions that are coming in, or are in the middle of something, may take until they can go over.
const COMING_IN: Duration = Duration::from_secs(10);

/// What it takes to have a new process take the place of this one.
pub(super) struct Upgrader {
    /// `None`: there cannot be one.
    program: Option<Program>,
    /// The listeners, until this process closes them.
    listeners: Mutex<Option<Arc<[SharedListener]>>>,
    /// One upgrade at a time.
    turn: tokio::sync::Mutex<()>,
    /// Read by whoever changes something, written by an upgrade, for good when it has succeeded: what is changed is changed
    /// before a new process reads it, or by that one.
    changes: Arc<RwLock<()>>,
    no_more_changes: Mutex<Option<OwnedRwLockWriteGuard<()>>>,
    /// SIGHUP came during an upgrade.
    postponed_reload: AtomicBool,
    /// The process whose place this one takes is there, and may have the event spool.
    follows: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
    /// Cancelled when this process is to end by itself.
    drain: CancellationToken,
    /// Cancelled when a new process accepts connections: this one accepts none, clients or callers of the admin API.
    accepting: [CancellationToken; 2],
    /// Cancelled then, and when that is done.
    pub(super) replaced: CancellationToken,
    house: Arc<House>,
    /// Sessions that could not go over before the new process accepted connections.
    rest: Mutex<Option<RemainingSessions>>,
}

/// What it takes to give the new process sessions that could not go before it accepted connections.
pub(super) struct RemainingSessions {
    giver: SessionGiver,
    channel: SessionChannel,
    /// It reads what this process writes.
    is_understood: bool,
}

impl RemainingSessions {
    /// Gives all away that can go, within a time in which whoever is coming in has come in. Blocks.
    pub(super) fn give(mut self) -> SessionChannel {
        let Self { giver, channel, is_understood } = &mut self;
        if *is_understood {
            if let Err(error) = giver.give_all(channel, COMING_IN) {
                warn!(%error, "the new process takes no more sessions");
            }
        } else {
            giver.keep_all("other_form");
        }
        channel.report(giver.report());
        handover::log(giver.report(), "sessions handed over");
        self.channel
    }
}

/// The new process shall reload: SIGHUP came to this one when that had read what there was before.
pub(super) fn reload_process(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Who is gone has nothing to reload.
    let _ = pid.map(|pid| kill_process(pid, Signal::HUP));
}

impl Upgrader {
    pub(super) fn new(
        program: Option<Program>,
        listeners: Vec<SharedListener>,
        metrics: &Arc<Metrics>,
        drain: &CancellationToken,
        accepting: [CancellationToken; 2],
        house: &Arc<House>,
        follows: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            program,
            listeners: Mutex::new(Some(listeners.into())),
            turn: tokio::sync::Mutex::default(),
            changes: Arc::default(),
            no_more_changes: Mutex::default(),
            postponed_reload: AtomicBool::new(false),
            follows: Arc::clone(follows),
            metrics: Arc::clone(metrics),
            drain: drain.clone(),
            accepting,
            replaced: CancellationToken::new(),
            house: Arc::clone(house),
            rest: Mutex::default(),
        }
    }

    /// Sessions for the new process, once there is one that accepts connections.
    pub(super) fn rest(&self) -> Option<RemainingSessions> {
        self.rest.lock().take()
    }

    /// This process closes its listeners: they must not be kept open here.
    pub(super) fn close(&self) {
        *self.listeners.lock() = None;
    }

    /// See [`AdminBackend::begin_change`](crate::admin::AdminBackend::begin_change).
    pub(super) fn begin_change(&self) -> Option<ChangeGuard> {
        Arc::clone(&self.changes).try_read_owned().ok()
    }

    /// The process that serves when the upgrade is over shall reload.
    pub(super) fn postpone_reload(&self) {
        info!("SIGHUP received during an upgrade, the process that serves after it reloads");
        self.postponed_reload.store(true, Ordering::Release);
    }

    pub(super) fn take_postponed_reload(&self) -> bool {
        self.postponed_reload.swap(false, Ordering::AcqRel)
    }

    /// There is none, for this reason.
    fn refuse(&self, why: &str) -> NotUpgraded {
        self.metrics.count_upgrade("refused");
        warn!(reason = why, "upgrade refused");
        NotUpgraded::Refused(why.to_owned())
    }

    /// Starts a new process, and waits until it serves; it may take so long to come up. With an event spool it has to be this
    /// process'.
    ///
    /// # Errors
    /// There is none, and this process serves as before.
    pub(super) async fn upgrade(&self, within: Duration, has_spool: bool) -> Result<Successor, NotUpgraded> {
        let refuse = |why: &str| Err(self.refuse(why));
        let Some(program) = self.program.clone() else {
            return refuse("the broker of mproxy demo lives in this process");
        };
        if std::process::id() == FIRST_PROCESS {
            return refuse(
                "mproxy is process 1, and its container ends with it: start a container of the new version beside this one, \
                 then drain this one",
            );
        }
        let Ok(_turn) = self.turn.try_lock() else { return refuse("another upgrade is under way") };
        if has_spool && self.follows.load(Ordering::Acquire) {
            // What this one has to tell waits in its memory, and would be lost with it.
            return refuse(
                "the process before this one has the event spool until it has ended; upgrade again when it has",
            );
        }
        let changes = Arc::clone(&self.changes).write_owned().await;
        if let Err(why) = bans::be_taken_over(&self.house).await {
            return refuse(&why);
        }
        let listeners = self.listeners.lock().clone();
        let Some(listeners) = listeners.filter(|_| !self.drain.is_cancelled()) else {
            return refuse("mproxy is being stopped");
        };
        info!(program = %program.path().display(), "upgrade: starting a new process");
        let (shared, drain) = (Arc::clone(&listeners), self.drain.clone());
        let mut giver = SessionGiver::new(&self.house, &self.drain);
        let start = move || {
            let started = upgrade::start(&program, &shared, within, || drain.is_cancelled(), &mut giver);
            started.map(|started| (started, giver))
        };
        // Waits for the other process: not on a runtime thread.
        let started = tokio::task::spawn_blocking(start).await;
        match started.unwrap_or_else(|panicked| Err(UpgradeFailure::Failed(panicked.to_string()))) {
            Ok((ServingSuccessor { pid, version, sessions: channel, session_form }, giver)) => {
                let is_understood = session_form.as_deref() == Some(&form());
                if !is_understood {
                    let (theirs, ours) = (session_form.as_deref().unwrap_or("none"), form());
                    warn!(
                        theirs,
                        ours, "the new process reads another form of sessions, they stay with this one"
                    );
                }
                *self.rest.lock() = Some(RemainingSessions { giver, channel, is_understood });
                listeners.iter().for_each(|listener| listener.socket.leave_file());
                notify::main_process(pid);
                *self.no_more_changes.lock() = Some(changes);
                info!(
                    pid,
                    version, "upgrade: the new process accepts connections, this one does not any more"
                );
                // Before it is answered: whoever comes then finds the new process.
                self.accepting.iter().for_each(CancellationToken::cancel);
                self.replaced.cancel();
                Ok(Successor { pid, version })
            }
            Err(failure) => {
                self.metrics.count_upgrade(failure.outcome());
                let outcome = failure.outcome();
                error!(outcome, error = %failure, "upgrade failed, this process goes on serving");
                Err(NotUpgraded::Failed(failure.to_string()))
            }
        }
    }
}
