//! Where the tests' directories are: in the temporary directory, if that is one in which everything can be shown.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{AccessFlags, access};

/// The temporary directory, or another that is fit where that is not. If none is, it is the temporary directory after
/// all: most tests do not mind.
pub fn of_directories() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let temporary = std::env::temp_dir();
        // Who started this process has chosen.
        if super::role().is_some() || is_fit(&temporary) {
            return temporary;
        }
        let others = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
        let beside_this_program = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
        others.into_iter().chain(beside_this_program).find(|place| is_fit(place)).unwrap_or(temporary)
    })
}

/// The names of sockets have 107 bytes, of which a test's own process and its names take most.
const LONGEST: usize = 50;

/// Words of it are told apart by spaces, in requests and policies, and what is printed escapes what is not ASCII. Workers
/// of other users search it, and programs are executed in it.
fn is_fit(place: &Path) -> bool {
    let Ok(place) = place.canonicalize() else { return false };
    let bytes = place.as_os_str().as_encoded_bytes();
    let plain = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(byte));
    let searched = place.ancestors().all(|place| fs::metadata(place).is_ok_and(|found| found.mode() & 0o001 != 0));
    let writable = access(&place, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    bytes.len() <= LONGEST && plain && searched && writable && runs_programs(&place)
}

/// With the rights of their modes.
#[cfg(target_os = "linux")]
fn runs_programs(place: &Path) -> bool {
    use nix::sys::statvfs::{FsFlags, statvfs};
    statvfs(place).is_ok_and(|found| !found.flags().intersects(FsFlags::ST_NOEXEC | FsFlags::ST_NOSUID))
}

#[cfg(not(target_os = "linux"))]
fn runs_programs(_: &Path) -> bool {
    true
}
