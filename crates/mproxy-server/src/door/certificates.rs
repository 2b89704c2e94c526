//! All certificates of the house, to be read anew on SIGHUP or when a file changes. What is broken leaves the old ones
//! in force, and is remembered until it is mended: log, metric and readiness tell of it.

use std::sync::Arc;

use mproxy_tcp::tls::{Material, MaterialError, Reloadable};
use parking_lot::Mutex;

use super::Causes;

/// The certificates of every listener and target. Its calls block on the file system.
#[derive(Default)]
pub struct Certificates {
    kept: Vec<Kept>,
}

/// Those of one listener or target.
struct Kept {
    whose: String,
    renew: Arc<dyn Renew>,
    /// Why the last attempt came to nothing.
    failure: Mutex<Option<String>>,
}

/// What became of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// `listener mqtts`, `target of mqtts`.
    pub whose: String,
    /// Which file is wrong, and why.
    pub result: Result<(), String>,
}

/// A [`Reloadable`] of whatever material.
trait Renew: Send + Sync {
    fn has_changed(&self) -> bool;
    fn reload(&self) -> Result<(), MaterialError>;
}

impl<M> Renew for Reloadable<M>
where
    M: Material + Send + Sync,
    M::Config: Send + Sync,
{
    fn has_changed(&self) -> bool {
        Self::has_changed(self)
    }

    fn reload(&self) -> Result<(), MaterialError> {
        Self::reload(self)
    }
}

impl Certificates {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Takes care of one more.
    pub fn keep<M>(&mut self, whose: impl Into<String>, renew: &Arc<Reloadable<M>>)
    where
        M: Material + Send + Sync + 'static,
        M::Config: Send + Sync,
    {
        let renew = Arc::clone(renew) as Arc<dyn Renew>;
        self.kept.push(Kept { whose: whose.into(), renew, failure: Mutex::new(None) });
    }

    /// Reads all of them anew (SIGHUP).
    pub fn renew_all(&self) -> Vec<Renewed> {
        self.kept.iter().map(Kept::renew).collect()
    }

    /// Reads those anew of which a file has changed since it was read last. Cheap where none has.
    pub fn renew_changed(&self) -> Vec<Renewed> {
        self.kept.iter().filter(|kept| kept.renew.has_changed()).map(Kept::renew).collect()
    }

    /// Whose files are broken at present, and why; the old ones are in force there.
    pub fn failing(&self) -> Vec<(String, String)> {
        let failing = |kept: &Kept| Some((kept.whose.clone(), kept.failure.lock().clone()?));
        self.kept.iter().filter_map(failing).collect()
    }
}

impl Kept {
    fn renew(&self) -> Renewed {
        let result = self.renew.reload().map_err(|error| Causes(&error).to_string());
        *self.failure.lock() = result.clone().err();
        Renewed { whose: self.whose.clone(), result }
    }
}
