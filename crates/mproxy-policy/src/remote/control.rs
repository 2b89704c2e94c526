//! The Control stream: the service commands, mproxy obeys and says how far it reached.
//!
//! One stream at a time, on a connection of its own, to the first healthy endpoint that serves streams. It begins with who
//! this mproxy is and which grants are in force, so that what was missed while there was none is made good. So many commands
//! are carried out at a time; while these are, and while results are not read, no further ones are.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, unfold};
use futures_util::{FutureExt, StreamExt};
use mproxy_core::command::{Order, Reach};
use mproxy_core::policy::Pending;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use super::health::{Endpoints, ServiceConnection};
use super::pause::{STEADY, pause};
use super::status::describe_status;
use crate::commander::{CommandOutcome, Commander};
use crate::contract::{Complaint, Complaints, ControlCommands, ControlReport, NumberedOrder};
use crate::watch::{CommandCount, Watch};

/// Commands that are carried out at a time.
const UNDER_WAY: usize = 256;

/// Commands that are handed out together, where so many wait.
const TOGETHER: usize = 64;

/// Messages for the service that wait to be sent.
const WAITING: usize = 16;

/// How long the service may leave reports unread before the log says so, and how long altogether.
const UNREAD_TOLD: Duration = Duration::from_secs(1);
const UNREAD_MOST: Duration = Duration::from_secs(30);

/// How long a stream that is left for another one may take to report what is being carried out.
const LEFT_WITHIN: Duration = Duration::from_secs(12);

/// Dialling.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// Until the service has taken who this mproxy is, and the grants in force.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(30);

/// Who keeps the Control stream.
pub(super) struct Controller {
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) commander: Arc<dyn Commander>,
    pub(super) watch: Arc<dyn Watch>,
    pub(super) version: Arc<str>,
    pub(super) instance: Arc<str>,
}

/// How a stream ended that did not fail.
enum ControlEnd {
    /// The service ended it.
    Ended,
    /// An endpoint that is preferred to this one is healthy again.
    Moved,
}

/// A command that is being carried out.
type UnderWay = Pending<(u64, &'static str, CommandOutcome)>;

impl Controller {
    /// Ends when `stop` is cancelled, and the stream with it.
    pub(super) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(&self) {
        let mut changes = self.endpoints.changes();
        let mut failures = 0;
        // Connections whose service has no commands. As many as there are endpoints, at most.
        let mut refused: Vec<Arc<ServiceConnection>> = Vec::new();
        loop {
            refused.retain(|one| !one.gone.is_cancelled());
            let Some(connection) = self.endpoints.pick_streaming(&refused) else {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let since = Instant::now();
            let status = match self.serve(&connection, &refused).await {
                Ok(ControlEnd::Ended) => "the service ended it".to_owned(),
                Ok(ControlEnd::Moved) => {
                    info!(endpoint = connection.url(), "control stream moves to a preferred endpoint");
                    continue;
                }
                Err(status) if status.code() == Code::Unimplemented => {
                    warn!(
                        endpoint = connection.url(),
                        "HookStream.Control unimplemented although Hello says that streams are served, no commands until the next connection"
                    );
                    // Known of this connection only: behind the next one may stand a newer service.
                    refused.push(connection);
                    continue;
                }
                Err(status) => describe_status(&status),
            };
            // A stream that held for a while ends for another reason than those before it.
            failures = if since.elapsed() >= STEADY { 1 } else { failures + 1 };
            info!(endpoint = connection.url(), error = status, "control stream ended, opening another");
            sleep(pause(failures)).await;
        }
    }

    /// One stream, from its beginning to its end.
    async fn serve(
        &self,
        connection: &Arc<ServiceConnection>,
        refused: &[Arc<ServiceConnection>],
    ) -> Result<ControlEnd, Status> {
        let gone = connection.gone.child_token();
        // The connection of the stream ends with the stream, whichever way that is.
        let _ends = gone.clone().drop_guard();
        let leave = CancellationToken::new();
        let served = gone.run_until_cancelled(self.serve_until_gone(connection, &gone, &leave));
        let mut served = pin!(served);
        let end = |served: Option<Result<(), Status>>, how| match served {
            Some(served) => served.map(|()| how),
            None => Err(Status::unavailable("connection closed")),
        };
        tokio::select! {
            served = &mut served => return end(served, ControlEnd::Ended),
            () = self.preferred_to(connection, refused) => {}
        }
        // What has been carried out is reported to who commanded it.
        leave.cancel();
        match timeout(LEFT_WITHIN, served).await {
            Ok(served) => end(served, ControlEnd::Moved),
            Err(_) => Ok(ControlEnd::Moved),
        }
    }

    /// Waits until another endpoint stands before this one: who decides shall be able to take back.
    async fn preferred_to(&self, connection: &Arc<ServiceConnection>, refused: &[Arc<ServiceConnection>]) {
        let mut changes = self.endpoints.changes();
        loop {
            let first = self.endpoints.pick_streaming(refused);
            // While this one is being lost, its own end says more.
            if first.is_some_and(|first| !Arc::ptr_eq(&first, connection)) && !connection.gone.is_cancelled()
            {
                return;
            }
            if changes.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn serve_until_gone(
        &self,
        connection: &ServiceConnection,
        gone: &CancellationToken,
        leave: &CancellationToken,
    ) -> Result<(), Status> {
        let complaints = Arc::clone(connection.service.complaints());
        let (reports, waiting) = mpsc::channel(WAITING);
        let channel = match timeout(CONNECTED_WITHIN, connection.dial_another(gone)).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(Status::unavailable(error)),
            Err(_) => return Err(Status::deadline_exceeded("not connected within 5 s")),
        };
        let waiting =
            unfold(waiting, async |mut waiting| waiting.recv().await.map(|report| (report, waiting)));
        let commands = ControlCommands::open(channel, waiting, Arc::clone(&complaints));
        let opened = open_and_introduce(commands, self.introduce(&reports));
        let Some(opened) = leave.run_until_cancelled(opened).await else { return Ok(()) };
        let mut commands = opened?;
        info!(endpoint = connection.url(), "control stream opened");
        self.obey(&mut commands, &reports, &complaints, leave).await?;
        // The service ends its half when it has read all of ours.
        drop(reports);
        let read = async { while commands.next().await.is_some() {} };
        let _ = timeout(UNREAD_TOLD, read).await;
        Ok(())
    }

    /// Who this mproxy is, and the grants in force.
    async fn introduce(&self, reports: &mpsc::Sender<ControlReport>) -> Result<(), Status> {
        let (version, instance) = (Arc::clone(&self.version), Arc::clone(&self.instance));
        say(reports, ControlReport::Hello { version, instance }).await?;
        // In parts: all grants in one message could be more than a service takes.
        let mut after = None;
        loop {
            let part = self.commander.grant_holders(after);
            let complete = part.next.is_none();
            say(reports, ControlReport::Grants { holders: part.holders, complete }).await?;
            if complete {
                return Ok(());
            }
            after = part.next;
        }
    }

    async fn obey(
        &self,
        commands: &mut ControlCommands,
        reports: &mpsc::Sender<ControlReport>,
        complaints: &Complaints,
        leave: &CancellationToken,
    ) -> Result<(), Status> {
        let mut under_way: FuturesUnordered<UnderWay> = FuturesUnordered::new();
        loop {
            if leave.is_cancelled() && under_way.is_empty() {
                return Ok(());
            }
            tokio::select! {
                // Results first: a service that goes on commanding would never hear of one.
                biased;
                Some((id, name, outcome)) = under_way.next(), if !under_way.is_empty() => {
                    self.report(reports, id, name, outcome).await?;
                }
                () = leave.cancelled(), if !leave.is_cancelled() => {}
                // Nothing that has come is lost when the other branch is taken.
                command = commands.next(), if under_way.len() < UNDER_WAY && !leave.is_cancelled() => {
                    let Some(command) = command else { return Ok(()) };
                    let mut together = vec![command?];
                    let mut ended = Ok(());
                    while together.len() < TOGETHER
                        && let Some(Some(next)) = commands.next().now_or_never()
                    {
                        match next {
                            Ok(next) => together.push(next),
                            Err(status) => {
                                ended = Err(status);
                                break;
                            }
                        }
                    }
                    // What stood before the end of the stream was commanded.
                    self.hand_out(together, &mut under_way, reports, complaints).await?;
                    ended?;
                }
            }
        }
    }

    /// Hands commands out, those that can be understood.
    async fn hand_out(
        &self,
        commands: Vec<NumberedOrder>,
        under_way: &mut FuturesUnordered<UnderWay>,
        reports: &mpsc::Sender<ControlReport>,
        complaints: &Complaints,
    ) -> Result<(), Status> {
        let (mut ids, mut orders): (Vec<_>, Vec<Order>) = (Vec::new(), Vec::new());
        for NumberedOrder { id, order } in commands {
            match order {
                Ok(order) => {
                    ids.push((id, order.command.name()));
                    orders.push(order);
                }
                Err(error) => {
                    self.watch.command("unknown", CommandCount::Unusable);
                    complaints.say(Complaint::Command, format_args!("unusable command: {error}"));
                    say(reports, ControlReport::Result { id, reach: Reach::default(), error }).await?;
                }
            }
        }
        if orders.is_empty() {
            return Ok(());
        }
        let handed = self.commander.hand_out(orders).await;
        for ((id, name), outcome) in ids.into_iter().zip(handed) {
            under_way.push(Box::pin(async move { (id, name, outcome.await) }));
        }
        Ok(())
    }

    async fn report(
        &self,
        reports: &mpsc::Sender<ControlReport>,
        id: u64,
        name: &'static str,
        outcome: CommandOutcome,
    ) -> Result<(), Status> {
        let CommandOutcome { reach, unfinished } = outcome;
        let (clients, subscriptions) = (reach.clients, reach.subscriptions);
        let error = if unfinished == 0 {
            self.watch.command(name, CommandCount::CarriedOut);
            debug!(command = name, command_id = id, clients, subscriptions, "command carried out");
            String::new()
        } else {
            self.watch.command(name, CommandCount::Incomplete);
            warn!(
                command = name,
                command_id = id,
                clients,
                subscriptions,
                unfinished,
                "command not carried out by all in time"
            );
            format!("{unfinished} connections have not carried it out in time")
        };
        say(reports, ControlReport::Result { id, reach, error }).await
    }
}

/// The answer to the opening of the stream, and meanwhile what the service is told first. Only the latter has a deadline: in
/// most languages a service answers (with headers) when it has its first command, which may be never.
async fn open_and_introduce<T>(
    opened: impl Future<Output = Result<T, Status>>,
    introduced: impl Future<Output = Result<(), Status>>,
) -> Result<T, Status> {
    let introduced = async {
        match timeout(INTRODUCED_WITHIN, introduced).await {
            // Nobody reads it because the stream has ended: why, the answer says.
            Ok(Err(status)) if status.code() == Code::Unavailable => std::future::pending().await,
            Ok(introduced) => introduced,
            Err(_) => Err(Status::deadline_exceeded("grants in force not taken within 30 s")),
        }
    };
    let (opened, ()) = tokio::try_join!(opened, introduced)?;
    Ok(opened)
}

async fn say(reports: &mpsc::Sender<ControlReport>, report: ControlReport) -> Result<(), Status> {
    let mut waited = Duration::ZERO;
    for most in [UNREAD_TOLD, UNREAD_MOST] {
        match timeout(most - waited, reports.reserve()).await {
            Ok(Ok(room)) => {
                room.send(report);
                return Ok(());
            }
            Ok(Err(_)) => return Err(Status::unavailable("the service reads no reports any more")),
            Err(_) if waited.is_zero() => warn!(
                limit_seconds = UNREAD_MOST.as_secs(),
                "policy service does not read the results of its commands, no further commands until it does"
            ),
            Err(_) => {}
        }
        waited = most;
    }
    Err(Status::deadline_exceeded("the service has not read the results of its commands for 30 s"))
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const AN_HOUR: Duration = Duration::from_secs(3600);

    fn code(opened: Result<&str, Status>) -> Result<&str, Code> {
        opened.map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_without_commands_may_answer_late() {
        let opened = async {
            sleep(AN_HOUR).await;
            Ok("opened")
        };
        assert_eq!(code(open_and_introduce(opened, ready(Ok(()))).await), Ok("opened"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_read_is_left() {
        assert_eq!(code(open_and_introduce(pending(), pending()).await), Err(Code::DeadlineExceeded));
        assert_eq!(
            code(open_and_introduce(ready(Ok("opened")), pending()).await),
            Err(Code::DeadlineExceeded)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_service_says_of_the_stream_counts() {
        let opened = async {
            sleep(Duration::from_secs(1)).await;
            Err(Status::unimplemented("no Control"))
        };
        let unread = ready(Err(Status::unavailable("nobody reads")));
        assert_eq!(code(open_and_introduce(opened, unread).await), Err(Code::Unimplemented));
    }
}
