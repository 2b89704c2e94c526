//! The mind of mproxy: one MQTT session as a pure state machine.
