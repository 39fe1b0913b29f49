//! `[broker -> worker]` What kind of program a file is, and which other files the kernel and the program loader open for
//! it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// A program's file, opened once: what was opened is what runs, whatever becomes of its path.
#[derive(Debug)]
pub(super) struct Program {
    /// Absolute.
    pub(super) path: PathBuf,
    /// O_PATH: a file that may be executed need not be one that the broker may read.
    pub(super) file: File,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It needs no other file.
    Static,
    /// The kernel starts the loader at this path, which looks for libraries.
    Dynamic(PathBuf),
    /// The kernel starts the interpreter at this path, with the path of the script.
    Script(PathBuf),
    /// It cannot be read, so it may need anything that a dynamic program needs.
    Unreadable,
}

impl Program {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open_path(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a regular file"));
        }
        let kind = Kind::of(&file);
        Ok(Self { path: absolute(path)?, file, kind })
    }

    pub(super) fn is_script(&self) -> bool {
        matches!(self.kind, Kind::Script(_))
    }

    /// Whether a loader looks for libraries on its behalf.
    pub(super) fn wants_libraries(&self) -> bool {
        matches!(self.kind, Kind::Dynamic(_) | Kind::Unreadable)
    }
}

impl Kind {
    fn of(program: &File) -> Self {
        // Of the same file, whatever is at its path by now.
        let Ok(file) = File::open(format!("/proc/self/fd/{}", program.as_raw_fd())) else { return Self::Unreadable };
        Self::read(&file).unwrap_or(Self::Unreadable)
    }

    /// What is neither a script nor ELF the kernel refuses, or hands to a binfmt_misc interpreter: it is left to it.
    fn read(file: &File) -> io::Result<Self> {
        let mut start = Vec::new();
        // The kernel looks at no more (BINPRM_BUF_SIZE).
        file.take(256).read_to_end(&mut start)?;
        if let Some(line) = start.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let interpreter = line.split(|byte| matches!(byte, b' ' | b'\t')).find(|word| !word.is_empty());
            return Ok(Self::Script(PathBuf::from(OsStr::from_bytes(interpreter.unwrap_or_default()))));
        }
        let Some(header) = Header::of(&start) else { return Ok(Self::Static) };
        for index in 0..header.segments {
            let mut segment = [0; 56];
            let at = header.table.saturating_add(u64::from(index) * u64::from(header.size));
            file.read_exact_at(&mut segment[..header.entry()], at)?;
            if let Some((offset, length)) = header.interpreter(&segment) {
                // A path, with its NUL.
                let mut path = vec![0; usize::try_from(length).unwrap_or(0).min(libc::PATH_MAX as usize)];
                file.read_exact_at(&mut path, offset)?;
                let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
                return Ok(Self::Dynamic(PathBuf::from(OsStr::from_bytes(path))));
            }
        }
        Ok(Self::Static)
    }
}

/// What of an ELF header (elf(5)) says where the program headers are. Of this machine's byte order: others do not run.
struct Header {
    is_64_bit: bool,
    table: u64,
    size: u16,
    segments: u16,
}

impl Header {
    fn of(start: &[u8]) -> Option<Self> {
        let is_64_bit = match start.strip_prefix(b"\x7fELF")?.first()? {
            1 => false,
            2 => true,
            _ => return None,
        };
        // e_phoff, e_phentsize and e_phnum.
        let (table, size, segments) = if is_64_bit {
            (u64::from_ne_bytes(field(start, 32)?), field(start, 54)?, field(start, 56)?)
        } else {
            (u64::from(u32::from_ne_bytes(field(start, 28)?)), field(start, 42)?, field(start, 44)?)
        };
        Some(Self { is_64_bit, table, size: u16::from_ne_bytes(size), segments: u16::from_ne_bytes(segments) })
    }

    /// The size of a program header.
    fn entry(&self) -> usize {
        if self.is_64_bit { 56 } else { 32 }
    }

    /// Offset and length of the loader's path (PT_INTERP), if this segment is that.
    fn interpreter(&self, segment: &[u8]) -> Option<(u64, u64)> {
        const PT_INTERP: u32 = 3;
        if u32::from_ne_bytes(field(segment, 0)?) != PT_INTERP {
            return None;
        }
        if self.is_64_bit {
            Some((u64::from_ne_bytes(field(segment, 8)?), u64::from_ne_bytes(field(segment, 32)?)))
        } else {
            let word = |at| Some(u64::from(u32::from_ne_bytes(field(segment, at)?)));
            Some((word(4)?, word(16)?))
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A path that is the same from another working directory, and in a root in which not all the directories are that it
/// leads through.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let leads_back = path.components().any(|part| part == Component::ParentDir);
    if leads_back { path.canonicalize() } else { Ok(path) }
}

/// A file or directory by its name, for asking and for Landlock's rules.
pub(super) fn open_path(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH).open(path)
}
