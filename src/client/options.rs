//! `[worker]` Opening a file in other ways than by the plain verbs.

use std::fmt;
use std::fs::File;
use std::path::Path;

use super::Client;
use crate::error::ClientError;
use crate::wire::Access;

/// How a file is to be opened, in the manner of [`std::fs::OpenOptions`]. Made by
/// [`Client::open_options`]. What the combination needs is what the rule must grant.
///
/// ```no_run
/// # let client = fdbroker::Client::from_stdin()?;
/// let log = client.open_options().append(true).create(true).open("/var/log/app.log")?;
/// # Ok::<(), fdbroker::ClientError>(())
/// ```
#[derive(Clone)]
#[must_use = "it opens nothing until it is told a path"]
pub struct OpenOptions<'c> {
    client: &'c Client,
    access: Access,
    create_new: bool,
}

impl<'c> OpenOptions<'c> {
    pub(super) fn new(client: &'c Client) -> Self {
        Self { client, access: Access::default(), create_new: false }
    }

    fn set(mut self, access: Access, set: bool) -> Self {
        self.access = if set { self.access.with(access) } else { self.access.without(access) };
        self
    }

    /// For reading.
    pub fn read(self, read: bool) -> Self {
        self.set(Access::READ, read)
    }

    /// For writing.
    pub fn write(self, write: bool) -> Self {
        self.set(Access::WRITE, write)
    }

    /// For writing at its end. With [`write`](Self::write) as well it is the same, as in std.
    pub fn append(self, append: bool) -> Self {
        self.set(Access::APPEND, append)
    }

    /// Emptied, if it is opened for writing.
    pub fn truncate(self, truncate: bool) -> Self {
        self.set(Access::TRUNCATE, truncate)
    }

    /// Created, with the policy's mode, if it is not there.
    pub fn create(self, create: bool) -> Self {
        self.set(Access::CREATE, create)
    }

    /// Created, and not there before: [`create`](Self::create) and [`truncate`](Self::truncate) say nothing then, as in
    /// std.
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// With O_NONBLOCK on the descriptor, for a FIFO or a device.
    pub fn nonblocking(self, nonblocking: bool) -> Self {
        self.set(Access::NONBLOCKING, nonblocking)
    }

    /// Opens it.
    ///
    /// # Errors
    /// As for [`Client::read`]; [`Reason::Impossible`](crate::wire::Reason::Impossible) with EINVAL for a combination
    /// that means nothing, such as to truncate without writing; EAGAIN when a file that was to be opened or created
    /// came and went each time it was looked for, and ELOOP, as for every link, when a link of its name leads nowhere.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File, ClientError> {
        self.client.open(self.access(), path.as_ref())
    }

    /// As the wire says it: there, a combination has one spelling.
    pub(super) fn access(&self) -> Access {
        let mut access = self.access;
        if access.contains(Access::APPEND) {
            access = access.without(Access::WRITE);
        }
        if self.create_new {
            access = access.without(Access::TRUNCATE).with(Access::CREATE | Access::NEW);
        }
        access
    }
}

impl fmt::Debug for OpenOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions").field("access", &self.access().to_string()).finish_non_exhaustive()
    }
}
