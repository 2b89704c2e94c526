//! The house: composition, relay, configuration, admin, telemetry and the mproxy binary.
