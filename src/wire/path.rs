//! `[both]` The form of a path in a request and in a rule.
//!
//! A path is absolute and has plain components only: bytes other than `/` and NUL, one slash before each component
//! and none after the last. No component is `.` or `..`; `..name` is a plain component. What stands here is decided on
//! the bytes alone, before any policy or file system is asked, and both halves of the crate use this one function.
//!
//! Limits are the kernel's: [`PATH_MAX`] bytes with the terminating NUL, [`NAME_MAX`] bytes a component
//! (path_resolution(7)).

/// Bytes of the longest path, counting the NUL that the kernel wants after it.
pub const PATH_MAX: usize = 4096;
/// Bytes of the longest component.
pub const NAME_MAX: usize = 255;

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// It has no bytes.
    #[error("the path is empty")]
    Empty,
    /// It does not start with a slash.
    #[error("the path is relative: paths are absolute here")]
    Relative,
    /// It ends with a slash, or is only a slash.
    #[error("the path ends with a slash")]
    TrailingSlash,
    /// Two slashes follow each other.
    #[error("the path has an empty component (two slashes)")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the path has a component \".\" or \"..\": only plain components are resolved")]
    Dots,
    /// A NUL byte.
    #[error("the path has a NUL byte")]
    Nul,
    /// More than [`PATH_MAX`] bytes with its NUL, or a component of more than [`NAME_MAX`].
    #[error("the path is longer than 4095 bytes, or a component of it is longer than 255")]
    TooLong,
}

/// Says whether `path` has the form described above.
///
/// # Errors
/// The first thing found wrong, from left to right; a path that is too long is always [`PathError::TooLong`].
pub fn check(path: &[u8]) -> Result<(), PathError> {
    if path.len() >= PATH_MAX {
        return Err(PathError::TooLong);
    }
    if path.contains(&0) {
        return Err(PathError::Nul);
    }
    let components = match path {
        [] => return Err(PathError::Empty),
        [b'/', rest @ ..] => rest,
        _ => return Err(PathError::Relative),
    };
    if path.ends_with(b"/") {
        return Err(PathError::TrailingSlash);
    }
    for component in components.split(|&byte| byte == b'/') {
        match component {
            b"" => return Err(PathError::EmptyComponent),
            b"." | b".." => return Err(PathError::Dots),
            _ if component.len() > NAME_MAX => return Err(PathError::TooLong),
            _ => {}
        }
    }
    Ok(())
}
