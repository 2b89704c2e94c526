//! The configuration in force. A new one replaces it whole or not at all, and only for handshakes to come: who is
//! connected stays so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::MaterialError;
use super::dates::Look;

/// What a configuration is made of.
pub trait Material {
    /// What is made of it.
    type Config;

    /// The files that are read for it.
    fn files(&self) -> Vec<&Path>;

    /// Reads them.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    fn build(&self) -> Result<Self::Config, MaterialError>;

    /// Everything that is wrong with the files, not only the first; nothing where [`build`](Self::build) works.
    fn faults(&self) -> Vec<MaterialError>;

    /// Until when the files hold, and what in them cannot do what it is there for. Reads them.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    fn look(&self) -> Result<Look, MaterialError>;
}

/// A configuration that can be read anew while it is in use.
#[derive(Debug)]
pub struct Reloadable<M: Material> {
    material: M,
    current: ArcSwap<M::Config>,
    /// As the files were when they were read last, good or not. Also keeps two reloads from overtaking each other.
    seen: Mutex<Vec<Option<Stamp>>>,
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    /// Kubernetes swaps a link instead of writing: same time, same length, another file.
    inode: u64,
}

impl<M: Material> Reloadable<M> {
    /// Reads the files for the first time. Blocks while it does.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn new(material: M) -> Result<Self, MaterialError> {
        // Before they are read: what changes meanwhile is seen at the next look.
        let seen = stamps(&material);
        let config = material.build()?;
        Ok(Self { material, current: ArcSwap::from_pointee(config), seen: Mutex::new(seen) })
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> Arc<M::Config> {
        self.current.load_full()
    }

    /// The files it is made of.
    pub fn files(&self) -> Vec<PathBuf> {
        self.material.files().into_iter().map(Path::to_owned).collect()
    }

    /// Looks at the dates of the files, as they are now. Blocks while it does.
    ///
    /// # Errors
    /// Which file is wrong, and why.
    pub fn look(&self) -> Result<Look, MaterialError> {
        self.material.look()
    }

    /// Whether a file is another one than when it was read last, good or not. Cheap: for asking every few seconds.
    pub fn has_changed(&self) -> bool {
        stamps(&self.material) != *self.seen.lock()
    }

    /// Reads all files anew. Blocks while it does.
    ///
    /// # Errors
    /// Which file is wrong, and why; then the old configuration stays in force.
    pub fn reload(&self) -> Result<(), MaterialError> {
        let mut seen = self.seen.lock();
        // Before they are read: what changes meanwhile is seen the next time.
        *seen = stamps(&self.material);
        self.current.store(Arc::new(self.material.build()?));
        Ok(())
    }
}

fn stamps(material: &impl Material) -> Vec<Option<Stamp>> {
    material.files().into_iter().map(stamp).collect()
}

/// `None` for a file that is not there.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let inode = 0;
    Some(Stamp { modified: metadata.modified().ok(), len: metadata.len(), inode })
}
