//! What is read anew in a running house: certificates when their files change, and all that a SIGHUP asks for. A file that
//! cannot be used changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mproxy_policy::acl::{AclAdviser, Reloaded};
use mproxy_tcp::tls::Remark;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::state::AppState;
use crate::config::{Config, LogLevel, Problems, files};
use crate::door::{CertificateStore, Renewed};
use crate::reloads::Reloads;
use crate::telemetry::log::LogHandle;

/// Reads certificates and the rule file anew, and puts the log level in force. What cannot be read stays as it was.
pub(super) async fn reload(
    config: &Config,
    state: &AppState,
    acl: Option<Arc<AclAdviser>>,
    log: &LogHandle,
    level: Result<LogLevel, Problems>,
) {
    let reloads = &state.reloads;
    // The level first: what follows is then logged as loud as is asked for now.
    reloads.record("configuration", None, level.as_ref().err());
    match level {
        Ok(level) => log.set(level),
        Err(problems) => {
            let mut lines = lines(&problems);
            let error = lines.next().unwrap_or_default();
            warn!(error, "configuration reload failed, previous log level stays in force");
            lines.for_each(|line| warn!("{line}"));
        }
    }
    renew(&state.certificates, reloads, CertificateStore::renew_all).await;
    let Some(acl) = acl else { return };
    let path = config.general.acl_file.as_ref().map(|path| path.display().to_string());
    // Reads a file: not on a runtime thread.
    let read = tokio::task::spawn_blocking(move || acl.reload()).await;
    let read = read.map_err(|panicked| panicked.to_string());
    match read.and_then(|read| read.map_err(|faults| faults.to_string())) {
        Ok(Reloaded { old, new }) => {
            reloads.record("acl_file", None, None::<&str>);
            info!(
                path,
                users = new.users,
                rules = new.rules,
                users_before = old.users,
                rules_before = old.rules,
                "ACL file reloaded"
            );
        }
        Err(faults) => {
            reloads.record("acl_file", None, Some(&faults));
            let mut lines = lines(&faults);
            let error = lines.next().unwrap_or_default();
            error!(path, error, "ACL file reload failed, previous version stays in force");
            lines.for_each(|line| error!("{line}"));
        }
    }
}

/// Lines of one text that are logged at most.
const LINES: usize = 50;

/// What has several lines is as many of the log's.
fn lines(text: &impl ToString) -> impl Iterator<Item = String> {
    text.to_string().lines().take(LINES).map(str::to_owned).collect::<Vec<_>>().into_iter()
}

/// How often files of certificates are looked at.
const WATCH: Duration = Duration::from_secs(5);

/// Reads certificates anew when their files have changed.
pub(super) async fn watch(
    certificates: Arc<CertificateStore>,
    reloads: Arc<Reloads>,
    closing: CancellationToken,
) {
    let mut watch = tokio::time::interval(WATCH);
    while closing.run_until_cancelled(watch.tick()).await.is_some() {
        renew(&certificates, &reloads, CertificateStore::renew_changed).await;
        for (used_by, Remark { file, text, .. }) in certificates.news(files::seconds(SystemTime::now())) {
            warn!(used_by, path = %file.display(), warning = text, "certificate warning");
        }
    }
}

/// Nobody is dropped: running connections keep what they were made with, and a broken file keeps the old one in force.
async fn renew(
    certificates: &Arc<CertificateStore>,
    reloads: &Reloads,
    which: impl FnOnce(&CertificateStore) -> Vec<Renewed> + Send + 'static,
) {
    let reading = Arc::clone(certificates);
    // Reads files: not on a runtime thread.
    let renewed = tokio::task::spawn_blocking(move || which(&reading)).await.unwrap_or_default();
    if !renewed.is_empty() {
        reloads.metrics().certificate_dates(&certificates.dates());
    }
    for Renewed { whose: used_by, result } in renewed {
        reloads.record("certificates", Some(&used_by), result.as_ref().err());
        match result {
            Ok(()) => info!(used_by, "certificates reloaded"),
            Err(error) => {
                error!(used_by, error, "certificate reload failed, previous ones stay in force");
            }
        }
    }
}
