//! `[broker -> worker]` The files that a program needs to get going: the loader and the system's libraries of a
//! dynamically linked one, the interpreter of a script, and what the sandbox was told.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::iter;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::program::{Kind, Program, open_path};
use crate::sys::process;

/// One that the worker may read, by its path, which holds no symbolic link.
#[derive(Debug)]
pub(super) struct Needed {
    pub(super) path: PathBuf,
    /// O_PATH.
    pub(super) file: File,
    pub(super) is_directory: bool,
    /// A character device.
    pub(super) is_device: bool,
    /// Whether it may be executed as well, or what is in it.
    pub(super) executable: bool,
}

/// What a program needs, and the symbolic links by which it is looked for.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) needed: Vec<Needed>,
    /// Path and target.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
}

/// Where the shared libraries of a dynamically linked program are.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];
/// Which library is where: ld.so(8).
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// The kernel follows so many interpreters of interpreters.
const INTERPRETERS: usize = 4;

impl Files {
    /// For this program, with what its sandbox says that it needs. `runtime` must be there; libraries need not.
    pub(super) fn of(program: &Program, runtime: &[PathBuf]) -> io::Result<Self> {
        let mut files = Self::default();
        let mut libraries = program.wants_libraries();
        if program.is_script() {
            files.add(&program.path, true)?;
        }
        if program.kind == Kind::Unreadable {
            files.add_loaders();
        }
        let mut next = files.add_interpreter(&program.kind)?;
        for _ in 0..INTERPRETERS {
            let Some(interpreter) = next else { break };
            libraries |= interpreter.wants_libraries();
            if interpreter.kind == Kind::Unreadable {
                files.add_loaders();
            }
            next = files.add_interpreter(&interpreter.kind)?;
        }
        if libraries {
            LIBRARIES.iter().chain([&LOADER_CACHE]).for_each(|path| files.add_if_there(Path::new(path), false));
        }
        for path in runtime {
            files.add(path, true)?;
        }
        Ok(files)
    }

    /// Whether the program, or what may be executed in its place, has file capabilities.
    pub(super) fn have_capabilities(&self, program: &Program) -> bool {
        let executable = self.needed.iter().filter(|needed| needed.executable && !needed.is_directory);
        iter::once(&program.file).chain(executable.map(|needed| &needed.file)).any(|file| {
            // By the file that was opened; O_PATH descriptors are not to be asked themselves.
            let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
            path.is_ok_and(|path| process::has_capabilities(&path))
        })
    }

    /// What the kernel starts in the program's place.
    fn add_interpreter(&mut self, kind: &Kind) -> io::Result<Option<Program>> {
        let path = match kind {
            Kind::Static | Kind::Unreadable => return Ok(None),
            Kind::Dynamic(loader) => loader,
            Kind::Script(interpreter) => interpreter,
        };
        // Without it the program does not start, for which exec has its own word.
        if !path.is_absolute() || !path.exists() {
            return Ok(None);
        }
        self.add(path, true)?;
        // A loader is started as it is, whatever it says of itself.
        if matches!(kind, Kind::Dynamic(_)) { Ok(None) } else { Program::open(path).map(Some) }
    }

    /// All there are: ld-linux-x86-64.so.2, ld-musl-x86_64.so.1 and the like.
    fn add_loaders(&mut self) {
        let is_loader = |name: &str| name.starts_with("ld-") && name.contains(".so");
        for directory in LIBRARIES {
            let entries = Path::new(directory).read_dir().into_iter().flatten().flatten();
            for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_loader)) {
                self.add_if_there(&entry.path(), true);
            }
        }
    }

    fn add_if_there(&mut self, path: &Path, executable: bool) {
        // Systems keep their libraries in different places.
        let _ = self.add(path, executable);
    }

    fn add(&mut self, path: &Path, executable: bool) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let real = path.canonicalize().map_err(named)?;
        let file = open_path(&real).map_err(named)?;
        let kind = file.metadata().map_err(named)?.file_type();
        let (is_directory, is_device) = (kind.is_dir(), kind.is_char_device());
        if real != path && path.is_absolute() {
            self.links.push((path.to_owned(), real.clone()));
        }
        match self.needed.iter_mut().find(|known| known.path == real) {
            Some(known) => known.executable |= executable,
            None => self.needed.push(Needed { path: real, file, is_directory, is_device, executable }),
        }
        Ok(())
    }
}
