//! What is sent to the service: a question, or an event that goes by a call of its own.

use std::future::Future;
use std::time::Duration;

use mproxy_core::policy::Undecided;
use tonic::Status;

use crate::contract::{AuthRequest, AuthRpc, EventRequest, Rpc, ServiceClient, StreamAnswer, StreamQuestion};
use crate::watch::CallOutcome;

/// What is sent to the service.
pub(super) trait ServiceCall: Clone + Send + Sync + 'static {
    /// What comes back.
    type Answer: Send + 'static;

    fn rpc(&self) -> Rpc;

    fn run(
        self,
        service: &ServiceClient,
        within: Duration,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;

    /// The same for a stream, if it can go over one.
    fn for_stream(&self) -> Option<StreamQuestion>;

    /// Reads what a stream brought.
    fn read(self, service: &ServiceClient, answer: Option<StreamAnswer>) -> Result<Self::Answer, Status>;

    fn outcome(answer: &Self::Answer) -> CallOutcome;
}

impl<R: AuthRpc> ServiceCall for AuthRequest<R> {
    type Answer = Result<R::Decision, Undecided>;

    fn rpc(&self) -> Rpc {
        R::HOOK.into()
    }

    async fn run(self, service: &ServiceClient, within: Duration) -> Result<Self::Answer, Status> {
        service.decide(self, within).await
    }

    fn for_stream(&self) -> Option<StreamQuestion> {
        self.for_stream()
    }

    fn read(self, service: &ServiceClient, answer: Option<StreamAnswer>) -> Result<Self::Answer, Status> {
        service.read_answer(self, answer)
    }

    fn outcome(verdict: &Self::Answer) -> CallOutcome {
        outcome_of(verdict)
    }
}

/// How it came out, to be counted.
pub(super) const fn outcome_of<D>(verdict: &Result<D, Undecided>) -> CallOutcome {
    match verdict {
        Err(Undecided::Failed(failure)) => CallOutcome::Failed(failure.kind),
        Err(Undecided::Unusable(_)) => CallOutcome::Unusable,
        Ok(_) | Err(Undecided::Overloaded(_)) => CallOutcome::Answered,
    }
}

impl ServiceCall for EventRequest {
    type Answer = ();

    fn rpc(&self) -> Rpc {
        self.rpc()
    }

    async fn run(self, service: &ServiceClient, within: Duration) -> Result<(), Status> {
        service.report(self, within).await
    }

    fn for_stream(&self) -> Option<StreamQuestion> {
        None
    }

    fn read(self, _: &ServiceClient, _: Option<StreamAnswer>) -> Result<(), Status> {
        Err(Status::internal("events do not go over this stream"))
    }

    fn outcome((): &()) -> CallOutcome {
        CallOutcome::Answered
    }
}
