//! `[broker -> worker]` What stands in a worker's root directory.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::files::{Files, Needed};
use super::mountinfo::{self, mounts};
use crate::sys::child::Entity;
use crate::sys::process;

/// The files, each at its own path, with the directories above them: in an order in which they can be made.
pub(super) fn entities(files: &Files) -> io::Result<Vec<Entity>> {
    let mut root = Root::default();
    let mut needed: Vec<_> = files.needed.iter().collect();
    needed.sort_by(|one, other| one.path.cmp(&other.path));
    for needed in needed {
        root.bind(needed)?;
    }
    let mut links: Vec<_> = files.links.iter().collect();
    links.sort();
    for (path, target) in links {
        root.link(path, target)?;
    }
    Ok(root.entities)
}

/// Why it cannot have all of the files: without mount_setattr(2), what is bound comes without what is mounted beneath it,
/// and with what that covers.
pub(super) fn can_be_whole(files: &Files) -> Result<(), String> {
    let directories = || files.needed.iter().filter(|needed| needed.is_directory).map(|needed| &needed.path);
    if process::restricts_trees() || directories().next().is_none() {
        return Ok(());
    }
    for mount in mounts().map_err(|error| format!("{}: {error}", mountinfo::PATH))? {
        let place = &mount.point;
        if let Some(above) = directories().find(|directory| place != *directory && place.starts_with(directory)) {
            let (place, above) = (place.display(), above.display());
            return Err(format!("{place} is mounted beneath {above}: that takes mount_setattr(2), Linux 5.12"));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Root {
    entities: Vec<Entity>,
    /// What is there, with all beneath it.
    trees: Vec<PathBuf>,
    directories: BTreeSet<PathBuf>,
}

impl Root {
    fn bind(&mut self, needed: &Needed) -> io::Result<()> {
        let path = &needed.path;
        if self.is_there(path) {
            return Ok(());
        }
        self.make_above(path)?;
        let place = inside(path)?;
        self.entities.push(if needed.is_directory { Entity::Directory(place) } else { Entity::File(place) });
        let source = CString::new(path.as_os_str().as_bytes())?;
        self.entities.push(Entity::Bind { path: inside(path)?, source, is_device: needed.is_device });
        self.trees.push(path.to_owned());
        Ok(())
    }

    fn link(&mut self, path: &Path, target: &Path) -> io::Result<()> {
        // A path that is another for another reason than its last name (`.`, `..`, a link further up) is none that
        // could be made here.
        let normal = path.components().skip(1).all(|part| matches!(part, std::path::Component::Normal(_)));
        if !normal || self.is_there(path) || self.directories.contains(path) {
            return Ok(());
        }
        self.make_above(path)?;
        let target = CString::new(target.as_os_str().as_bytes())?;
        self.entities.push(Entity::Link { path: inside(path)?, target });
        self.trees.push(path.to_owned());
        Ok(())
    }

    fn is_there(&self, path: &Path) -> bool {
        self.trees.iter().any(|tree| path.starts_with(tree))
    }

    fn make_above(&mut self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path.ancestors().skip(1).filter(|path| path.parent().is_some()).collect();
        above.reverse();
        for directory in above {
            if self.directories.insert(directory.to_owned()) {
                self.entities.push(Entity::Directory(inside(directory)?));
            }
        }
        Ok(())
    }
}

/// Relative to the root.
fn inside(path: &Path) -> io::Result<CString> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    Ok(CString::new(relative.as_os_str().as_bytes())?)
}

/// What an entity is, for those who are told that it could not be made.
pub(super) fn path_of(entity: &Entity) -> PathBuf {
    let (Entity::Directory(path) | Entity::File(path) | Entity::Link { path, .. } | Entity::Bind { path, .. }) = entity;
    Path::new("/").join(std::ffi::OsStr::from_bytes(path.as_bytes()))
}
