//! `[broker]` Policies as text: TOML, or a part of a configuration in any format that serde reads.

mod error;
mod file;
mod nearest;
mod place;
mod rule;
mod value;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use error::TextError;
use file::{Entry, FileText};
use place::Map;
use rule::{RuleText, Wrong};
#[cfg(feature = "cli")]
pub(crate) use value::unescaped;
use value::{Name, Refusal};

use super::template::{self, Values};
use super::{Place, Policy, PolicyBuilder};
use crate::error::PolicyError;
use crate::policy::Limits;
use crate::wire::Rights;

/// A policy as it is written, in the words of the [builder](PolicyBuilder): read from TOML ([`parse`](Self::parse)), or
/// a field of a daemon's own configuration, which serde reads. Nothing is opened before a policy is built of it.
///
/// ```
/// use fdbroker::PolicyFile;
/// use fdbroker::policy::Values;
///
/// let text = r#"
///     stat-leading-directories = true
///
///     [[allow]]
///     beneath = "/etc"
///     rights = ["read", "list"]
///
///     [[deny]]
///     file = "/etc/{user}.key"
/// "#;
/// let file = PolicyFile::parse(text, "web.toml")?;
/// let policy = file.builder(&Values::new().with("user", "alice")?)?.build()?;
///
/// let error = PolicyFile::parse("[[allow]]\nbeneth = '/etc'\n", "web.toml").unwrap_err();
/// assert!(error.to_string().starts_with("web.toml:2:1: a rule has no key \"beneth\": is \"beneath\" meant?"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Keys of the policy
///
/// | key | value | unless said |
/// |---|---|---|
/// | `[[allow]]`, `[[deny]]` | rules, each a table (below); their order means nothing | everything is refused |
/// | `[[phase]]` | a phase of the worker's life: its `name`, and its rules `[[phase.allow]]` and `[[phase.deny]]`; the worker begins in the first one | none |
/// | `[limits]` | what one worker may ask at a time (below) | those of [`Limits`] |
/// | `refuse-with` | the errno of refusals: a name as `"ENOENT"`, or a number of 1 to 4095 | `"EACCES"` |
/// | `stat-leading-directories` | `true`: [stat above the rules' directories](PolicyBuilder::stat_leading_directories) | `false` |
/// | `mkdir-says-exists` | `true`: [mkdir above them says EEXIST](PolicyBuilder::mkdir_says_exists) | `false` |
/// | `worker-is-confined` | `true`: [no descriptors of directories](PolicyBuilder::worker_is_confined) | `false` |
///
/// # What a rule is about
///
/// Each rule has exactly one of these keys.
///
/// | key | value | with |
/// |---|---|---|
/// | `file` | the path of one [file](super::Rule::file) | the keys of files |
/// | `beneath` | the path of a directory: [all beneath it](super::Rule::beneath) | the keys of files |
/// | `glob` | a [pattern](super::Rule::glob) of paths: `*`, `?`, `**` | the keys of files |
/// | `scratch` | the directory of [unnamed temporary files](super::Rule::scratch) | `once` |
/// | `listen` | `"127.0.0.1:8080"`, or a network as `"10.0.0.0/8"` and `ports`: TCP sockets that listen | `ports`, `reuse-address`, `reuse-port`, `dual-stack`, `nonblocking`, `backlog`, `once` |
/// | `bind` | as for `listen`: UDP sockets | `ports`, `reuse-address`, `reuse-port`, `dual-stack`, `nonblocking`, `once` |
/// | `connect` | as for `listen`: connected sockets | `ports`, `transport`, `nonblocking`, `timeout`, `once` |
/// | `connect-name` | the name of a host, which the broker looks up | `ports` (always), `transport`, `answers-within`, `nonblocking`, `timeout`, `once` |
/// | `listen-abstract`, `connect-abstract` | the abstract name of a UNIX socket, without its NUL | `socket-type`, `nonblocking`, `backlog` or `timeout`, `once` |
/// | `bind-abstract` | the same, of a datagram socket | `nonblocking`, `once` |
/// | `service` | the name of a [service](super::Rule::service) of the daemon's own | `rights`, `once` |
///
/// A rule of `deny` has `ports`, `transport` and `socket-type` at most, and is not about `scratch`.
///
/// # Keys of files
///
/// | key | value | unless said |
/// |---|---|---|
/// | `rights` | at least one of `"read"`, `"write"`, `"append"`, `"truncate"`, `"create"`, `"list"`, `"stat"`, `"readlink"`, `"mkdir"`, `"unlink"`, `"rmdir"`, `"rename"`, `"directory-escape"`, `"listen"`, `"bind"`, `"connect"`: those of [`Right`](crate::wire::Right) | must be said |
/// | `create-mode`, `mkdir-mode`, `socket-mode` | permission bits of what is made, as `0o640` or, for formats without octal numbers, `"0640"`; [`parse`](Self::parse) takes no decimal numbers | must be said with `create`; with `mkdir`; with `listen` or `bind` |
/// | `sockets` | types of UNIX sockets that are connected or listen: `"stream"`, `"datagram"`, `"seqpacket"` | must be said with `connect` and `listen` |
/// | `listen-sockets` | those that listen, where they are others | those of `sockets` |
/// | `kinds` | what is opened and renamed: `"regular"`, `"fifo"`, `"character-device"`, `"block-device"` | `["regular"]` |
/// | `follow-links-within` | `true`, for `beneath`: [symbolic links that stay inside](super::FileRule::follow_links_within) | `false` |
/// | `one-file-system` | `true`: [no other file system that is mounted inside](super::FileRule::one_file_system) | `false` |
/// | `protect-hard-links` | `true`: [no file with a second name](super::FileRule::protect_hard_links) | `false` |
/// | `reopen-root` | `true`: [the directory is opened for each request](super::FileRule::reopen_root) | `false` |
/// | `nonblocking`, `backlog`, `timeout` | of UNIX sockets, as below | as below |
/// | `once` | `true`: each worker is granted it one time | `false` |
///
/// # Keys of sockets
///
/// | key | value | unless said |
/// |---|---|---|
/// | `ports` | `443`, or `"1024-65535"` | must be said with a network or a name |
/// | `transport` | `"tcp"` or `"udp"` | `"tcp"` |
/// | `socket-type` | `"stream"`, `"datagram"` or `"seqpacket"` | `"stream"` |
/// | `answers-within` | networks; of what the name stands for, only these are connected to | any |
/// | `reuse-address` | `true` or `false`: SO_REUSEADDR | `true` for `listen`, else `false` |
/// | `reuse-port` | `true`: SO_REUSEPORT | `false` |
/// | `dual-stack` | `true`: an IPv6 socket takes IPv4 as well | `false` |
/// | `nonblocking` | `true`: O_NONBLOCK | `false` |
/// | `backlog` | connections that may wait to be accepted, at most 65535 | `128` |
/// | `timeout` | seconds to look up and connect, as `10` or `2.5`: 0.001 to 86400 | `10` |
///
/// # Keys of limits
///
/// | key | value | unless said |
/// |---|---|---|
/// | `requests-in-flight` | [requests whose replies were not read](Limits::requests_in_flight) | no limit |
/// | `bytes-queued` | [bytes of replies that wait](Limits::bytes_queued), at least 16384 | `16384` |
/// | `requests-per-second` | [requests a second](Limits::requests_per_second) | no limit |
/// | `descriptors-outstanding` | [descriptors that were not received](Limits::descriptors_outstanding) | `253` |
///
/// # Paths and names
///
/// `{user}` in a path or an abstract name stands for a value that [`builder`](Self::builder) is given, once; a brace is
/// written twice to stand for itself. Which names there are, the daemon says.
///
/// What is not UTF-8 is written with escapes, as it stands in audit records, in single quotes:
/// `file = { escaped = '/srv/caf\xe9' }`. `\xNN` is a byte, `\\` a backslash, `\n`, `\r`, `\t`, `\'` and `\"` are what
/// they are elsewhere.
///
/// # Inside a configuration
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Config {
///     port: u16,
///     policy: fdbroker::PolicyFile,
/// }
///
/// let config: Config = toml::from_str(r#"
///     port = 8080
///
///     [[policy.allow]]
///     beneath = "/etc"
///     rights = ["read"]
/// "#)?;
/// # Ok::<(), toml::de::Error>(())
/// ```
///
/// The format says itself where something stands that it could not read. It does not say where rules stand that were
/// read: errors of [`PolicyBuilder::build`] name them by their numbers ([`Place::Position`]). Formats must name the
/// fields of their tables, as TOML, JSON and YAML do.
///
/// Two files are equal if they say the same things, wherever in the text.
#[derive(Debug, Clone)]
pub struct PolicyFile {
    text: FileText,
    /// Of the rules, in the order in which the policy is given them.
    places: Vec<Place>,
}

impl PolicyFile {
    /// Reads TOML. `file_name` is what errors call the text; nothing is opened by that name.
    ///
    /// # Errors
    /// [`TextError`] with line and column: it is not TOML, a key is unknown, a value is not one of those that the key
    /// can have, or keys do not go together.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, TextError> {
        let map = Map::new(text, file_name)?;
        map.check()?;
        let text: FileText = toml::from_str(text).map_err(|error| map.error(&error))?;
        text.check().map_err(|fault| TextError::new(map.find(&fault.steps), fault.why))?;
        let places = text.entries().map(|entry| map.find(&entry.steps())).collect();
        Ok(Self { text, places })
    }

    /// The policy's builder, with these values for the names in braces. Its rules name the lines where they stand here,
    /// so that errors of [`build`](PolicyBuilder::build) do.
    ///
    /// # Errors
    /// [`TextError`] for a name in braces that has no value.
    pub fn builder(&self, values: &Values) -> Result<PolicyBuilder, TextError> {
        let mut builder = Policy::builder();
        if let Some(Refusal(errno)) = self.text.refuse_with {
            builder = builder.refuse_with(errno);
        }
        if self.text.stat_leading_directories {
            builder = builder.stat_leading_directories();
        }
        if self.text.mkdir_says_exists {
            builder = builder.mkdir_says_exists();
        }
        if self.text.worker_is_confined {
            builder = builder.worker_is_confined();
        }
        let mut rules = Vec::with_capacity(self.places.len());
        for (Entry { phase, denies, rule, .. }, place) in self.text.entries().zip(&self.places) {
            rules.push((
                phase,
                denies,
                rule.rule(denies, &expand(values)).map_err(wrong(place))?.placed(place.clone()),
            ));
        }
        let mut rules = rules.into_iter().peekable();
        while let Some((_, denies, rule)) = rules.next_if(|(phase, ..)| phase.is_none()) {
            builder = if denies { builder.deny(rule) } else { builder.allow(rule) };
        }
        for (n, name) in self.text.phases().enumerate() {
            builder = builder.phase(name, |mut builder| {
                while let Some((_, denies, rule)) = rules.next_if(|(phase, ..)| *phase == Some(n)) {
                    builder = if denies { builder.deny(rule) } else { builder.allow(rule) };
                }
                builder
            });
        }
        Ok(builder)
    }

    /// The limits that it sets, for [`Broker::limits`](crate::Broker::limits): a policy says what, they say how much.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.text.limits()
    }

    /// Every rule, as it is written and in the order of [`Policy::rules`].
    pub fn rules(&self) -> impl Iterator<Item = WrittenRule<'_>> {
        let phases: Vec<&str> = self.text.phases().collect();
        self.text.entries().zip(&self.places).map(move |(Entry { phase, denies, rule, .. }, place)| {
            let phase = phase.and_then(|phase| phases.get(phase).copied());
            WrittenRule { phase, denies, rule, place }
        })
    }

    /// As TOML, which [`parse`](Self::parse) reads as a file equal to this one. Comments are gone.
    #[must_use]
    pub fn to_toml(&self) -> String {
        self.to_string()
    }
}

/// As [`PolicyFile::to_toml`].
impl fmt::Display for PolicyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(&self.text).map_err(|_| fmt::Error)?)
    }
}

impl PartialEq for PolicyFile {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Serialize for PolicyFile {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.text.serialize(to)
    }
}

impl<'de> Deserialize<'de> for PolicyFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = FileText::deserialize(from)?;
        text.check().map_err(|fault| serde::de::Error::custom(fault.in_words()))?;
        let places = (1..=text.entries().count()).map(Place::Position).collect();
        Ok(Self { text, places })
    }
}

impl Policy {
    /// Reads a policy that has no names in braces, and builds it: [`PolicyFile::parse`], [`PolicyFile::builder`] and
    /// [`PolicyBuilder::build`]. Its limits are not kept: those are for the broker, see [`PolicyFile::limits`].
    ///
    /// ```
    /// let text = "[[allow]]\nfile = '/etc/hostname'\nrights = ['read']\n";
    /// let policy = fdbroker::Policy::from_toml(text, "web.toml")?;
    /// # Ok::<(), fdbroker::PolicyError>(())
    /// ```
    ///
    /// # Errors
    /// [`PolicyError::Text`] for what the text says, any other for what is there.
    pub fn from_toml(text: &str, file_name: &str) -> Result<Self, PolicyError> {
        PolicyFile::parse(text, file_name)?.builder(&Values::new())?.build()
    }
}

/// A rule of a policy file, as it is written.
#[derive(Debug, Clone, Copy)]
pub struct WrittenRule<'f> {
    phase: Option<&'f str>,
    denies: bool,
    rule: &'f RuleText,
    place: &'f Place,
}

impl<'f> WrittenRule<'f> {
    /// Where it begins.
    #[must_use]
    pub fn place(&self) -> &'f Place {
        self.place
    }

    /// The phase that it is in, by name; `None` if it always holds.
    #[must_use]
    pub fn phase(&self) -> Option<&'f str> {
        self.phase
    }

    /// Whether it denies. Otherwise it allows.
    #[must_use]
    pub fn denies(&self) -> bool {
        self.denies
    }

    /// The key that says what it is about: `file`, `beneath`, `glob`, `scratch`, `listen`, `connect-name`, ...
    #[must_use]
    pub fn object(&self) -> &'static str {
        self.rule.object().unwrap_or_default()
    }

    /// The path of a file, tree, pattern or directory of scratch files, with names in braces and doubled braces as they
    /// stand there: [`expand`](super::expand) says what it is.
    #[must_use]
    pub fn path(&self) -> Option<&'f Path> {
        self.rule.path().map(|path| Path::new(OsStr::from_bytes(path)))
    }

    /// The rights that it names.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rule.rights()
    }
}

fn expand(values: &Values) -> impl Fn(&'static str, &Name) -> Result<std::path::PathBuf, Wrong> {
    |key, name| match template::expand_bytes(&name.0, values) {
        Ok(path) => Ok(OsString::from_vec(path).into()),
        Err(error) => Err(Wrong::at(key, format!("{key}: {error}"))),
    }
}

fn wrong(place: &Place) -> impl FnOnce(Wrong) -> TextError {
    |Wrong { why, .. }| TextError::new(place.clone(), why)
}
