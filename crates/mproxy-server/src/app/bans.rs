//! Bans set and lifted: put in force, in the file, and upon whoever is connected.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::error;

use crate::admin::{BanKept, Banned};
use crate::protect::bans::{Ban, BanTarget, FileVersion, TooManyBans};
use crate::serve::House;

/// Sets a ban, and disconnects whom it is about.
pub(super) async fn set(house: Arc<House>, ban: Ban) -> Result<Banned, TooManyBans> {
    house.protection.bans.add(ban.clone(), SystemTime::now())?;
    // Those in the middle of a handshake.
    house.bans_changed.notify_waiters();
    // Those whose names nobody knows yet look for themselves when they are known.
    let disconnected = house.registry.kick_banned(&ban).await;
    let kept = save(&house).await;
    Ok(Banned { ban, disconnected, kept })
}

/// Lifts a ban, and says whether the file says so, too; `None` where there is none.
pub(super) async fn lift(house: Arc<House>, target: BanTarget) -> Option<BanKept> {
    let lifted = house.protection.bans.remove(&target, SystemTime::now());
    // In any case: it may have failed before.
    let kept = save(&house).await;
    lifted.then_some(kept)
}

/// Before another process takes over, which reads the file: it has to hold what is in force.
///
/// # Errors
/// It does not, and cannot be written.
pub(super) async fn be_taken_over(house: &Arc<House>) -> Result<(), String> {
    let saving = Arc::clone(house);
    // Waits for the disk: not on a runtime thread.
    let saved = tokio::task::spawn_blocking(move || saving.protection.bans.save_unsaved()).await;
    saved.unwrap_or_else(|panicked| Err(panicked.into())).map_err(|error| {
        format!("the file of bans does not hold what is in force, and cannot be written: {error}; a new process would not know")
    })
}

/// How soon bans that another process has set are in force here.
const FOLLOWED_AFTER: Duration = Duration::from_secs(1);

/// Another process has taken over, and sets and lifts bans: what its file says is in force here, too, for those who stay.
/// Never ends, where there is a file.
pub(super) async fn follow(house: Arc<House>) {
    if !house.protection.bans.have_file() {
        return;
    }
    let mut read = None;
    loop {
        let (following, known) = (Arc::clone(&house), read);
        // Waits for the disk: not on a runtime thread.
        let look = move || follow_once(&following, known);
        read = tokio::task::spawn_blocking(look).await.unwrap_or(known);
        tokio::time::sleep(FOLLOWED_AFTER).await;
    }
}

/// Reads the file if it is another one than was read before. Which one that is.
fn follow_once(house: &House, read: Option<FileVersion>) -> Option<FileVersion> {
    let there = house.protection.bans.file_version();
    if there != read {
        match house.protection.bans.reread(SystemTime::now()) {
            Ok(()) => house.dismiss_banned(),
            Err(error) => {
                error!(%error, "file of bans could not be read, those that were in force stay");
            }
        }
    }
    there
}

/// What cannot be written is told, and changes nothing: it is written with the next change.
async fn save(house: &Arc<House>) -> BanKept {
    if !house.protection.bans.have_file() {
        return BanKept::NoFile;
    }
    let saving = Arc::clone(house);
    // Waits for the disk: not on a runtime thread.
    let saved = tokio::task::spawn_blocking(move || saving.protection.bans.save()).await;
    match saved.unwrap_or_else(|panicked| Err(panicked.into())) {
        Ok(()) => BanKept::InFile,
        Err(error) => {
            error!(%error, "file of bans could not be written, bans are in force all the same");
            BanKept::Failed(error.to_string())
        }
    }
}
