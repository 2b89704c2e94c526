//! HookStream.Control: that it opens, and what comes over it. Commands are shown and carried out for nobody.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use mproxy_core::command::Reach;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::calls::INSTANCE;
use super::conversation::StreamTrouble;
use super::{CheckConfig, CheckedAnswer, CheckedResult, Run};
use crate::contract::{Complaints, ControlCommands, ControlReport};

/// As long as commands are waited for.
const LISTENED: Duration = Duration::from_secs(1);

/// Commands that are taken.
const COMMANDS_MOST: usize = 16;

/// What is said of each command that comes.
const NOBODY: &str = "mproxy hooks check carries out no commands";

impl Run {
    pub(super) async fn control(&mut self, config: &CheckConfig) {
        let began = Instant::now();
        // Most services have nothing to command at the moment, and the check does not wait for long to find that out.
        let deadline = (began + config.timeout.min(LISTENED)).min(self.calls.until());
        let (result, details) = match self.listen(config, deadline).await {
            Ok(details) => (CheckedResult::Received, details),
            Err(StreamTrouble::Unimplemented) => {
                self.unimplemented.push(("Control", "gets no commands"));
                (CheckedResult::NotWanted, vec!["UNIMPLEMENTED".to_owned()])
            }
            Err(StreamTrouble::Other(text)) => {
                self.findings.error("control_failed", format!("Control: {text}"), None);
                (CheckedResult::Failed, vec![text])
            }
        };
        let question = "the stream opens, no grants are in force".to_owned();
        let answer = CheckedAnswer::new("Control", question, result, began.elapsed());
        self.report.answers.push(CheckedAnswer { way: "stream", details, ..answer });
    }

    /// What came in this time.
    async fn listen(
        &mut self,
        config: &CheckConfig,
        deadline: Instant,
    ) -> Result<Vec<String>, StreamTrouble> {
        let channel = self.calls.dial_another().await.map_err(StreamTrouble::Other)?;
        let (reports, outgoing) = mpsc::channel(COMMANDS_MOST + 2);
        let (version, instance) = (Arc::clone(&config.version), INSTANCE.into());
        // There is room for all that is ever said.
        let _ = reports.try_send(ControlReport::Hello { version, instance });
        let _ = reports.try_send(ControlReport::Grants { holders: Vec::new(), complete: true });
        let outgoing = stream::unfold(outgoing, |mut outgoing| async move {
            outgoing.recv().await.map(|report| (report, outgoing))
        });
        let opening = ControlCommands::open(channel, outgoing, Arc::new(Complaints::kept()));
        // Many a library sends its headers with its first message only, and there may be no command for a long time.
        let Ok(opened) = timeout_at(deadline, opening).await else {
            return Ok(vec!["no commands".to_owned()]);
        };
        let mut commands = opened?;
        let mut details = Vec::new();
        while details.len() < COMMANDS_MOST {
            let Ok(next) = timeout_at(deadline, commands.next()).await else { break };
            let command = match next {
                Some(command) => command.map_err(|status: Status| StreamTrouble::from(status))?,
                None => {
                    details.push("ended by the service".to_owned());
                    break;
                }
            };
            let id = command.id;
            match command.order {
                Ok(_) => details.push(format!("command {id}")),
                Err(why) => {
                    self.findings
                        .warn("command_unusable", format!("Control: a command cannot be carried out: {why}"));
                    details.push(format!("command {id} cannot be carried out"));
                }
            }
            let (reach, error) = (Reach { clients: 0, subscriptions: 0 }, NOBODY.to_owned());
            let _ = reports.try_send(ControlReport::Result { id, reach, error });
        }
        if details.is_empty() {
            details.push("no commands".to_owned());
        }
        Ok(details)
    }
}
