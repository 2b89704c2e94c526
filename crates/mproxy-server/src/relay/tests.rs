//! Scenes of the relay over in-memory streams.
