//! What a service is there for.

/// What a service's answers are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceRole {
    /// They hold.
    InForce,
    /// They are compared with those that hold.
    Shadow,
}

impl ServiceRole {
    /// For the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::InForce => "policy",
            Self::Shadow => "shadow",
        }
    }
}
