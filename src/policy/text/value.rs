//! `[broker]` The values of a policy file. Each knows what it is written as, and says what to write instead.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use nix::errno::Errno;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeMap};

use super::nearest::hint;
use crate::policy::{FileKind, Network, Ports, template};
use crate::wire::{Right, SocketType};

/// A path or an abstract name, of any bytes: a string, or `{ escaped = '/srv/caf\xe9' }`. Names in braces are templates
/// in both.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Name(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r"a string, or { escaped = '/srv/caf\xe9' } for what is not UTF-8")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Name, E> {
                checked(text.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Name, A::Error> {
                let expected = || A::Error::custom(r"the one key here is escaped, as in { escaped = '/srv/caf\xe9' }");
                let text = match map.next_entry::<String, String>()? {
                    Some((key, text)) if key == "escaped" => text,
                    _ => return Err(expected()),
                };
                if map.next_key::<String>()?.is_some() {
                    return Err(expected());
                }
                checked(unescaped(&text).map_err(A::Error::custom)?)
            }
        }
        from.deserialize_any(Form)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(&self.0) {
            return to.serialize_str(text);
        }
        let mut map = to.serialize_map(Some(1))?;
        map.serialize_entry("escaped", &self.0.escape_ascii().to_string())?;
        map.end()
    }
}

fn checked<E: Error>(name: Vec<u8>) -> Result<Name, E> {
    template::check(&name).map_err(E::custom)?;
    Ok(Name(name))
}

/// Takes back what [`escape_ascii`](slice::escape_ascii) does, which is how bytes stand in audit records.
pub(crate) fn unescaped(text: &str) -> Result<Vec<u8>, &'static str> {
    const FORM: &str = r#"a backslash begins one of \xNN (two hexadecimal digits), \\, \n, \r, \t, \' and \""#;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'\\' => {
                let (&escape, after) = rest.split_first().ok_or(FORM)?;
                rest = after;
                bytes.push(match escape {
                    b'x' => {
                        let (digits, after) = rest.split_first_chunk::<2>().ok_or(FORM)?;
                        rest = after;
                        digits.iter().try_fold(0, |byte, digit| Some(byte << 4 | hexadecimal(*digit)?)).ok_or(FORM)?
                    }
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'\\' | b'\'' | b'"' => escape,
                    _ => return Err(FORM),
                });
            }
            // As TOML has it, "\xe9" in double quotes is a letter, of two bytes in UTF-8.
            0x80.. => return Err(r"bytes over 127 are escaped as \xNN here, and the string stands in single quotes"),
            _ => bytes.push(byte),
        }
    }
    Ok(bytes)
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// One word of a closed set.
pub(super) trait Word: Copy + 'static {
    /// What such a word is.
    const WHAT: &'static str;
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

impl Word for Right {
    const WHAT: &'static str = "right";
    /// Scratch files and calls have rules of their own, which grant them by themselves.
    const ALL: &'static [Self] = &[
        Self::Read,
        Self::Write,
        Self::Append,
        Self::Truncate,
        Self::Create,
        Self::List,
        Self::Stat,
        Self::Readlink,
        Self::Mkdir,
        Self::Unlink,
        Self::Rmdir,
        Self::Rename,
        Self::Directory,
        Self::Listen,
        Self::Bind,
        Self::Connect,
    ];
    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for FileKind {
    const WHAT: &'static str = "kind of file";
    const ALL: &'static [Self] = &FileKind::ALL;
    fn word(self) -> &'static str {
        self.name()
    }
}

impl Word for SocketType {
    const WHAT: &'static str = "type of socket";
    const ALL: &'static [Self] = &SocketType::ALL;
    fn word(self) -> &'static str {
        self.name()
    }
}

/// What IP sockets are called.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Word for Transport {
    const WHAT: &'static str = "transport";
    const ALL: &'static [Self] = &[Self::Tcp, Self::Udp];
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A word of `T`, as it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Said<T>(pub(super) T);

impl<T: Word> Text for Said<T> {
    fn of(said: &str) -> Result<Self, String> {
        let words = || T::ALL.iter().map(|word| word.word());
        T::ALL.iter().find(|word| word.word() == said).map(|word| Self(*word)).ok_or_else(|| {
            let (what, hint) = (T::WHAT, hint(said, words()));
            let said = said.escape_debug();
            format!("\"{said}\" is no {what}: {hint}one of {}", words().collect::<Vec<_>>().join(", "))
        })
    }
}

impl<'de, T: Word> Deserialize<'de> for Said<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(TextVisitor(PhantomData))
    }
}

impl<T: Word> Serialize for Said<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.word())
    }
}

/// What has a written form of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Written<T>(pub(super) T);

impl<T: FromStr<Err: fmt::Display>> Text for Written<T> {
    fn of(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: T::Err| error.to_string())
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(TextVisitor(PhantomData))
    }
}

impl<T: fmt::Display> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// A value that is a text.
trait Text: Sized {
    fn of(text: &str) -> Result<Self, String>;
}

/// Errors come from inside the visitor: the format knows then where the value stands.
struct TextVisitor<T>(PhantomData<T>);

impl<T: Text> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::of(text).map_err(E::custom)
    }
}

/// Several values, in brackets even if it is one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct List<T>(pub(super) Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> List<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, in brackets")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
                let mut list = List::default();
                while let Some(item) = items.next_element()? {
                    list.0.push(item);
                }
                Ok(list)
            }
        }
        from.deserialize_seq(Items(PhantomData))
    }
}

/// One address and port, or a network whose ports stand elsewhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Address {
    One(SocketAddr),
    Within(Network),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.ip().to_canonical() == address.ip() {
                Ok(Self::One(address))
            } else {
                let plain = SocketAddr::new(address.ip().to_canonical(), address.port());
                Err(format!("\"{text}\" is IPv4 in IPv6 form, which is judged as IPv4: write {plain}"))
            };
        }
        match text.parse() {
            Ok(network) => Ok(Self::Within(network)),
            Err(error) if text.contains('/') => Err(error.to_string()),
            Err(_) => Err(format!(
                "\"{}\" is no IP address: write 127.0.0.1:8080 or [::1]:8080, or a network as 10.0.0.0/8 and its ports; \
                 a host's name belongs to connect-name",
                text.escape_debug()
            )),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::Within(network) => network.fmt(f),
        }
    }
}

/// A value that is a number or a text.
trait NumberOrText: Sized {
    const EXPECTED: &'static str;
    fn of_number(number: i64) -> Result<Self, String>;

    fn of_text(text: &str) -> Result<Self, String> {
        Err(format!("\"{}\" is no number: write {}", text.escape_debug(), Self::EXPECTED))
    }
}

struct NumberOrTextVisitor<T>(PhantomData<T>);

impl<T: NumberOrText> Visitor<'_> for NumberOrTextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        T::of_number(number).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        T::of_text(text).map_err(E::custom)
    }
}

macro_rules! number_or_text {
    ($($type:ty),+) => {
        $(impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(NumberOrTextVisitor(PhantomData))
            }
        })+
    };
}

number_or_text!(PortRange, Mode, Refusal, Count, Connections);

/// At least one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Count(pub(super) NonZeroU32);

impl NumberOrText for Count {
    const EXPECTED: &'static str = "a number of 1 to 4294967295";

    fn of_number(number: i64) -> Result<Self, String> {
        let count = u32::try_from(number).ok().and_then(NonZeroU32::new);
        count.map(Self).ok_or_else(|| format!("{number} is no limit: write {}", Self::EXPECTED))
    }
}

/// Connections that may wait to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub(super) struct Connections(pub(super) u16);

impl NumberOrText for Connections {
    const EXPECTED: &'static str = "a number of 0 to 65535";

    fn of_number(number: i64) -> Result<Self, String> {
        let wrong = |_| format!("{number} are not connections that can wait: write {}", Self::EXPECTED);
        u16::try_from(number).map(Self).map_err(wrong)
    }
}

/// `80` or `"80-443"`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PortRange(pub(super) Ports);

impl NumberOrText for PortRange {
    const EXPECTED: &'static str = "a port or a range of ports: 80 or \"1024-65535\"";

    fn of_number(number: i64) -> Result<Self, String> {
        Self::of_text(&number.to_string()).map_err(|_| format!("{number} is no port: a port is 0 to 65535"))
    }

    fn of_text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: crate::policy::PortsError| error.to_string())
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let text = self.0.to_string();
        match text.parse::<u16>() {
            Ok(port) => to.serialize_u16(port),
            Err(_) => to.serialize_str(&text),
        }
    }
}

/// Permission bits: `0o640`, or the text `"0640"` for formats that have no octal numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mode(pub(super) u32);

impl NumberOrText for Mode {
    const EXPECTED: &'static str = "permission bits, as 0o640 or \"0640\"";

    fn of_number(number: i64) -> Result<Self, String> {
        u32::try_from(number).ok().filter(|mode| *mode <= 0o777).map(Self).ok_or_else(|| {
            format!("{number} is more than the bits 0o777: write 0o640 or \"0640\"; set-id and sticky bits are not had")
        })
    }

    fn of_text(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").or_else(|| text.strip_prefix('0')).unwrap_or(text);
        let octal = digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
        let mode = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
        mode.map(Self).ok_or_else(|| {
            let said = text.escape_debug();
            format!(
                "\"{said}\" are no permission bits: write three octal digits, as \"0640\"; there are no set-id bits"
            )
        })
    }
}

/// A text: few formats have octal numbers, and decimal ones are read wrongly by people.
impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:04o}", self.0))
    }
}

/// The errno of a refusal: `"EACCES"` or a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Refusal(pub(super) i32);

impl NumberOrText for Refusal {
    const EXPECTED: &'static str = "an errno, as \"EACCES\" or 13";

    fn of_number(number: i64) -> Result<Self, String> {
        let errno = i32::try_from(number).ok().filter(|errno| (1..=4095).contains(errno));
        errno.map(Self).ok_or_else(|| format!("{number} is no errno: write a name as \"EACCES\", or 1 to 4095"))
    }

    fn of_text(text: &str) -> Result<Self, String> {
        let names = || named_errnos().map(|(_, name)| name);
        // Second names of the same numbers.
        let name = match text {
            "EWOULDBLOCK" => "EAGAIN",
            "ENOTSUP" => "EOPNOTSUPP",
            name => name,
        };
        let found = named_errnos().find(|(_, other)| other == name);
        found.map(|(errno, _)| Self(errno)).ok_or_else(|| {
            let all: Vec<String> = names().collect();
            let hint = hint(text, all.iter().map(String::as_str));
            format!(
                "\"{}\" is no errno: {hint}write a name as \"EACCES\" or \"ENOENT\", or a number",
                text.escape_debug()
            )
        })
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match named_errnos().find(|(errno, _)| *errno == self.0) {
            Some((_, name)) => to.serialize_str(&name),
            None => to.serialize_i32(self.0),
        }
    }
}

/// Every errno that has a name here, with it.
fn named_errnos() -> impl Iterator<Item = (i32, String)> {
    let known = |number| Some(Errno::from_raw(number)).filter(|errno| *errno != Errno::UnknownErrno);
    (1..=255).filter_map(move |number| Some((number, format!("{:?}", known(number)?))))
}

/// A number of seconds, with a fraction or without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seconds(pub(super) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, as 10 or 2.5")
            }

            #[allow(clippy::cast_precision_loss, reason = "what has so many digits is no time to wait")]
            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
                self.visit_f64(seconds as f64)
            }

            #[allow(clippy::cast_precision_loss, reason = "as above")]
            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Seconds, E> {
                self.visit_f64(seconds as f64)
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Seconds, E> {
                let time = Duration::try_from_secs_f64(seconds).ok();
                let time = time.filter(|time| *time >= Duration::from_millis(1) && *time <= DAY);
                let wrong = || format!("{seconds} is no time to wait: write 0.001 to 86400 seconds");
                time.map(Seconds).ok_or_else(|| E::custom(wrong()))
            }
        }
        from.deserialize_any(Number)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_nanos() == 0 {
            to.serialize_u64(self.0.as_secs())
        } else {
            to.serialize_f64(self.0.as_secs_f64())
        }
    }
}

/// Up to this, a number with a fraction is read back to the nanosecond.
const DAY: Duration = Duration::from_secs(86_400);
