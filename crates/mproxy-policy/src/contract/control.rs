//! The Control stream: commands as core understands them, and what became of them. A command that cannot be understood whole
//! is carried out for nobody.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use mproxy_codec::reason::ReasonCode;
use mproxy_core::command::{Dismissal, DismissedBy, Order, Reach, Selector, SessionCommand, WillChoice};
use mproxy_core::peer::ConnectionId;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::complaints::Complaints;
use super::grant::grant;
use super::wire;
use super::wire::control_command::Command;
use super::wire::control_report::Report;
use super::wire::hook_stream_client::HookStreamClient;
use super::wire::selector::By;
use crate::commander::GrantHolder;

/// What mproxy says on the stream.
pub(crate) enum ControlReport {
    /// Who it is. The first message.
    Hello { version: Arc<str>, instance: Arc<str> },
    /// Some of the grants in force; whether these are the last.
    Grants { holders: Vec<GrantHolder>, complete: bool },
    /// What became of the command of this number; empty `error`: it was carried out.
    Result { id: u64, reach: Reach, error: String },
}

/// A command that has come. `Err` says what is wrong with it.
pub(crate) struct NumberedOrder {
    pub(crate) id: u64,
    pub(crate) order: Result<Order, String>,
}

/// Commands as they come.
pub(crate) struct ControlCommands {
    commands: Streaming<wire::ControlCommand>,
    complaints: Arc<Complaints>,
}

impl ControlCommands {
    /// Opens the stream. Ends when the service has begun to answer; what it is told flows meanwhile.
    pub(crate) async fn open(
        channel: Channel,
        reports: impl Stream<Item = ControlReport> + Send + 'static,
        complaints: Arc<Complaints>,
    ) -> Result<Self, Status> {
        let reports = reports.map(wire::ControlReport::from);
        let commands = HookStreamClient::new(channel).control(reports).await?.into_inner();
        Ok(Self { commands, complaints })
    }

    /// The next one; `None`: the service has ended the stream. Loses nothing when it is dropped.
    pub(crate) async fn next(&mut self) -> Option<Result<NumberedOrder, Status>> {
        let command = self.commands.next().await?;
        Some(command.map(|command| NumberedOrder {
            id: command.id,
            order: order(command.selector, command.command, &self.complaints),
        }))
    }
}

fn order(
    selector: Option<wire::Selector>,
    command: Option<Command>,
    complaints: &Complaints,
) -> Result<Order, String> {
    // Never "all": whoever forgot to say who is meant did not mean everybody.
    let selector = selector.and_then(|selector| selector.by).ok_or("no selector")?;
    let selector = match selector {
        By::ConnectionId(id) => Selector::ConnectionId(connection_id(&id).ok_or("connection_id is no UUID")?),
        By::ClientId(id) => Selector::ClientId(id.into()),
        By::Username(name) => Selector::Username(name.into()),
        By::Attribute(one) => Selector::Attribute { name: one.name.into(), value: one.value.into() },
        By::All(wire::AllSelector {}) => Selector::All,
        By::Listener(name) => Selector::Listener(name.into()),
    };
    let command = match command.ok_or("no command")? {
        Command::Disconnect(disconnect) => SessionCommand::Disconnect(dismissal(disconnect, complaints)?),
        Command::ReplaceGrant(wire::ReplaceGrantCommand { grant: replacing }) => {
            let replacing = replacing.map(|replacing| grant(replacing, complaints)).transpose();
            SessionCommand::ReplaceGrant(replacing.map_err(|unusable| unusable.to_string())?.map(Arc::new))
        }
        Command::Forget(wire::ForgetCommand {}) => SessionCommand::Forget,
        Command::CheckGrants(wire::CheckGrantsCommand { version }) => {
            SessionCommand::CheckGrant { version: version.into() }
        }
    };
    Ok(Order { selector, command })
}

fn dismissal(disconnect: wire::DisconnectCommand, complaints: &Complaints) -> Result<Dismissal, String> {
    let reason = match disconnect.reason_code {
        // Unset: proto3 cannot tell it from 0, which would say that nothing is wrong (3.14.2.1).
        0 => ReasonCode::ADMINISTRATIVE_ACTION,
        code @ 0x80..=0xFF => ReasonCode(code as u8),
        code => return Err(format!("reason_code {code} is not from 128 to 255")),
    };
    let will = match disconnect.will.map(wire::WillChoice::try_from) {
        // As of anybody who is cut off [MQTT-3.1.2-8].
        None | Some(Ok(wire::WillChoice::Published)) => WillChoice::Published,
        Some(Ok(wire::WillChoice::Suppressed)) => WillChoice::Suppressed,
        Some(Ok(wire::WillChoice::Unspecified)) => return Err("will is WILL_CHOICE_UNSPECIFIED".to_owned()),
        Some(Err(error)) => return Err(format!("will: {error}")),
    };
    let text = |text: String| (!text.is_empty()).then(|| text.into());
    // What no string of MQTT can be would be left out without a word [MQTT-1.5.4-2].
    let sent = |name: &str, sent: String| {
        if sent.len() > usize::from(u16::MAX) || sent.contains('\0') {
            return Err(format!("{name} is longer than 65535 bytes, or contains U+0000"));
        }
        Ok(text(sent))
    };
    Ok(Dismissal {
        reason,
        text: sent("reason_string", disconnect.reason_string)?,
        server_reference: sent("server_reference", disconnect.server_reference)?,
        will,
        detail: text(disconnect.detail),
        by: DismissedBy::PolicyService,
        endpoint: complaints.endpoint(),
    })
}

/// A UUID as `Client.connection_id` has it.
fn connection_id(text: &str) -> Option<ConnectionId> {
    let hex: String = text.chars().filter(|sign| *sign != '-').collect();
    let is_hex = hex.len() == 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = ConnectionId(u128::from_str_radix(&hex, 16).ok().filter(|_| is_hex)?);
    // In its one form: a slip of the pen must not disconnect somebody else.
    id.to_string().eq_ignore_ascii_case(text).then_some(id)
}

impl From<ControlReport> for wire::ControlReport {
    fn from(report: ControlReport) -> Self {
        let report = match report {
            ControlReport::Hello { version, instance } => Report::Hello(wire::HelloRequest {
                version: version.to_string(),
                instance: instance.to_string(),
            }),
            ControlReport::Grants { holders, complete } => {
                let grants = holders.into_iter().map(|holder| wire::GrantInForce {
                    connection_id: holder.connection_id.to_string(),
                    client_id: holder.client_id.into(),
                    username: holder.username.map(Into::into),
                    version: holder.version.into(),
                });
                Report::Grants(wire::GrantsInForce { grants: grants.collect(), complete })
            }
            ControlReport::Result { id, reach: Reach { clients, subscriptions }, error } => {
                Report::Result(wire::CommandResult { id, clients, subscriptions, error })
            }
        };
        Self { report: Some(report) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(selector: Option<By>, command: Option<Command>) -> Result<Order, String> {
        let selector = Some(wire::Selector { by: selector });
        order(selector, command, &Complaints::new("test"))
    }

    fn disconnect(change: impl FnOnce(&mut wire::DisconnectCommand)) -> Command {
        let mut command = wire::DisconnectCommand::default();
        change(&mut command);
        Command::Disconnect(command)
    }

    #[test]
    fn what_is_left_out_of_a_disconnect_has_its_default() {
        let read = read(Some(By::All(wire::AllSelector {})), Some(disconnect(|_| {}))).unwrap();
        let endpoint = Some("test".into());
        let dismissal = Dismissal { endpoint, ..Dismissal::new(ReasonCode::ADMINISTRATIVE_ACTION) };
        assert_eq!(read, Order { selector: Selector::All, command: SessionCommand::Disconnect(dismissal) });
    }

    #[test]
    fn a_command_that_is_wrong_anywhere_is_none() {
        let all = || Some(By::All(wire::AllSelector {}));
        let forget = || Some(Command::Forget(wire::ForgetCommand {}));
        let unusable = wire::Grant { version: "v".repeat(257), ..Default::default() };
        for (what, wrong) in [
            ("unset selector", read(None, forget())),
            ("no selector", order(None, forget(), &Complaints::new("test"))),
            ("no command", read(all(), None)),
            ("no UUID", read(Some(By::ConnectionId("7".into())), forget())),
            ("no will choice", read(all(), Some(disconnect(|one| one.will = Some(0))))),
            ("unknown will choice", read(all(), Some(disconnect(|one| one.will = Some(9))))),
            ("no refusal", read(all(), Some(disconnect(|one| one.reason_code = 4)))),
            ("long text", read(all(), Some(disconnect(|one| one.reason_string = "x".repeat(65536))))),
            ("no text", read(all(), Some(disconnect(|one| one.server_reference = "a\0b".to_owned())))),
            ("no code", read(all(), Some(disconnect(|one| one.reason_code = 256)))),
            (
                "unusable grant",
                read(all(), Some(Command::ReplaceGrant(wire::ReplaceGrantCommand { grant: Some(unusable) }))),
            ),
        ] {
            assert!(wrong.is_err_and(|why| !why.is_empty()), "{what}");
        }
    }

    #[test]
    fn a_connection_id_is_read_as_it_is_written() {
        let id = ConnectionId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);
        assert_eq!(connection_id(&id.to_string()), Some(id));
        assert_eq!(connection_id(&id.to_string().to_uppercase()), Some(id));
        for wrong in ["", "0123456789abcdef0011223344556677", "+123-", "01234567-89ab-cdef-0011-22334455667g"]
        {
            assert_eq!(connection_id(wrong), None, "{wrong}");
        }
    }
}
