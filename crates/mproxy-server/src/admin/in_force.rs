//! What of the configuration in force the admin API looks at. A reload makes it another.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::config::Secret;
use crate::config::check::ConfigView;

/// Shared by all who look at it.
#[derive(Clone, Debug)]
pub struct InForce(Arc<SharedInForce>);

#[derive(Debug)]
struct SharedInForce {
    token: ArcSwapOption<Secret>,
    config: ArcSwap<ConfigView>,
}

impl InForce {
    /// `token` is what callers must show, if anything; `config` as [`crate::config::check::view`] shows it.
    #[must_use]
    pub fn new(token: Option<Secret>, config: ConfigView) -> Self {
        let token = ArcSwapOption::from_pointee(token);
        Self(Arc::new(SharedInForce { token, config: ArcSwap::from_pointee(config) }))
    }

    /// From the next request on.
    pub fn set(&self, token: Option<Secret>, config: ConfigView) {
        self.0.token.store(token.map(Arc::new));
        self.0.config.store(Arc::new(config));
    }

    pub(super) fn token(&self) -> Option<Arc<Secret>> {
        self.0.token.load_full()
    }

    pub(super) fn config(&self) -> Arc<ConfigView> {
        self.0.config.load_full()
    }
}
