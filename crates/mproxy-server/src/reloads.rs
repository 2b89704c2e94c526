//! What became of the last reload of each thing that is reloaded while mproxy runs: kept to be looked up, and counted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::admin::view::{ReloadView, SettingChangeView};
use crate::config::reload::SettingChange;
use crate::telemetry::metrics::Metrics;
use crate::timestamp::Timestamp;

/// One entry for each thing, so as many as the configuration has files.
pub(crate) struct Reloads {
    last: Mutex<BTreeMap<(&'static str, Option<String>), ReloadView>>,
    metrics: Arc<Metrics>,
}

impl Reloads {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { last: Mutex::default(), metrics }
    }

    /// Where they are counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A reload of this ended, with this error if any, and changed these settings: kept and counted.
    pub(crate) fn record(
        &self,
        what: &'static str,
        used_by: Option<&str>,
        error: Option<impl Display>,
        changes: &[SettingChange],
    ) {
        self.metrics.count_reload(what, error.is_none());
        self.keep(what, used_by, error, changes);
    }

    /// The same, where something else of this reload is counted.
    pub(crate) fn keep(
        &self,
        what: &'static str,
        used_by: Option<&str>,
        error: Option<impl Display>,
        changes: &[SettingChange],
    ) {
        let view = ReloadView {
            what,
            used_by: used_by.map(str::to_owned),
            outcome: if error.is_none() { "reloaded" } else { "failed" },
            at: Timestamp(SystemTime::now()),
            error: error.map(|error| error.to_string()),
            changes: changes.iter().map(SettingChangeView::from).collect(),
        };
        self.last.lock().insert((what, view.used_by.clone()), view);
    }

    /// The last of each.
    pub(crate) fn last(&self) -> Vec<ReloadView> {
        self.last.lock().values().cloned().collect()
    }
}
