//! The WebSocket door.
