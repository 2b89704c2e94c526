//! How long what is logged may be: nobody can make a line, or what is sent of it, grow by more than this.

/// Bytes of one field's value, as they are written.
pub(super) const LONGEST_VALUE: usize = 256;

/// Bytes of a message, and of a field that explains something, which may hold several names.
pub(super) const LONGEST_MESSAGE: usize = 1024;

/// Fields that explain something.
const EXPLAINING: [&str; 4] = ["message", "detail", "error", "warning"];

/// Bytes of this field.
pub(super) fn longest(field: &str) -> usize {
    if EXPLAINING.contains(&field) { LONGEST_MESSAGE } else { LONGEST_VALUE }
}
