//! `[both]` Less from now on: what a worker keeps. The worker writes one to ask for it, the broker's side to impose it,
//! and the broker remembers what has come of them all in the same form.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::wire::{Narrow, NarrowWriter, Rights, TooLong, section};
use crate::wire::{Network, Ports};

/// What a worker keeps from now on, of each kind that is named here. **What is not named stays as it was, and what is
/// named with nothing in it is nothing.** What has been given up cannot be had again: a narrowing that asks for more
/// than is held is an error, and changes nothing.
///
/// For [`Client::narrow`](crate::Client::narrow), [`Service::narrow`](crate::Service::narrow),
/// [`Call::narrow`](crate::Call::narrow) and [`Standing::narrow`](super::Standing::narrow).
///
/// ```
/// use fdbroker::policy::Narrowing;
/// use fdbroker::wire::Right;
///
/// // Reads these two from now on, and goes on connecting as before.
/// let less = Narrowing::new().rights([Right::Read, Right::Connect]).paths(["/srv/www", "/etc/hosts"]);
/// // Connects to nothing any more by address, and to one host by name.
/// let less = Narrowing::new().connect([]).hosts(["db.example.org"]);
/// // Reads files of one directory, and does nothing else at all.
/// let less = Narrowing::nothing().rights(Right::Read).paths(["/srv/www"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a narrowing does nothing until a client, a service or a standing is given it"]
pub struct Narrowing {
    pub(super) rights: Option<Rights>,
    pub(super) paths: Option<Names>,
    pub(super) connect: Option<Networks>,
    pub(super) listen: Option<Networks>,
    /// In lower case.
    pub(super) hosts: Option<Names>,
    pub(super) abstract_names: Option<Names>,
    pub(super) services: Option<Names>,
}

/// A set: in order, and each once.
pub(super) type Names = Box<[Box<[u8]>]>;

/// Shared with the permits that were given under it.
pub(super) type Networks = Arc<[(Network, Ports)]>;

impl Narrowing {
    /// Leaves everything as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves nothing at all, unless more is said.
    pub fn nothing() -> Self {
        let none = || Some(Names::default());
        Self {
            rights: Some(Rights::NONE),
            paths: none(),
            connect: Some(Networks::default()),
            listen: Some(Networks::default()),
            hosts: none(),
            abstract_names: none(),
            services: none(),
        }
    }

    /// Keeps these rights: every verb is one. A call of a service keeps those of them that it asks for itself.
    pub fn rights(mut self, rights: impl Into<Rights>) -> Self {
        self.rights = Some(rights.into());
        self
    }

    /// Keeps these paths and everything beneath each, for every request about paths: of files, directories and UNIX
    /// sockets, both ends of a rename. Links are [followed](super::FileRule::follow_links_within) no longer, whichever
    /// paths they are; and the directories above are not told about any more, whatever
    /// [the policy says of them](super::PolicyBuilder::stat_leading_directories). For none, say `[""; 0]`.
    ///
    /// Held is what is inside the directory of a rule for a tree, what a pattern can match or have beneath it, and
    /// exactly the path of a rule for one: the directory above that is more.
    pub fn paths(mut self, paths: impl IntoIterator<Item: AsRef<Path>>) -> Self {
        self.paths = Some(set(paths.into_iter().map(|path| path.as_ref().as_os_str().as_bytes().into())));
        self
    }

    /// Keeps connections to these networks and ports, by address, TCP and UDP. Of a host's name, no other addresses are
    /// connected to. Each has to lie within one network that is held, with all its ports.
    pub fn connect(mut self, networks: impl IntoIterator<Item = (Network, Ports)>) -> Self {
        self.connect = Some(networks.into_iter().filter(|(_, ports)| !ports.is_empty()).collect());
        self
    }

    /// Keeps these networks and ports to listen on (TCP) and to be bound to (UDP). Each has to lie within one network
    /// that is held, with all its ports.
    pub fn listen(mut self, networks: impl IntoIterator<Item = (Network, Ports)>) -> Self {
        self.listen = Some(networks.into_iter().filter(|(_, ports)| !ports.is_empty()).collect());
        self
    }

    /// Keeps connections by name to these hosts. Each is the name of a rule, whatever its case. For none, say `["";
    /// 0]`.
    pub fn hosts(mut self, hosts: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.hosts = Some(set(hosts.into_iter().map(|host| host.as_ref().to_ascii_lowercase().into_bytes().into())));
        self
    }

    /// Keeps the UNIX sockets with these abstract names (without their NULs). For none, say `[""; 0]`.
    pub fn abstract_names(mut self, names: impl IntoIterator<Item: AsRef<[u8]>>) -> Self {
        self.abstract_names = Some(set(names.into_iter().map(|name| name.as_ref().into())));
        self
    }

    /// Keeps these services. For none, say `[""; 0]`.
    pub fn services(mut self, services: impl IntoIterator<Item: AsRef<str>>) -> Self {
        self.services = Some(set(services.into_iter().map(|name| name.as_ref().as_bytes().into())));
        self
    }

    /// Puts it into `buffer` as it stands on the wire.
    ///
    /// # Errors
    /// [`TooLong`]: it does not fit, or names more than [256](crate::wire::MAX_NETWORKS) networks to connect to, or to
    /// listen on.
    pub fn encode<'b>(&self, buffer: &'b mut [u8]) -> Result<Narrow<'b>, TooLong> {
        let Self { rights, paths, connect, listen, hosts, abstract_names, services } = self;
        let mut writer = NarrowWriter::new(buffer);
        if let Some(rights) = rights {
            writer.rights(*rights)?;
        }
        let names = |writer: &mut NarrowWriter<'_>, tag, names: &Option<Names>| match names {
            Some(names) => writer.names(tag, names.iter().map(|name| &**name)),
            None => Ok(()),
        };
        let networks = |writer: &mut NarrowWriter<'_>, tag, networks: &Option<Networks>| match networks {
            Some(networks) => writer.networks(tag, networks.iter().copied()),
            None => Ok(()),
        };
        names(&mut writer, section::PATHS, paths)?;
        networks(&mut writer, section::CONNECT, connect)?;
        networks(&mut writer, section::LISTEN, listen)?;
        names(&mut writer, section::HOSTS, hosts)?;
        names(&mut writer, section::ABSTRACT_NAMES, abstract_names)?;
        names(&mut writer, section::SERVICES, services)?;
        Ok(writer.finish())
    }
}

impl From<Narrow<'_>> for Narrowing {
    fn from(narrow: Narrow<'_>) -> Self {
        let owned = |name: &[u8]| name.into();
        Self {
            rights: narrow.rights(),
            paths: narrow.paths().map(|paths| set(paths.map(owned))),
            connect: narrow.connect().map(Iterator::collect),
            listen: narrow.listen().map(Iterator::collect),
            hosts: narrow.hosts().map(|hosts| set(hosts.map(|host| host.to_ascii_lowercase().into()))),
            abstract_names: narrow.abstract_names().map(|names| set(names.map(owned))),
            services: narrow.services().map(|services| set(services.map(owned))),
        }
    }
}

fn set(names: impl Iterator<Item = Box<[u8]>>) -> Names {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    names.into()
}
