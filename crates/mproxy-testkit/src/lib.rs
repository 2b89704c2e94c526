//! Scripted peers, a seeded simulator and deciders that delay and fail on command.
