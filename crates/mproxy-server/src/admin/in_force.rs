//! What of the configuration in force the admin API looks at. A reload makes it another.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use mproxy_tcp::tls::{Reloadable, ServerTls};

use crate::config::Secret;
use crate::config::check::ConfigView;

/// Shared by all who look at it.
#[derive(Clone, Debug)]
pub struct InForce(Arc<SharedInForce>);

#[derive(Debug)]
struct SharedInForce {
    token: ArcSwapOption<Secret>,
    config: ArcSwap<ConfigView>,
    tls: ArcSwapOption<Reloadable<ServerTls>>,
}

impl InForce {
    /// `token` is what callers must show, if anything; `config` as [`crate::config::check::view`] shows it; `tls` what the
    /// port shows and asks for, if it has TLS.
    #[must_use]
    pub fn new(token: Option<Secret>, config: ConfigView, tls: Option<Arc<Reloadable<ServerTls>>>) -> Self {
        Self(Arc::new(SharedInForce {
            token: ArcSwapOption::from_pointee(token),
            config: ArcSwap::from_pointee(config),
            tls: ArcSwapOption::new(tls),
        }))
    }

    /// From the next request on, and TLS from the next connection on.
    pub fn set(&self, token: Option<Secret>, config: ConfigView, tls: Option<Arc<Reloadable<ServerTls>>>) {
        self.0.token.store(token.map(Arc::new));
        self.0.config.store(Arc::new(config));
        self.0.tls.store(tls);
    }

    pub(super) fn token(&self) -> Option<Arc<Secret>> {
        self.0.token.load_full()
    }

    pub(super) fn tls(&self) -> Option<Arc<Reloadable<ServerTls>>> {
        self.0.tls.load_full()
    }

    pub(super) fn config(&self) -> Arc<ConfigView> {
        self.0.config.load_full()
    }
}
