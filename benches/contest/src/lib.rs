//! `[both]` fdbroker beside raw calls and other crates: what a message costs, and what a hostile one does.
//!
//! Nothing here judges another crate by what is known of it: every cell of every table is measured when it is printed.

pub mod count;
pub mod hostile;
pub mod peers;
pub mod table;
