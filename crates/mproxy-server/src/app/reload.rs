//! What is read anew in a running house: certificates when their files change, and everything that a reload asks for.
//!
//! A reload reads all of it first: the configuration, and every file that it names. If anything is wrong with any of it,
//! all of that is told and nothing changes. Then everything is put in force, which cannot fail. Nobody is dropped:
//! connections keep what they were made with, where the table of settings does not say otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use mproxy_policy::acl::{Acl, AclAdviser, Reloaded};
use mproxy_policy::remote::{PreparedRemoteTls, Remote};
use mproxy_policy::shadow::Shadow;
use mproxy_tcp::tls::{Reloadable, Remark, ServerTls};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::advise;
use super::listeners::{self, CommonSetting, OF_ADMIN, PreparedListeners, RunningListener};
use crate::admin::{InForce, NotReloaded, ReloadReport};
use crate::config::reload::{self, SettingChange, TakesEffect};
use crate::config::{Config, Loaded, Problems, check, files};
use crate::door::{Causes, CertificateStore, Renewed};
use crate::reloads::Reloads;
use crate::serve::House;
use crate::systemd::notify;
use crate::telemetry::log::LogHandle;

/// Reads the configuration as it is written now.
pub type Reread = Box<dyn Fn() -> Result<Loaded, Problems> + Send + Sync>;

/// Everything that a reload reads and replaces.
pub(super) struct Reloader {
    pub(super) reread: Reread,
    pub(super) in_force: ArcSwap<Loaded>,
    /// One reload at a time, that of certificates whose files have changed included.
    pub(super) turn: tokio::sync::Mutex<()>,
    pub(super) house: Arc<House>,
    pub(super) listeners: Vec<RunningListener>,
    pub(super) common: CommonSetting,
    pub(super) acl: Option<Arc<AclAdviser>>,
    pub(super) remote: Option<Arc<Remote>>,
    pub(super) shadow: Option<Arc<Shadow>>,
    pub(super) certificates: ArcSwap<CertificateStore>,
    pub(super) reloads: Arc<Reloads>,
    pub(super) log: LogHandle,
    /// What of it the admin API looks at.
    pub(super) admin: InForce,
}

/// What was read, and is not in force yet.
struct PreparedReload {
    listeners: PreparedListeners,
    acl: Option<Acl>,
    tls: Vec<PreparedRemoteTls>,
    admin_tls: Option<Arc<Reloadable<ServerTls>>>,
}

/// What keeps a reload from being one.
#[derive(Default)]
struct ReloadFaults {
    /// What is wrong with settings and with the files of TLS that they name.
    lines: Vec<String>,
    /// Whose certificates cannot be used, and why.
    certificates: Vec<(String, String)>,
    /// What is wrong with the rule file.
    acl: Option<String>,
}

impl Reloader {
    /// Takes what is written now, or nothing of it.
    pub(super) async fn reload(self: Arc<Self>) -> Result<ReloadReport, NotReloaded> {
        let _turn = self.turn.lock().await;
        notify::reloading();
        let running = self.in_force.load_full();
        let this = Arc::clone(&self);
        // Reads files: not on a runtime thread.
        let read = tokio::task::spawn_blocking(move || this.read(&running)).await;
        let read = read.unwrap_or_else(|panicked| {
            Err(ReloadFaults { lines: vec![panicked.to_string()], ..ReloadFaults::default() })
        });
        let (reloaded, status) = match read {
            Ok((report, loaded, prepared)) => {
                self.put_in_force(&report, loaded, prepared);
                (Ok(report), "serving")
            }
            Err(faults) => (
                Err(NotReloaded::Faults(self.refuse(faults))),
                "serving; the last reload failed, see the log",
            ),
        };
        notify::ready(status);
        reloaded
    }

    fn read(&self, running: &Loaded) -> Result<(ReloadReport, Loaded, PreparedReload), ReloadFaults> {
        let wanted = (self.reread)().map_err(|problems| ReloadFaults {
            lines: problems.faults.iter().map(ToString::to_string).collect(),
            ..ReloadFaults::default()
        })?;
        let mut changes = reload::changes(running, &wanted);
        changes.extend(self.level_change(&wanted, &changes));
        let warnings = reload::listeners_at_next_start(&running.config, &wanted.config);
        let loaded = reload::in_force(running, wanted, &changes);
        let prepared = self.prepare(&loaded)?;
        Ok((ReloadReport { changes, warnings }, loaded, prepared))
    }

    /// An administrator may have set another level than the one that is written, which comes back now.
    fn level_change(&self, wanted: &Loaded, known: &[SettingChange]) -> Option<SettingChange> {
        const LEVEL: &str = "log.level";
        let (old, new) = (self.log.level(), wanted.config.log.level);
        let is_new = old != new && known.iter().all(|change| change.key != LEVEL);
        is_new.then(|| SettingChange {
            key: LEVEL.to_owned(),
            old: Some(old.name().to_owned()),
            new: Some(new.name().to_owned()),
            takes_effect: TakesEffect::Now,
        })
    }

    /// Reads every file that the configuration names.
    fn prepare(&self, loaded: &Loaded) -> Result<PreparedReload, ReloadFaults> {
        let listeners = listeners::prepare(&self.listeners, &loaded.config);
        let acl = self.rules(&loaded.config);
        let tls = self.policy_tls(loaded).map_err(|error| format!("{error:#}"));
        let admin_tls = listeners::admin_tls(&loaded.config.admin);
        let mut lines: Vec<_> = files::faults(loaded).iter().map(ToString::to_string).collect();
        match (listeners, acl, tls, admin_tls) {
            (Ok(listeners), Ok(acl), Ok(tls), Ok(admin_tls)) if lines.is_empty() => {
                Ok(PreparedReload { listeners, acl, tls, admin_tls })
            }
            (listeners, acl, tls, admin_tls) => {
                let mut certificates = listeners.err().unwrap_or_default();
                certificates.extend(tls.err().map(|error| ("policy service".to_owned(), error)));
                let admin_tls = admin_tls.err().map(|error| Causes(&error).to_string());
                certificates.extend(admin_tls.map(|error| (OF_ADMIN.to_owned(), error)));
                // The files were made good between one look and the other.
                if lines.is_empty() {
                    lines.extend(certificates.iter().map(|(whose, error)| format!("{whose}: {error}")));
                }
                Err(ReloadFaults { lines, certificates, acl: acl.err() })
            }
        }
    }

    /// Those of the rule file; `None` where there is none, or others take its place.
    fn rules(&self, config: &Config) -> Result<Option<Acl>, String> {
        let of_file = self.acl.as_ref().filter(|acl| acl.is_of_file());
        let Some((acl, path)) = of_file.zip(config.general.acl_file.as_ref()) else { return Ok(None) };
        let read = acl.read(path).and_then(|acl| acl.knows_listeners(&config.listener_names()).map(|()| acl));
        read.map(Some).map_err(|faults| faults.to_string())
    }

    /// TLS towards the hook service, and the one that is asked for comparison.
    fn policy_tls(&self, loaded: &Loaded) -> anyhow::Result<Vec<PreparedRemoteTls>> {
        let Some(policy) = &loaded.config.policy else { return Ok(Vec::new()) };
        let tls = advise::remote_tls(&policy.tls)?;
        let prepared = self.services().map(|service| service.prepare_tls(&tls));
        Ok(prepared.collect::<Result<_, _>>()?)
    }

    fn services(&self) -> impl Iterator<Item = &Remote> {
        let shadow = self.shadow.as_deref().map(|shadow| &**shadow.service());
        self.remote.as_deref().into_iter().chain(shadow)
    }

    /// From here on nothing can fail.
    fn put_in_force(&self, report: &ReloadReport, loaded: Loaded, prepared: PreparedReload) {
        let config = &loaded.config;
        // The level first: what follows is then logged as loud as is asked for now.
        self.log.set(config.log.level);
        let before = self.in_force.load_full();
        for warning in loaded.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
            warn!("{warning}");
        }
        let general = &config.general;
        self.house.set_most(general.max_connections, general.max_pending);
        let open = self.house.registry.all();
        let open = open.iter().map(|handle| handle.origin().remote.clone());
        self.house.protection.set(&config.protection, open);
        self.common.total.set_most(general.budget_total);
        self.common.drain_reference.set(general.drain_server_reference.as_deref());
        let PreparedReload { listeners, acl, tls, admin_tls } = prepared;
        let mut certificates = listeners.put_in_force(&self.listeners, config, &self.common);
        listeners::keep_admin(&mut certificates, admin_tls.as_ref());
        for tls in tls {
            tls.put_in_force();
        }
        if let Some(policy) = &config.policy {
            self.services().for_each(|service| service.set_timeout(policy.questions.timeout));
        }
        self.admin.set(config.admin.token.clone(), check::view(&loaded), admin_tls);
        tell(report);
        self.reloads.record("configuration", None, None::<&str>, &report.changes);
        self.follow(certificates);
        self.replace_rules(acl, general.acl_file.as_ref());
        self.in_force.store(Arc::new(loaded));
    }

    /// These certificates are in force now.
    fn follow(&self, certificates: CertificateStore) {
        certificates.follow(&self.certificates.load());
        for used_by in certificates.renewable() {
            self.reloads.record("certificates", Some(used_by), None::<&str>, &[]);
            info!(used_by, "certificates reloaded");
        }
        self.reloads.metrics().certificate_dates(&certificates.dates());
        warn_of(&certificates);
        self.certificates.store(Arc::new(certificates));
    }

    fn replace_rules(&self, rules: Option<Acl>, path: Option<&PathBuf>) {
        let Some((acl, rules)) = self.acl.as_ref().zip(rules) else { return };
        let Reloaded { old, new } = Reloaded { old: acl.size(), new: rules.size() };
        acl.replace(rules);
        self.reloads.record("acl_file", None, None::<&str>, &[]);
        info!(
            path = path.map(|path| path.display().to_string()),
            users = new.users,
            rules = new.rules,
            grants = new.grants,
            users_before = old.users,
            rules_before = old.rules,
            grants_before = old.grants,
            "ACL file reloaded"
        );
    }

    /// Tells what is wrong. Everything stays as it was.
    fn refuse(&self, faults: ReloadFaults) -> Vec<String> {
        let ReloadFaults { lines, certificates, acl } = faults;
        let is_counted = !certificates.is_empty() || acl.is_some();
        let store = self.certificates.load();
        for (used_by, error) in &certificates {
            store.set_failing(used_by, error);
            self.reloads.record("certificates", Some(used_by), Some(error), &[]);
            error!(used_by, error, "certificate reload failed, previous ones stay in force");
        }
        let of_rules: Vec<_> = acl.iter().flat_map(|acl| acl.lines()).map(str::to_owned).collect();
        if let Some(faults) = acl {
            let path = self.in_force.load().config.general.acl_file.clone();
            let path = path.map(|path| path.display().to_string());
            self.reloads.record("acl_file", None, Some(&faults), &[]);
            let error = faults.lines().next().unwrap_or_default();
            error!(path, error, "ACL file reload failed, previous version stays in force");
        }
        let faults = [&lines[..], &of_rules].concat();
        // Once, by what was wrong: an alert would come twice.
        match is_counted {
            true => self.reloads.keep("configuration", None, Some(faults.join("\n")), &[]),
            false => self.reloads.record("configuration", None, Some(faults.join("\n")), &[]),
        }
        error!(faults = faults.len(), "configuration reload failed, nothing was changed");
        // The first of the rule file's has been told.
        lines.iter().chain(of_rules.iter().skip(1)).take(LINES).for_each(|line| error!("{line}"));
        faults
    }

    /// Reads certificates anew when their files have changed.
    pub(super) async fn watch(self: Arc<Self>, closing: CancellationToken) {
        let mut watch = tokio::time::interval(WATCH);
        while closing.run_until_cancelled(watch.tick()).await.is_some() {
            let _turn = self.turn.lock().await;
            let certificates = self.certificates.load_full();
            self.renew(&certificates).await;
            warn_of(&certificates);
        }
    }

    /// Nobody is dropped: running connections keep what they were made with, and a broken file keeps the old one in force.
    async fn renew(&self, certificates: &Arc<CertificateStore>) {
        let reading = Arc::clone(certificates);
        // Reads files: not on a runtime thread.
        let renewed = tokio::task::spawn_blocking(move || reading.renew_changed()).await.unwrap_or_default();
        if !renewed.is_empty() {
            self.reloads.metrics().certificate_dates(&certificates.dates());
        }
        for Renewed { whose: used_by, result } in renewed {
            self.reloads.record("certificates", Some(&used_by), result.as_ref().err(), &[]);
            match result {
                Ok(()) => info!(used_by, "certificates reloaded"),
                Err(error) => {
                    error!(used_by, error, "certificate reload failed, previous ones stay in force");
                }
            }
        }
    }
}

/// Lines of faults that are logged at most.
const LINES: usize = 50;

/// How often files of certificates are looked at.
const WATCH: Duration = Duration::from_secs(5);

/// A line for each setting.
fn tell(ReloadReport { changes, warnings }: &ReloadReport) {
    for SettingChange { key, old, new, takes_effect } in changes {
        let (old, new) = (old.as_deref(), new.as_deref());
        match takes_effect {
            TakesEffect::Now => info!(setting = key, old, new, "setting changed"),
            TakesEffect::ForNewConnections => {
                info!(setting = key, old, new, "setting changed for new connections")
            }
            TakesEffect::AtNextStart => {
                warn!(setting = key, old, new, "setting changed, takes effect at the next start");
            }
        }
    }
    warnings.iter().for_each(|warning| warn!("{warning}"));
    info!(changes = changes.len(), "configuration reloaded");
}

fn warn_of(certificates: &CertificateStore) {
    for (used_by, Remark { file, text, .. }) in certificates.news(files::seconds(SystemTime::now())) {
        warn!(used_by, path = %file.display(), warning = text, "certificate warning");
    }
}
