//! `[broker]` What a rule says beyond what it is about: what deciding passes on to opening.

use std::time::Duration;

use super::FileKind;
use crate::resolve::Way;
use crate::wire::SocketType;

/// What a rule about files says beyond its path and its rights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Terms {
    /// Of files, directories and sockets that are made.
    pub(crate) file_mode: u32,
    pub(crate) directory_mode: u32,
    pub(crate) socket_mode: u32,
    pub(crate) kinds: FileKinds,
    pub(crate) connect: SocketTypes,
    pub(crate) listen: SocketTypes,
    pub(crate) way: Way,
    pub(crate) protect_hard_links: bool,
    /// Of sockets that are connected, listen or are bound.
    pub(crate) socket: SocketOptions,
}

/// The kinds that a rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FileKinds(u8);

impl FileKinds {
    #[cfg(feature = "learn")]
    pub(in crate::policy) const ALL: Self = Self((1 << FileKind::ALL.len()) - 1);

    pub(super) fn with(self, kind: FileKind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether an object with this st_mode is of one of the kinds. No kind named stands for regular files.
    pub(crate) fn contain(self, mode: libc::mode_t) -> bool {
        let kinds = if self.0 == 0 { Self::default().with(FileKind::Regular) } else { self };
        FileKind::ALL.into_iter().any(|kind| kinds.0 & 1 << kind as u8 != 0 && kind.file_type() == mode & libc::S_IFMT)
    }
}

/// The types of socket that a rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SocketTypes(u8);

impl SocketTypes {
    pub(crate) fn with(self, socket: SocketType) -> Self {
        Self(self.0 | 1 << socket.code())
    }

    pub(crate) fn contain(self, socket: SocketType) -> bool {
        self.0 & 1 << socket.code() != 0
    }

    pub(super) fn of(sockets: impl IntoIterator<Item = SocketType>) -> Self {
        sockets.into_iter().fold(Self::default(), Self::with)
    }
}

/// How sockets of a rule are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SocketOptions {
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) dual_stack: bool,
    pub(crate) nonblocking: bool,
    pub(crate) backlog: i32,
    pub(crate) timeout: Duration,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl SocketOptions {
    pub(crate) const DEFAULT: Self = Self {
        reuse_address: true,
        reuse_port: false,
        dual_stack: false,
        nonblocking: false,
        backlog: 128,
        timeout: Duration::from_secs(10),
    };
}
