//! The TCP door: listening, dialling and the sockets options that go with them.
