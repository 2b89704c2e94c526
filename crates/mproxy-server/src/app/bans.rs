//! Bans set and lifted: put in force, in the file, and upon whoever is connected.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::error;

use crate::admin::{BanKept, Banned};
use crate::protect::bans::{Ban, BanTarget, TooManyBans};
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
