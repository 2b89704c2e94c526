//! The WebSocket door: turns one HTTP upgrade into a byte stream. It knows neither MQTT nor who may come in, and
//! never opens a socket itself: it works over any stream, so `wss` is TLS first and this afterwards.
//!
//! Its rooms, when they are furnished:
//!
//! | room | will hold |
//! |---|---|
//! | `upgrade` | the handshake of either side: path, subprotocols `mqtt` and `mqttv3.1`, the headers for the policy |
//! | `stream` | binary messages as one byte stream, whatever way the frames cut the packets |
