//! `[broker]` The audit as lines of JSON.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::object::{About, Because};
use super::utc::Utc;
use super::{Audit, Event, Record};
use crate::sys::sigpipe::without_sigpipe;
use crate::wire::Refusal;

/// An audit that writes one JSON object a line, of printable ASCII: for `jq`, Vector, Fluent Bit, Loki and others.
///
/// ```
/// use std::sync::Arc;
/// use fdbroker::{Broker, JsonLines};
///
/// # let path = tempfile::NamedTempFile::new()?.into_temp_path();
/// let file = std::fs::OpenOptions::new().append(true).create(true).open(&path)?;
/// let audit = Arc::new(JsonLines::new(file));
/// let broker = Broker::new().audit_to(audit.clone());
/// // Now and then:
/// if audit.lost() > 0 {
///     eprintln!("{} records of the audit are lost: {:?}", audit.lost(), audit.take_error());
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Fields
///
/// | field | type | in events | value |
/// |-------|------|-----------|-------|
/// | `time` | string | all | when it was written: RFC 3339, UTC, six digits of the second |
/// | `worker` | string | all | the worker's name |
/// | `event` | string | all | `start`, `request`, `unknown-verb`, `suppressed`, `end` |
/// | `resolver` | string or null | `start` | how names are resolved; null: the policy has no rules about names |
/// | `verb` | string | `request` | [`Ask::verb`](crate::wire::Ask::verb): `open`, `stat`, `connect` ... |
/// | `verb` | number | `unknown-verb` | the verb's byte |
/// | `object` | string or null | `request` | path, socket's name, `address:port`, `host:port`, or service; of `narrow`, what is to be kept of each kind; escaped, see below |
/// | `object_bytes` | number | `request` | only where `object` is cut: how many bytes there were |
/// | `to`, `to_bytes` | as `object` | `request` | only of `rename`: the new name |
/// | `access` | string | `request` | only of `open`: the words of [`Access`](crate::wire::Access), as `read+write` |
/// | `socket` | string | `request` | only of sockets: `stream`, `datagram`, `seqpacket` |
/// | `family` | string | `request` | only of sockets: `ip`, `unix` (a path), `abstract`, `host` (a name to look up) |
/// | `from` | number | `request` | only of `list`: where to go on |
/// | `rights` | string | `request` | only of `call`: what is asked of the service |
/// | `bytes` | number | `request` | only of `call`: how much is said to the service; never what |
/// | `rule` | number or null | `request` | the number of the rule that decided, from 1 |
/// | `rule_text` | string or null | `request` | what it says |
/// | `rule_place` | string or null | `request` | where it was written |
/// | `outcome` | string | `request`, `unknown-verb` | `granted` or `refused` |
/// | `outcome` | string | `end` | `hung-up` (or stopped) or `fault` |
/// | `reason` | string or null | `request`, `unknown-verb` | `denied`, `path`, `failed`, `kind`, `verb`, `impossible`, `not-held`, `limit` ([`Reason`](crate::wire::Reason)) |
/// | `errno` | number or null | `request`, `unknown-verb` | what the worker is told |
/// | `errno_name` | string or null | `request`, `unknown-verb` | `ENOENT`; null also for a number without a name |
/// | `why` | string or null | `request`, `end` | why the policy refused it; what was not held; which fault it was |
/// | `took_us` | number | `request` | microseconds, from the request's turn until it had been served |
/// | `records` | number | `suppressed` | so many records of requests were not made since the last one |
///
/// # Bytes
///
/// A path is bytes, and need not be text. `object` and `to` have printable ASCII as it is, but for a backslash and
/// quotes, which have a backslash before them; a tab, CR and LF are `\t`, `\r`, `\n`; any other byte is `\x` and two
/// hexadecimal digits. So the exact bytes can be had back, in Python for one by
/// `record["object"].encode().decode("unicode_escape").encode("latin-1")`. Of an object that is longer than any path,
/// the first 4,096 bytes are shown, and `object_bytes` says so; of the text of a `narrow`, 16 KiB. A line has at most
/// 44 KiB besides what the daemon itself named (worker, rule).
///
/// # Writing
///
/// A line is made in one buffer, which is kept, and given to the writer by one `write` (more, if the writer takes only
/// a part) and a `flush`. Lines of several workers do not mix. Two processes may append to one file (O_APPEND), or a
/// pipe that has room.
///
/// **All workers wait for a writer that is slow,** one after the other: give it a file, or what puts lines in a queue
/// of its own. A writer that fails is no trouble of any worker: the record is lost and [counted](Self::lost), and no
/// SIGPIPE is raised. What was written of it remains as a line that is no JSON object, and the next record begins a new
/// line. A writer that panics ends the service of the worker that the record is about.
///
/// At most 1,000 records of requests a second are taken of each worker, unless said
/// [otherwise](Self::max_per_second).
///
/// `Send + Sync`. Takes its memory at the beginning, and none for a record, unless a rule has a text of KiBs or a
/// worker narrows itself.
pub struct JsonLines<W> {
    lines: Mutex<Lines<W>>,
    per_second: Option<NonZeroU32>,
}

/// Bytes for a line: what came from a worker takes at most 44 KiB of it.
const ROOM: usize = 48 << 10;

struct Lines<W> {
    writer: W,
    line: Vec<u8>,
    /// The writer has the beginning of a line without its end.
    torn: bool,
    lost: u64,
    error: Option<io::Error>,
}

impl<W: Write + Send> JsonLines<W> {
    /// Writes to `writer`, at most 1,000 records of requests a second of each worker.
    #[must_use]
    pub fn new(writer: W) -> Self {
        let lines = Lines { writer, line: Vec::with_capacity(ROOM), torn: false, lost: 0, error: None };
        Self { lines: Mutex::new(lines), per_second: NonZeroU32::new(1_000) }
    }

    /// How many records of requests are taken of each worker a second; `None`: all of them.
    #[must_use]
    pub fn max_per_second(mut self, records: impl Into<Option<NonZeroU32>>) -> Self {
        self.per_second = records.into();
        self
    }

    /// Records that the writer did not take, since the beginning. Waits while a record is being written.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lines().lost
    }

    /// Why the last record was lost, if one was since this was last asked. Waits while a record is being written.
    pub fn take_error(&self) -> Option<io::Error> {
        self.lines().error.take()
    }

    /// The writer.
    #[must_use]
    pub fn into_inner(self) -> W {
        self.lines.into_inner().unwrap_or_else(PoisonError::into_inner).writer
    }

    fn lines(&self) -> MutexGuard<'_, Lines<W>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write + Send> Audit for JsonLines<W> {
    fn record(&self, record: &Record<'_>) {
        let mut lines = self.lines();
        let Lines { line, torn, .. } = &mut *lines;
        line.clear();
        if *torn {
            line.push(b'\n');
        }
        Object::new(line).record(record);
        line.push(b'\n');
        if let Err(error) = without_sigpipe(|| lines.write()) {
            lines.lost += 1;
            lines.error = Some(error);
        }
    }

    fn records_per_second(&self) -> Option<NonZeroU32> {
        self.per_second
    }
}

impl<W> fmt::Debug for JsonLines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines").field("per_second", &self.per_second).finish_non_exhaustive()
    }
}

impl<W: Write> Lines<W> {
    fn write(&mut self) -> io::Result<()> {
        let (mut rest, was_torn) = (&self.line[..], self.torn);
        // Until the contrary is known: a writer may panic.
        self.torn = true;
        while !rest.is_empty() {
            match self.writer.write(rest) {
                Ok(0) => return self.failed(rest.len(), was_torn, io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.failed(rest.len(), was_torn, error),
            }
        }
        self.torn = false;
        self.writer.flush()
    }

    fn failed(&mut self, left: usize, was_torn: bool, error: io::Error) -> io::Result<()> {
        self.torn = if left == self.line.len() { was_torn } else { left > 0 };
        Err(error)
    }
}

/// One object, field by field. Writing to memory does not fail.
struct Object<'l> {
    line: &'l mut Vec<u8>,
    before: u8,
}

impl<'l> Object<'l> {
    fn new(line: &'l mut Vec<u8>) -> Self {
        Self { line, before: b'{' }
    }

    fn record(mut self, record: &Record<'_>) {
        self.text("time", Utc::now());
        self.text("worker", record.worker);
        match &record.event {
            Event::Start(resolver) => {
                self.text("event", "start");
                self.text_or_null("resolver", *resolver);
            }
            Event::Request { .. } => self.request(&record.event),
            Event::UnknownVerb { verb, refusal } => {
                self.text("event", "unknown-verb");
                self.plain("verb", verb);
                self.answer(Err(*refusal));
            }
            Event::Suppressed(records) => {
                self.text("event", "suppressed");
                self.plain("records", records);
            }
            Event::End(end) => {
                self.text("event", "end");
                self.text("outcome", if end.is_ok() { "hung-up" } else { "fault" });
                self.text_or_null("why", end.as_ref().err());
            }
        }
        self.line.push(b'}');
    }

    fn request(&mut self, event: &Event<'_>) {
        let Event::Request { ask, rule, answer, why, not_held, took } = event else { return };
        self.text("event", "request");
        self.text("verb", ask.verb());
        self.about(&About::new(ask));
        self.plain_or_null("rule", rule.map(|rule| rule.number()));
        self.text_or_null("rule_text", rule.map(|rule| rule.text()));
        self.text_or_null("rule_place", rule.map(|rule| rule.place()));
        self.answer(*answer);
        self.text_or_null("why", Because::new(*why, *not_held));
        self.plain("took_us", took.as_micros());
    }

    fn about(&mut self, about: &About<'_>) {
        self.text_or_null("object", about.object);
        if let Some(bytes) = about.object.and_then(|object| object.cut()) {
            self.plain("object_bytes", bytes);
        }
        if let Some(to) = about.to {
            self.text("to", to);
            if let Some(bytes) = to.cut() {
                self.plain("to_bytes", bytes);
            }
        }
        if let Some(access) = about.access {
            self.text("access", access);
        }
        if let Some(socket) = about.socket {
            self.text("socket", socket);
        }
        if let Some(family) = about.family {
            self.text("family", family);
        }
        if let Some(from) = about.from {
            self.plain("from", from);
        }
        if let Some(rights) = about.rights {
            self.text("rights", rights);
        }
        if let Some(bytes) = about.bytes {
            self.plain("bytes", bytes);
        }
    }

    fn answer(&mut self, answer: Result<(), Refusal>) {
        self.text("outcome", if answer.is_ok() { "granted" } else { "refused" });
        let refusal = answer.err();
        self.text_or_null("reason", refusal.map(|refusal| refusal.reason.name()));
        self.plain_or_null("errno", refusal.map(|refusal| refusal.errno));
        self.text_or_null("errno_name", refusal.and_then(errno_name));
    }

    fn key(&mut self, key: &'static str) {
        self.line.push(self.before);
        self.before = b',';
        let _ = write!(self.line, "\"{key}\":");
    }

    /// A number.
    fn plain(&mut self, key: &'static str, number: impl Display) {
        self.key(key);
        let _ = write!(self.line, "{number}");
    }

    fn plain_or_null(&mut self, key: &'static str, number: Option<impl Display>) {
        match number {
            Some(number) => self.plain(key, number),
            None => self.plain(key, "null"),
        }
    }

    fn text(&mut self, key: &'static str, text: impl Display) {
        self.key(key);
        self.line.push(b'"');
        let _ = fmt::Write::write_fmt(&mut Escaped(self.line), format_args!("{text}"));
        self.line.push(b'"');
    }

    fn text_or_null(&mut self, key: &'static str, text: Option<impl Display>) {
        match text {
            Some(text) => self.text(key, text),
            None => self.plain(key, "null"),
        }
    }
}

pub(super) fn errno_name(refusal: Refusal) -> Option<impl Display> {
    let errno = Errno::from_raw(refusal.errno);
    (errno != Errno::UnknownErrno).then_some(Name(errno))
}

struct Name(Errno);

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// The inside of a JSON string (RFC 8259). All but printable ASCII goes as `\u`, in UTF-16: no reader takes it for the
/// end of a line, and no terminal for a command.
pub(crate) struct Escaped<'l>(pub(crate) &'l mut Vec<u8>);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for char in text.chars() {
            match char {
                '"' | '\\' => self.0.extend([b'\\', char as u8]),
                ' '..='~' => self.0.push(char as u8),
                _ => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}").map_err(|_| fmt::Error)?;
                    }
                }
            }
        }
        Ok(())
    }
}
