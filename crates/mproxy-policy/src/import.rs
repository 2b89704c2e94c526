//! Rule files made out of what other programs have, for those who come from elsewhere.
//!
//! | room | holds |
//! |---|---|
//! | [`mosquitto`] | its `acl_file` and its password file |

pub mod mosquitto;
