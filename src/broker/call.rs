//! `[broker]` Services of the daemon's own.

use std::io;
use std::os::fd::OwnedFd;

use crate::policy::{Narrowing, NoSuchPhase, NotHeld, Standing};
use crate::wire::{MAX_BATCH, Rights};

pub(super) type Handler = dyn Fn(&Call<'_>, &mut Gift<'_>) -> io::Result<()> + Send + Sync;

/// A worker's call of a service, which its policy allows.
#[derive(Debug)]
pub struct Call<'a> {
    pub(super) worker: &'a str,
    pub(super) rights: Rights,
    pub(super) bytes: &'a [u8],
    pub(super) standing: &'a Standing,
}

impl Call<'_> {
    /// The worker's name, as given to [`Broker::serve`](crate::Broker::serve).
    #[must_use]
    pub fn worker(&self) -> &str {
        self.worker
    }

    /// The rights that the call asks for, all of which the worker's rule grants.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// What the worker says. Trust nothing of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// The name of the phase that the worker is in.
    #[must_use]
    pub fn phase(&self) -> &str {
        self.standing.phase()
    }

    /// Begins a later [phase](crate::policy::PolicyBuilder::phase) of this worker: it holds for the requests after this
    /// one.
    ///
    /// # Errors
    /// There is no later phase of this name; nothing changes.
    pub fn enter_phase(&self, phase: &str) -> Result<(), NoSuchPhase> {
        self.standing.enter(phase)
    }

    /// Leaves this worker less: it holds for the requests after this one.
    ///
    /// # Errors
    /// It asks for more than the worker holds; nothing changes.
    pub fn narrow(&self, narrowing: &Narrowing) -> Result<(), NotHeld> {
        self.standing.narrow(narrowing)
    }
}

/// What a service gives to the worker that called it.
#[derive(Debug)]
pub struct Gift<'a> {
    pub(super) data: &'a mut [u8],
    pub(super) len: usize,
    pub(super) fds: &'a mut Vec<OwnedFd>,
    pub(super) room: usize,
}

impl Gift<'_> {
    /// Gives bytes, behind those given before.
    ///
    /// # Errors
    /// EMSGSIZE: a reply holds 16,364 bytes; nothing is added.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let end = self.len + bytes.len();
        let place = self.data.get_mut(self.len..end).ok_or_else(|| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        place.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Gives a descriptor, behind those given before. It is closed here once it is sent.
    ///
    /// # Errors
    /// EAGAIN: it is over the worker's [limit](crate::Limits::descriptors_outstanding), and closed.
    pub fn push(&mut self, fd: impl Into<OwnedFd>) -> io::Result<()> {
        if self.fds.len() >= self.room.min(MAX_BATCH) {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        self.fds.push(fd.into());
        Ok(())
    }
}
