//! All certificates of the house, to be read anew when a file changes; a reload makes another store. What is broken leaves
//! the old ones in force, and is remembered until it is mended: log, metric and readiness tell of it.

use std::mem;
use std::sync::Arc;

use mproxy_tcp::tls::{Dated, Look, Material, MaterialError, Reloadable, Remark};
use parking_lot::Mutex;

use super::Causes;

/// The certificates of every listener and target. Its calls block on the file system.
#[derive(Default)]
pub struct CertificateStore {
    kept: Vec<CertificateSet>,
}

/// Those of one listener or target.
struct CertificateSet {
    whose: String,
    /// `None` for those that are read once, at the start.
    renew: Option<Arc<dyn Renew>>,
    /// Why the last attempt came to nothing.
    failure: Mutex<Option<String>>,
    /// The dates of those in force.
    look: Mutex<Look>,
    /// What of it has been told.
    told: Mutex<Vec<Remark>>,
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
    fn look(&self) -> Result<Look, MaterialError>;
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

    fn look(&self) -> Result<Look, MaterialError> {
        Self::look(self)
    }
}

impl CertificateStore {
    /// Takes care of one more.
    pub fn keep<M>(&mut self, whose: impl Into<String>, renew: &Arc<Reloadable<M>>)
    where
        M: Material + Send + Sync + 'static,
        M::Config: Send + Sync,
    {
        let renew = Arc::clone(renew) as Arc<dyn Renew>;
        let look = renew.look().unwrap_or_default();
        self.push(whose.into(), Some(renew), look);
    }

    /// Keeps the dates of others, which are not read anew.
    pub fn keep_dates(&mut self, whose: impl Into<String>, look: Look) {
        self.push(whose.into(), None, look);
    }

    fn push(&mut self, whose: String, renew: Option<Arc<dyn Renew>>, look: Look) {
        let (look, told) = (Mutex::new(look), Mutex::default());
        self.kept.push(CertificateSet { whose, renew, failure: Mutex::new(None), look, told });
    }

    /// What was told of those that this store takes the place of has been told.
    pub fn follow(&self, before: &Self) {
        for kept in &self.kept {
            let same = before.kept.iter().find(|one| one.whose == kept.whose);
            if let Some(same) = same {
                *kept.told.lock() = same.told.lock().clone();
            }
        }
    }

    /// New ones for `whose` could not be used; these stay in force.
    pub fn set_failing(&self, whose: &str, error: &str) {
        for kept in self.kept.iter().filter(|kept| kept.whose == whose) {
            *kept.failure.lock() = Some(error.to_owned());
        }
    }

    /// Whose they are, as far as they are read anew.
    pub fn renewable(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().filter(|kept| kept.renew.is_some()).map(|kept| &*kept.whose)
    }

    /// Everything with a date, and whose it is.
    pub fn dates(&self) -> Vec<(String, Dated)> {
        let of = |kept: &CertificateSet| {
            kept.look.lock().dates.iter().map(|date| (kept.whose.clone(), date.clone())).collect()
        };
        self.kept.iter().flat_map(|kept| -> Vec<_> { of(kept) }).collect()
    }

    /// What is wrong with those in force at this time, and whose they are.
    pub fn warnings(&self, now: i64) -> Vec<(String, Remark)> {
        let of = |kept: &CertificateSet| kept.look.lock().remarks(now);
        self.kept
            .iter()
            .flat_map(|kept| of(kept).into_iter().map(|remark| (kept.whose.clone(), remark)))
            .collect()
    }

    /// The same, but only what was not the case the last time: dates pass while nobody reads a file.
    pub fn news(&self, now: i64) -> Vec<(String, Remark)> {
        let mut news = Vec::new();
        for kept in &self.kept {
            let remarks = kept.look.lock().remarks(now);
            // What is the case no more is forgotten, and told once more if it comes back.
            let told = mem::replace(&mut *kept.told.lock(), remarks.clone());
            let fresh = remarks.into_iter().filter(|remark| !told.contains(remark));
            news.extend(fresh.map(|remark| (kept.whose.clone(), remark)));
        }
        news
    }

    /// Reads those anew of which a file has changed since it was read last. Cheap where none has.
    pub fn renew_changed(&self) -> Vec<Renewed> {
        let changed = |kept: &&CertificateSet| kept.renew.as_ref().is_some_and(|renew| renew.has_changed());
        self.kept.iter().filter(changed).filter_map(CertificateSet::renew).collect()
    }

    /// Whose files are broken at present, and why; the old ones are in force there.
    pub fn failing(&self) -> Vec<(String, String)> {
        let failing = |kept: &CertificateSet| Some((kept.whose.clone(), kept.failure.lock().clone()?));
        self.kept.iter().filter_map(failing).collect()
    }
}

impl CertificateSet {
    fn renew(&self) -> Option<Renewed> {
        let renew = self.renew.as_ref()?;
        let result = renew.reload().map_err(|error| Causes(&error).to_string());
        *self.failure.lock() = result.clone().err();
        // After a failure the old ones are in force, and so are their dates.
        if let (Ok(()), Ok(look)) = (&result, renew.look()) {
            *self.look.lock() = look;
        }
        Some(Renewed { whose: self.whose.clone(), result })
    }
}
