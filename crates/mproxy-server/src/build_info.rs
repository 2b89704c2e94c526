//! What this program was built from and with, for `mproxy --version` and the metric `mproxy_build_info`.

/// The version of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit, `unknown` where the build did not see one (`build.rs`).
pub const COMMIT: &str = env!("MPROXY_COMMIT");

/// The version, the commit, and what does TLS (deny.toml sees to it that there is no other): one line.
pub const LINE: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("MPROXY_COMMIT"), ") rustls/ring");

/// The line, and what else there is to say.
pub const LINES: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("MPROXY_COMMIT"),
    ") rustls/ring\nfeatures: ",
    env!("MPROXY_FEATURES"),
    "\nbuild: ",
    env!("MPROXY_BUILD")
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_version_and_commit() {
        assert_eq!(LINE, format!("{VERSION} ({COMMIT}) rustls/ring"));
        assert!(LINES.starts_with(LINE) && !COMMIT.is_empty());
    }
}
