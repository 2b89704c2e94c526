//! One client's session between its client and its broker.
