//! The advisers of mproxy: static rules and the remote policy service.
