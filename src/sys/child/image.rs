//! `[broker -> worker]` The program that a new process executes.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::calls::{self, Vector};
use crate::sys::call::Errno;

/// A program with its arguments and environment, as execveat(2) wants them.
#[derive(Debug)]
pub(crate) struct Image {
    /// The program's file, if it is to be executed by descriptor.
    file: Option<File>,
    path: CString,
    /// Null-terminated, into `_strings`.
    argv: Vec<*const libc::c_char>,
    /// Null-terminated, into `_strings`.
    envp: Vec<*const libc::c_char>,
    _strings: Vec<CString>,
}

// SAFETY: the pointers are to the heap memory of `_strings`, which belongs to the same value and is never changed.
unsafe impl Send for Image {}
// SAFETY: as above; nothing can be changed through a shared reference.
unsafe impl Sync for Image {}

impl Image {
    /// Fails when anything holds a NUL byte.
    pub(crate) fn new<'a>(
        file: Option<File>,
        path: &Path,
        args: impl Iterator<Item = &'a OsStr>,
        env: impl Iterator<Item = &'a (OsString, OsString)>,
    ) -> io::Result<Self> {
        let variable = |(name, value): &(OsString, OsString)| [name.as_bytes(), b"=", value.as_bytes()].concat();
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut strings: Vec<CString> = args.map(|arg| CString::new(arg.as_bytes())).collect::<Result<_, _>>()?;
        let args = strings.len();
        for entry in env {
            strings.push(CString::new(variable(entry))?);
        }
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        let (argv, envp) = (pointers(&strings[..args]), pointers(&strings[args..]));
        Ok(Self { file, path, argv, envp, _strings: strings })
    }

    /// Returns only when it fails.
    pub(super) fn execute(&self, token: u64) -> Result<Infallible, Errno> {
        let program = self.file.as_ref().map(AsRawFd::as_raw_fd).ok_or(self.path.as_c_str());
        // SAFETY: both are null-terminated, into strings of the same value, by `Image::new`.
        let (argv, envp) = unsafe { (Vector::new(&self.argv), Vector::new(&self.envp)) };
        Err(calls::execveat(program, &argv, &envp, token).err().unwrap_or(Errno(libc::EINVAL)))
    }
}
