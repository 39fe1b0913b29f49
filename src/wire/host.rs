//! `[both]` The form of a host's name.

/// The longest name of a host (RFC 1035, section 2.3.4, without the trailing dot).
pub(crate) const MAX_HOST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Checks the form of a host name (RFC 1123, with the underscores that are in use): labels of 1 to 63 letters, digits,
/// underscores and, neither first nor last, hyphens, with a dot between them, 253 bytes at most. What the system would
/// read as an IP address is no name, in whatever notation (`127.0.0.1`, `127.1`, `0x7f000001`): rules about networks
/// decide on those.
pub(crate) fn check_host(host: &[u8]) -> Result<&str, HostError> {
    let host = match host.len() {
        0 => return Err(HostError::Empty),
        1..=MAX_HOST => std::str::from_utf8(host).map_err(|_| HostError::Byte)?,
        _ => return Err(HostError::TooLong),
    };
    if host.contains(':') {
        return Err(HostError::Address);
    }
    if host.ends_with('.') {
        return Err(HostError::TrailingDot);
    }
    for label in host.split('.') {
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(HostError::Byte);
        }
        if !(1..=LONGEST_LABEL).contains(&label.len()) || label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Label);
        }
    }
    if host.rsplit('.').next().is_some_and(is_number) { Err(HostError::Address) } else { Ok(host) }
}

/// What is wrong with a host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HostError {
    #[error("the host name is empty")]
    Empty,
    #[error("the host name is longer than 253 bytes")]
    TooLong,
    #[error("a host name has letters, digits, hyphens, underscores and dots only")]
    Byte,
    #[error("a host name ends without a dot here")]
    TrailingDot,
    #[error("a label of the host name does not have 1 to 63 bytes, or has a hyphen at an end")]
    Label,
    #[error(
        "that is an IP address, or is taken for one: ask for the address itself, which rules about networks decide"
    )]
    Address,
}

/// The C library reads a name as an IPv4 address when its last label is a number, with 0x before it a hexadecimal one
/// (inet_aton(3)). No top-level domain is one.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || label.bytes().all(|byte| byte.is_ascii_digit())
}
