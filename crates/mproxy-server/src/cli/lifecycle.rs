//! `mproxy drain`: ends a running mproxy as SIGTERM does.

use std::io::Write;
use std::process::ExitCode;

use super::admin_api::{AdminCallError, AdminClient};
use crate::config::Flags;

/// `mproxy drain`: 0 where it drains, 2 where it could not be asked.
pub(super) fn drain(flags: &Flags, out: &mut impl Write) -> Result<ExitCode, AdminCallError> {
    let client = AdminClient::new(flags)?;
    client.ask("POST", "/api/v1/drain", None)?;
    writeln!(
        out,
        "mproxy at {} is draining: it takes no new connections, and ends when the open ones have ended",
        client.place()
    )?;
    Ok(ExitCode::SUCCESS)
}
