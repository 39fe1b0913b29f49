//! Every path that receives or sends, driven through every error that it can have: the process's descriptors are
//! counted after each single call that failed, and are as many as before.
//!
//! A row is a path and an error; each runs in a process of its own, over each kind of socket. With `--nocapture` the
//! table is printed.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs::File;
use std::io;
use std::mem;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use common::open_fds;
use common::served::limit_descriptors;
use fdbroker::raw::{self, Ancillary};
use fdbroker::{Channel, ChannelError, EndpointError, Kind, Listener, MAX_FDS, Packet, TakeError, typed};
use nix::sys::socket::{setsockopt, sockopt};
use sendfd::{RecvWithFd, SendWithFd};

const NAME: &str = "p_10_p_11_h_13_k2_no_error_leaves_a_descriptor";

/// P-10, P-11, H-13, K2: after each of at least 10,000 errors the process has the descriptors that it had, and its
/// memory does not grow.
#[test]
fn p_10_p_11_h_13_k2_no_error_leaves_a_descriptor() {
    let rows = table();
    if let Some(number) = common::role() {
        nix::unistd::alarm::set(120);
        return rows[number.parse::<usize>().unwrap()].run();
    }
    let mut total = 0;
    eprintln!("{:<14} {:<42} {:<30} {:>10}", "path", "error", "over", "iterations");
    for (number, row) in rows.iter().enumerate() {
        common::passes(common::rerun(NAME, &number.to_string()));
        let iterations = row.iterations * row.kinds.len();
        total += iterations;
        eprintln!("{:<14} {:<42} {:<30} {iterations:>10}", row.path, row.error, format!("{:?}", row.kinds));
    }
    eprintln!("{} rows, {total} iterations", rows.len());
    assert!(total >= 10_000, "{total}");
}

/// One iteration, of which the number is given. It makes an error, asserts that it is the right one, and that the
/// channel goes on.
type Step = Box<dyn FnMut(usize)>;

struct Row {
    path: &'static str,
    error: &'static str,
    kinds: &'static [Kind],
    iterations: usize,
    /// Prepares what all iterations share.
    prepare: Box<dyn Fn(Kind) -> Step>,
}

impl Row {
    fn run(&self) {
        for &kind in self.kinds {
            let mut step = (self.prepare)(kind);
            let before = open_fds();
            let mut memory = 0;
            for number in 0..self.iterations {
                step(number);
                assert_eq!(open_fds(), before, "{}, {}, {kind:?}, iteration {number}", self.path, self.error);
                if number == self.iterations / 4 {
                    memory = common::resident_kib();
                }
            }
            let grown = common::resident_kib().saturating_sub(memory);
            assert!(grown < 2048, "{}, {}, {kind:?}: {grown} KiB more", self.path, self.error);
        }
    }
}

const ALL: &[Kind] = &[Kind::SeqPacket, Kind::Stream, Kind::Datagram];
const PACKETS: &[Kind] = &[Kind::SeqPacket, Kind::Datagram];
const STREAM: &[Kind] = &[Kind::Stream];
const CONNECTED: &[Kind] = &[Kind::SeqPacket, Kind::Stream];
/// What a row does if nothing speaks against it, and what one does that waits for a timeout or moves megabytes.
const MANY: usize = 60;
const FEW: usize = 12;

fn table() -> Vec<Row> {
    let mut rows = Vec::new();
    for path in RECEIVES {
        let mut add = |error, kinds, iterations, prepare: fn(Kind, Receive) -> Step| {
            rows.push(Row {
                path: path.name,
                error,
                kinds,
                iterations,
                prepare: Box::new(move |kind| prepare(kind, path)),
            });
        };
        add("none, nothing is taken", ALL, MANY, nothing_is_taken);
        add("EMFILE at each free-slot count", ALL, MANY, table_full);
        add("bytes cut", ALL, MANY, bytes_cut);
        add("surplus", ALL, MANY, surplus);
        add("control data cut", ALL, MANY, control_cut);
        add("time-out or not ready", ALL, FEW, |kind, path| not_ready(kind, path, false));
        add("not ready, non-blocking", ALL, MANY, |kind, path| not_ready(kind, path, true));
        add("peer dies", ALL, MANY, peer_dies);
        add("peer dies, with unread messages", CONNECTED, MANY, peer_dies_unread);
        add("dropped with unread messages", ALL, MANY, dropped_unread);
        add("surplus in pieces", STREAM, MANY, surplus_in_pieces);
        add("count mismatch", STREAM, 4 * MANY, count_mismatch);
        add("an impossible count", STREAM, MANY, impossible_count);
        add("bytes cut, the rest passed over in pieces", STREAM, MANY, rest_in_pieces);
        add("not ready in a frame, then finished", STREAM, MANY, |kind, path| {
            not_ready_in_frame(kind, path, End::Rest)
        });
        add("not ready in a frame, then peer dies", STREAM, MANY, |kind, path| {
            not_ready_in_frame(kind, path, End::Death)
        });
        add("not ready in a frame, then dropped", STREAM, MANY, |kind, path| not_ready_in_frame(kind, path, End::Drop));
        add("not ready in a frame, then bytes cut", STREAM, MANY, |kind, path| {
            not_ready_in_frame(kind, path, End::Cut)
        });
        add("peer dies in a frame, at each byte", STREAM, 4 * MANY, peer_dies_in_frame);
        if path.many {
            add("a part's count mismatch", PACKETS, MANY, part_mismatch);
            add("a whole given up, then another", ALL, MANY, whole_given_up);
            add("peer dies between parts", ALL, FEW, peer_dies_between_parts);
            add("a part of no use", PACKETS, MANY, part_of_no_use);
        } else {
            add("EMFILE at each count, with pidfds", ALL, MANY, table_full_with_pidfds);
        }
    }
    for path in SENDS {
        let mut add = |error, kinds, iterations, prepare: fn(Kind, Send) -> Step| {
            rows.push(Row {
                path: path.name,
                error,
                kinds,
                iterations,
                prepare: Box::new(move |kind| prepare(kind, path)),
            });
        };
        if !path.many {
            add("too many descriptors", ALL, MANY, too_many);
            add("empty", ALL, MANY, empty);
        }
        add("too large", PACKETS, MANY, too_large);
        add("disconnected", ALL, MANY, disconnected);
        add("queue full", ALL, FEW, |kind, path| queue_full(kind, path, false));
        add("queue full, non-blocking", ALL, MANY, |kind, path| queue_full(kind, path, true));
        add("refused by the peer", ALL, MANY, refused);
        add("congested", ALL, MANY, congested);
        add("unfinished, then finished", STREAM, FEW, |kind, path| unfinished(kind, path, End::Rest));
        add("unfinished, then peer dies", STREAM, FEW, |kind, path| unfinished(kind, path, End::Death));
        add("unfinished, then dropped", STREAM, FEW, |kind, path| unfinished(kind, path, End::Drop));
    }
    let mut add = |path, error, kinds, iterations, prepare: fn(Kind) -> Step| {
        rows.push(Row { path, error, kinds, iterations, prepare: Box::new(prepare) });
    };
    add("send_many", "queue full between parts", ALL, FEW, full_between_parts);
    add("send_with_fd", "a number that is no descriptor", ALL, MANY, no_descriptor);
    add("pair_of", "EMFILE at each free-slot count", ALL, MANY, no_pair);
    add("try_from", "wrong type", ALL, MANY, |_| wrong_things());
    add("raw::recv", "EMFILE at each free-slot count", ALL, MANY, raw_table_full);
    add("raw::recv", "bytes cut", PACKETS, MANY, raw_bytes_cut);
    add("raw::recv", "surplus", ALL, MANY, raw_surplus);
    add("raw::recv", "control data cut", ALL, MANY, raw_control_cut);
    add("raw::recv", "not ready", ALL, MANY, raw_not_ready);
    add("raw::recv", "peer dies", ALL, MANY, raw_peer_dies);
    add("raw::recv", "none, nothing is taken", ALL, MANY, raw_nothing_is_taken);
    add("raw::send", "every error", ALL, MANY, raw_send);
    add("take_one", "wrong type", ALL, MANY, |kind| taken(kind, 1, |packet| wrong(packet.take_one::<TcpListener>())));
    add("take_one", "count mismatch", ALL, MANY, |kind| taken(kind, 2, |packet| wrong(packet.take_one::<File>())));
    add("into_one", "wrong type", ALL, MANY, |kind| {
        taken(kind, 1, |packet| wrong(mem::take(packet).into_one::<UdpSocket>()))
    });
    add("take_all", "wrong type, of the last one", ALL, MANY, |kind| {
        taken(kind, 3, |packet| wrong(packet.take_all::<(OwnedFd, OwnedFd, TcpListener)>()))
    });
    add("take_all", "count mismatch", ALL, MANY, |kind| {
        taken(kind, 3, |packet| wrong(packet.take_all::<[OwnedFd; 4]>()))
    });
    add("from_fds", "wrong type", ALL, MANY, |kind| {
        taken(kind, 3, |packet| wrong(typed::from_fds::<Vec<File>>(packet.take_fds().collect())))
    });
    #[cfg(feature = "tokio")]
    add("async recv", "cancelled future, then finished or dropped", ALL, MANY, cancelled_recv);
    #[cfg(feature = "tokio")]
    add("async send", "cancelled future, then finished or dropped", ALL, FEW, |kind| cancelled_send(kind, false));
    #[cfg(feature = "tokio")]
    add("async give", "cancelled future, then finished or dropped", ALL, FEW, |kind| cancelled_send(kind, true));
    add("Listener::bind", "every error", CONNECTED, MANY, binding);
    add("connect", "every error", CONNECTED, MANY, connecting);
    add("accept", "EMFILE at each free-slot count", CONNECTED, MANY, accept_table_full);
    add("accept", "not ready; peer refused; peer dies", CONNECTED, MANY, accepting);
    rows
}

// The paths.

/// Bytes and number of the descriptors of a message.
type Came = Result<(Vec<u8>, usize), ChannelError>;

/// A way to receive, which answers the bytes and the number of descriptors, and lets these go.
#[derive(Clone, Copy)]
struct Receive {
    name: &'static str,
    /// Given the room for bytes and for descriptors.
    call: fn(&mut Channel, usize, usize) -> Came,
    /// What it says when there is no message, if that does not depend on the socket.
    late: Option<&'static str>,
    /// It takes what `send_many` sends.
    many: bool,
}

const RECEIVES: [Receive; 5] = [
    Receive {
        name: "recv",
        call: |channel, room, budget| with(channel, room, budget, Channel::recv),
        late: None,
        many: false,
    },
    Receive {
        name: "recv_deadline",
        call: |channel, room, budget| {
            with(channel, room, budget, |channel, packet| channel.recv_deadline(packet, Instant::now()))
        },
        late: Some("TimedOut"),
        many: false,
    },
    Receive {
        name: "try_recv",
        call: |channel, room, budget| with(channel, room, budget, Channel::try_recv),
        late: Some("WouldBlock"),
        many: false,
    },
    Receive {
        name: "recv_many",
        call: |channel, room, budget| {
            let mut packet = Packet::with_capacity(room + PART);
            let result = channel.recv_many(&mut packet, budget);
            assert!(packet.fds().is_empty());
            result.map(|fds| (packet.bytes().to_vec(), fds.len()))
        },
        late: None,
        many: true,
    },
    Receive {
        name: "recv_with_fd",
        call: |channel, room, budget| {
            let (mut bytes, mut fds) = (vec![0; room], vec![-1; budget]);
            match channel.recv_with_fd(&mut bytes, &mut fds) {
                Ok((0, 0)) => Err(ChannelError::Disconnected),
                Ok((len, count)) => {
                    for &number in &fds[..count] {
                        nix::unistd::close(number).unwrap();
                    }
                    Ok((bytes[..len].to_vec(), count))
                }
                Err(error) => Err(of_sendfd(error)),
            }
        },
        late: None,
        many: false,
    },
];

fn with(
    channel: &mut Channel,
    room: usize,
    budget: usize,
    receive: impl FnOnce(&Channel, &mut Packet) -> Result<(), ChannelError>,
) -> Came {
    channel.set_max_fds(budget);
    let mut packet = Packet::with_capacity(room);
    let result = receive(channel, &mut packet);
    assert!(result.is_ok() || (packet.bytes().is_empty() && packet.fds().is_empty()));
    result.map(|()| (packet.bytes().to_vec(), packet.fds().len()))
}

/// The error that a trait of sendfd has made an `io::Error`.
fn of_sendfd(error: io::Error) -> ChannelError {
    match error.raw_os_error() {
        Some(libc::EMFILE) => ChannelError::DescriptorTableFull,
        Some(libc::ETOOMANYREFS) => ChannelError::Congested { call: "sendmsg", source: error },
        Some(_) => ChannelError::Os { call: "sendmsg", source: error },
        None => *error.into_inner().unwrap().downcast().unwrap(),
    }
}

type SendCall = fn(&Channel, &[u8], &[BorrowedFd<'_>]) -> Result<(), ChannelError>;

/// A way to send.
#[derive(Clone, Copy)]
struct Send {
    name: &'static str,
    call: SendCall,
    late: Option<&'static str>,
    many: bool,
}

const SENDS: [Send; 6] = [
    Send { name: "send", call: Channel::send, late: None, many: false },
    Send {
        name: "send_deadline",
        call: |channel, bytes, fds| channel.send_deadline(bytes, fds, Instant::now()),
        late: Some("TimedOut"),
        many: false,
    },
    Send { name: "try_send", call: Channel::try_send, late: Some("WouldBlock"), many: false },
    Send { name: "give", call: give, late: None, many: false },
    Send { name: "send_many", call: Channel::send_many, late: None, many: true },
    Send {
        name: "send_with_fd",
        call: |channel, bytes, fds| {
            let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            channel.send_with_fd(bytes, &numbers).map(|len| assert_eq!(len, bytes.len())).map_err(of_sendfd)
        },
        late: None,
        many: false,
    },
];

/// Gives duplicates away; after an error they are this side's still, but for what is on its way.
fn give(channel: &Channel, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
    let mut given: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    let result = channel.give(bytes, &mut given);
    let gone = matches!(result, Ok(()) | Err(ChannelError::Unfinished));
    assert_eq!(given.len(), if gone { 0 } else { fds.len() }, "{result:?}");
    result
}

// What a plain socket sends to a path under test.

/// Bytes of a part's header, and of a frame's.
const PART: usize = 12;
const FRAME: usize = 8;
/// What a message may have, where it shall fit.
const ROOM: usize = 64;
const BUDGET: usize = 16;

struct Ends {
    kind: Kind,
    path: Receive,
    raw: UnixDatagram,
    channel: Channel,
    null: File,
    wholes: u32,
}

impl Ends {
    fn new(kind: Kind, path: Receive) -> Self {
        let (raw, channel) = Channel::pair_of(kind).unwrap();
        channel.set_recv_timeout(Some(Duration::from_secs(60))).unwrap();
        // std's type for datagrams sends over every kind of socket.
        let raw = UnixDatagram::from(OwnedFd::from(raw));
        Self { kind, path, raw, channel, null: File::open("/dev/null").unwrap(), wholes: 0 }
    }

    /// The message as the path's sender would write it, but with the counts that are given.
    fn frame(&mut self, bytes: &[u8], total: u32, before: u32, count: u32) -> Vec<u8> {
        let mut message = Vec::new();
        if self.path.many {
            message = [total, before, self.wholes].map(u32::to_le_bytes).concat();
        }
        message.extend_from_slice(bytes);
        if self.kind == Kind::Stream {
            let length = u32::try_from(message.len()).unwrap();
            message.splice(0..0, [length, count].map(u32::to_le_bytes).concat());
        }
        message
    }

    /// Sends bytes as they are.
    fn put(&self, bytes: &[u8], fds: usize) {
        let sent = self.raw.send_with_fd(bytes, &vec![self.null.as_raw_fd(); fds]).unwrap();
        assert_eq!(sent, bytes.len());
    }

    fn put_message(&mut self, bytes: &[u8], fds: usize) {
        self.wholes += 1;
        let count = u32::try_from(fds).unwrap();
        let message = self.frame(bytes, count, 0, count);
        self.put(&message, fds);
    }

    fn expect_within(&mut self, room: usize, budget: usize, expected: &str) {
        let result = (self.path.call)(&mut self.channel, room, budget);
        let told = match &result {
            Ok((bytes, fds)) => format!("{} and {fds}", String::from_utf8_lossy(bytes)),
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(told, expected, "{}", self.path.name);
    }

    fn expect(&mut self, expected: &str) {
        self.expect_within(ROOM, BUDGET, expected);
    }

    fn goes_on(&mut self) {
        self.put_message(b"on", 2);
        self.expect("on and 2");
    }

    /// What a receive says when there is no message.
    fn late(&self, nonblocking: bool) -> &'static str {
        self.path.late.unwrap_or(if nonblocking { "WouldBlock" } else { "TimedOut" })
    }
}

// Errors of receiving.

fn nothing_is_taken(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |number| {
        ends.put_message(b"unclaimed", number % (BUDGET + 1));
        ends.expect(&format!("unclaimed and {}", number % (BUDGET + 1)));
    })
}

/// Duplicates in every free slot of the descriptor table, but for so many.
fn leave_free(file: &File, free: usize) -> Vec<File> {
    let mut filling: Vec<File> = std::iter::from_fn(|| file.try_clone().ok()).collect();
    filling.truncate(filling.len() - free);
    filling
}

/// Duplicates of /dev/null in a process that can have a few dozen descriptors.
fn limited(ends: &Ends) -> File {
    limit_descriptors(48);
    ends.null.try_clone().unwrap()
}

fn table_full(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    let null = limited(&ends);
    Box::new(move |number| {
        let free = number % 6;
        let filling = leave_free(&null, free);
        ends.put_message(b"five", 5);
        ends.expect(if free < 5 { "DescriptorTableFull" } else { "five and 5" });
        ends.put_message(b"none", 0);
        ends.expect("none and 0");
        ends.put_message(b"as free", free);
        ends.expect(&format!("as free and {free}"));
        assert_eq!(leave_free(&null, 0).len(), free, "slots are free again");
        drop(filling);
        ends.goes_on();
    })
}

/// With SO_PASSPIDFD each message takes a slot more.
fn table_full_with_pidfds(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    if matches!(ends.channel.set_sender_pidfd(true), Err(ChannelError::Unsupported { .. })) {
        eprintln!("SKIPPED a part: this kernel has no SO_PASSPIDFD (Linux 6.5)");
        return Box::new(|_| {});
    }
    let null = limited(&ends);
    Box::new(move |number| {
        let free = number % 5;
        let filling = leave_free(&null, free);
        ends.put_message(b"three", 3);
        ends.expect(if free < 4 { "DescriptorTableFull" } else { "three and 3" });
        ends.put_message(b"none", 0);
        ends.expect(if free < 1 { "DescriptorTableFull" } else { "none and 0" });
        assert_eq!(leave_free(&null, 0).len(), free, "slots are free again");
        drop(filling);
        ends.goes_on();
    })
}

fn bytes_cut(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |number| {
        ends.put_message(&[b'x'; 100], number % 5);
        ends.expect_within(number % 100, BUDGET, "TooLarge");
        ends.goes_on();
    })
}

fn rest_in_pieces(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |number| {
        let message = ends.frame(&[b'x'; 100], 2, 0, 2);
        let (first, rest) = message.split_at(FRAME + number % 80);
        ends.put(first, 2);
        ends.expect_within(8, BUDGET, "TooLarge");
        let (second, third) = rest.split_at(4);
        ends.put(second, 0);
        ends.channel.set_nonblocking(true).unwrap();
        ends.expect(ends.late(true));
        ends.channel.set_nonblocking(false).unwrap();
        ends.put(third, 0);
        ends.goes_on();
    })
}

fn surplus(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |number| {
        let budget = number % 4;
        ends.put_message(b"too many", budget + 1 + number % 9);
        ends.expect_within(ROOM, budget, &format!("TooManyDescriptors {{ budget: {budget} }}"));
        ends.goes_on();
    })
}

fn surplus_in_pieces(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |_| {
        ends.wholes += 1;
        let message = ends.frame(b"too many", 6, 0, 6);
        // Over a stream all within the header.
        for (start, end) in [(0, 3), (3, 6), (6, message.len())] {
            ends.put(&message[start..end], 2);
        }
        ends.expect_within(ROOM, 3, "TooManyDescriptors { budget: 3 }");
        ends.goes_on();
    })
}

/// An option that somebody sets behind the channel's back takes the room of the descriptors.
fn control_cut(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    let count = 2;
    Box::new(move |_| {
        setsockopt(&ends.channel, sockopt::PassCred, &true).unwrap();
        ends.put_message(b"cut", count);
        ends.expect_within(ROOM, count, "UnexpectedControlData");
        setsockopt(&ends.channel, sockopt::PassCred, &false).unwrap();
        ends.goes_on();
    })
}

fn not_ready(kind: Kind, path: Receive, nonblocking: bool) -> Step {
    let mut ends = Ends::new(kind, path);
    ends.channel.set_nonblocking(nonblocking).unwrap();
    ends.channel.set_recv_timeout(Some(Duration::from_millis(1))).unwrap();
    Box::new(move |_| {
        ends.expect(ends.late(nonblocking));
        ends.goes_on();
    })
}

/// How it goes on with a message that is there in part.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Rest,
    Death,
    Drop,
    Cut,
}

/// The channel holds a part, descriptors among it.
fn not_ready_in_frame(kind: Kind, path: Receive, end: End) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        ends.channel.set_nonblocking(true).unwrap();
        let message = ends.frame(b"in pieces", 4, 0, 4);
        let (first, rest) = message.split_at(1 + number % (message.len() - 2));
        ends.put(first, 4);
        for _ in 0..2 {
            ends.expect(ends.late(true));
        }
        match end {
            End::Drop => return,
            End::Death => ends.raw = UnixDatagram::unbound().unwrap(),
            End::Rest | End::Cut => ends.put(rest, 0),
        }
        match end {
            End::Rest => ends.expect("in pieces and 4"),
            End::Cut => ends.expect_within(4, BUDGET, "TooLarge"),
            _ => (0..2).for_each(|_| ends.expect("Disconnected")),
        }
        if end != End::Death {
            ends.goes_on();
        }
    })
}

fn peer_dies(kind: Kind, path: Receive) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        ends.put_message(b"last", number % 3);
        ends.raw = UnixDatagram::unbound().unwrap();
        ends.expect(&format!("last and {}", number % 3));
        ends.channel.set_nonblocking(true).unwrap();
        // A datagram socket does not tell.
        let end = if kind == Kind::Datagram { ends.late(true) } else { "Disconnected" };
        (0..2).for_each(|_| ends.expect(end));
    })
}

/// The peer has not read what it was sent: its end is told as a reset, before what it sent itself (K27).
fn peer_dies_unread(kind: Kind, path: Receive) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        ends.channel.send(b"unread", &[ends.null.as_fd(); 3]).unwrap();
        ends.put_message(b"last", number % 3);
        ends.raw = UnixDatagram::unbound().unwrap();
        ends.expect(&format!("last and {}", number % 3));
        (0..2).for_each(|_| ends.expect("Disconnected"));
    })
}

fn dropped_unread(kind: Kind, path: Receive) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        for _ in 0..4 {
            ends.put_message(b"in flight", 1 + number % 9);
        }
        ends.expect(&format!("in flight and {}", 1 + number % 9));
    })
}

fn peer_dies_in_frame(kind: Kind, path: Receive) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        let message = ends.frame(b"half a message", 2, 0, 2);
        ends.put(&message[..1 + number % (message.len() - 1)], 2);
        ends.raw = UnixDatagram::unbound().unwrap();
        (0..2).for_each(|_| ends.expect("Disconnected"));
    })
}

fn count_mismatch(kind: Kind, path: Receive) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        let real = number % 4;
        let told = [0, 1, 2, 3, 4, 17, 18, 253][number / 4 % 8];
        let message = ends.frame(b"a lie", told, 0, told);
        ends.put(&message, real);
        if u32::try_from(real) == Ok(told) {
            return ends.expect(&format!("a lie and {told}"));
        }
        ends.put_message(b"the truth", 1);
        (0..2).for_each(|_| ends.expect("Broken"));
    })
}

fn impossible_count(kind: Kind, path: Receive) -> Step {
    Box::new(move |number| {
        let mut ends = Ends::new(kind, path);
        let message = ends.frame(b"a lie", 1, 0, [254, 1 << 16, u32::MAX][number % 3]);
        ends.put(&message, number % 6);
        (0..2).for_each(|_| ends.expect("Broken"));
    })
}

/// The message keeps to the framing, but a part's own header does not agree with it.
fn part_mismatch(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |number| {
        let (total, before, real) =
            [(3, 0, 2), (2, 0, 3), (2, 3, 1), (300, 0, 9), (u32::MAX, 0, 1), (9, 9, 1)][number % 6];
        let message = ends.frame(b"", total, before, real);
        ends.put(&message, real.try_into().unwrap());
        ends.expect("Broken");
        ends.put(b"short", 2);
        ends.expect("Broken");
        ends.goes_on();
    })
}

fn whole_given_up(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |_| {
        ends.wholes += 1;
        let first = ends.frame(b"given up", 300, 0, 253);
        ends.put(&first, MAX_FDS);
        ends.put_message(b"another", 2);
        ends.expect_within(ROOM, 300, "another and 2");
        // And one that is too large for the receiver, whose second part is then passed over.
        ends.wholes += 1;
        let (first, second) = (ends.frame(b"too many", 255, 0, 253), ends.frame(b"", 255, 253, 2));
        ends.put(&first, MAX_FDS);
        ends.put(&second, 2);
        ends.expect("TooManyDescriptors { budget: 16 }");
        ends.goes_on();
    })
}

fn part_of_no_use(kind: Kind, path: Receive) -> Step {
    let mut ends = Ends::new(kind, path);
    Box::new(move |number| {
        // The second part first, or without the first one's number.
        let second = ends.frame(b"", 255, 253, 2);
        ends.put(&second, 2);
        if number % 2 == 0 {
            ends.wholes += 1;
            let first = ends.frame(b"first", 255, 0, 253);
            ends.put(&first, MAX_FDS);
            ends.wholes += 1;
            let second = ends.frame(b"", 255, 253, 2);
            ends.put(&second, 2);
            ends.channel.set_nonblocking(true).unwrap();
            ends.expect_within(ROOM, 300, "WouldBlock");
            ends.channel.set_nonblocking(false).unwrap();
        }
        ends.goes_on();
    })
}

fn peer_dies_between_parts(kind: Kind, path: Receive) -> Step {
    Box::new(move |_| {
        let mut ends = Ends::new(kind, path);
        ends.channel.set_nonblocking(true).unwrap();
        let first = ends.frame(b"first", 300, 0, 253);
        ends.put(&first, MAX_FDS);
        ends.raw = UnixDatagram::unbound().unwrap();
        let end = if kind == Kind::Datagram { "WouldBlock" } else { "Disconnected" };
        (0..2).for_each(|_| ends.expect_within(ROOM, 300, end));
    })
}

// Errors of sending.

struct Sending {
    path: Send,
    sender: Channel,
    receiver: Channel,
    null: File,
}

impl Sending {
    fn new(kind: Kind, path: Send) -> Self {
        let (sender, receiver) = Channel::pair_of(kind).unwrap();
        // Little fits, so that it is full soon.
        setsockopt(&sender, sockopt::SndBuf, &4096).unwrap();
        Self { path, sender, receiver, null: File::open("/dev/null").unwrap() }
    }

    fn send(&self, bytes: &[u8], fds: usize) -> String {
        match (self.path.call)(&self.sender, bytes, &vec![self.null.as_fd(); fds]) {
            Ok(()) => "sent".into(),
            Err(error) => format!("{error:?}"),
        }
    }

    fn expect(&self, bytes: &[u8], fds: usize, expected: &str) {
        assert_eq!(self.send(bytes, fds), expected, "{}", self.path.name);
    }

    /// What is there at the other end: bytes and number of descriptors.
    fn arrives(&self, room: usize) -> Came {
        let mut packet = Packet::with_capacity(room + PART);
        if self.path.many {
            let fds = self.receiver.recv_many(&mut packet, 300)?;
            return Ok((packet.bytes().to_vec(), fds.len()));
        }
        self.receiver.recv(&mut packet)?;
        Ok((packet.bytes().to_vec(), packet.fds().len()))
    }

    fn goes_on(&self) {
        self.expect(b"on", 3, "sent");
        assert_eq!(self.arrives(ROOM).unwrap(), (b"on".to_vec(), 3));
    }

    fn late(&self, nonblocking: bool) -> &'static str {
        self.path.late.unwrap_or(if nonblocking { "WouldBlock" } else { "TimedOut" })
    }
}

fn too_many(kind: Kind, path: Send) -> Step {
    let sending = Sending::new(kind, path);
    Box::new(move |number| {
        sending.expect(b"x", MAX_FDS + 1 + number % 20, "TooManyDescriptors { budget: 253 }");
        sending.goes_on();
    })
}

fn empty(kind: Kind, path: Send) -> Step {
    let sending = Sending::new(kind, path);
    Box::new(move |_| {
        sending.expect(b"", 0, "Empty");
        sending.goes_on();
    })
}

fn too_large(kind: Kind, path: Send) -> Step {
    let sending = Sending::new(kind, path);
    Box::new(move |_| {
        sending.expect(&[0; 1 << 20], 3, "TooLarge");
        sending.goes_on();
    })
}

fn disconnected(kind: Kind, path: Send) -> Step {
    Box::new(move |number| {
        let Sending { sender, receiver, null, .. } = Sending::new(kind, path);
        if number % 2 == 0 {
            sender.send(b"unread", &[null.as_fd(); 3]).unwrap();
        }
        drop(receiver);
        for _ in 0..2 {
            let result = (path.call)(&sender, b"nobody", &[null.as_fd(); 2]);
            assert!(matches!(result, Err(ChannelError::Disconnected)), "{}: {result:?}", path.name);
        }
    })
}

fn queue_full(kind: Kind, path: Send, nonblocking: bool) -> Step {
    let sending = Sending::new(kind, path);
    sending.sender.set_nonblocking(nonblocking).unwrap();
    sending.sender.set_send_timeout(Some(Duration::from_millis(1))).unwrap();
    sending.receiver.set_nonblocking(true).unwrap();
    Box::new(move |_| {
        let mut sent = 0;
        let error = loop {
            match sending.send(b"message", 2) {
                told if told == "sent" => sent += 1,
                told => break told,
            }
        };
        assert_eq!(error, sending.late(nonblocking), "{}", path.name);
        for _ in 0..sent {
            assert_eq!(sending.arrives(ROOM).unwrap(), (b"message".to_vec(), 2));
        }
        assert!(matches!(sending.arrives(ROOM), Err(ChannelError::WouldBlock)), "it was not sent");
        sending.goes_on();
    })
}

fn refused(kind: Kind, path: Send) -> Step {
    let mut sending = Sending::new(kind, path);
    let refused = sending.receiver.refuse_descriptors().unwrap();
    if !refused {
        eprintln!("SKIPPED a part: this kernel has no SO_PASSRIGHTS (Linux 6.16)");
    }
    Box::new(move |_| {
        if refused {
            let told = sending.send(b"refused", 3);
            assert!(told.starts_with("Os { call: \"sendmsg\", source: Os { code: 1,"), "{told}");
        }
        sending.expect(b"without", 0, "sent");
        assert_eq!(sending.arrives(ROOM).unwrap(), (b"without".to_vec(), 0));
    })
}

/// The kernel counts descriptors in flight for each user, and tells all but root.
fn congested(kind: Kind, path: Send) -> Step {
    let sending = Sending::new(kind, path);
    setsockopt(&sending.sender, sockopt::SndBuf, &(1 << 20)).unwrap();
    sending.sender.set_send_timeout(Some(Duration::from_millis(1))).unwrap();
    sending.sender.set_nonblocking(true).unwrap();
    sending.receiver.set_nonblocking(true).unwrap();
    if common::is_root() {
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(65534.into()).unwrap();
    }
    limit_descriptors(48);
    Box::new(move |_| {
        let mut sent = 0;
        // How many it takes depends on what else this user has in flight.
        let error = loop {
            match sending.send(b"message", 16) {
                told if told == "sent" => sent += 1,
                told => break told,
            }
        };
        assert!(error.starts_with("Congested { call: \"sendmsg\", source: Os { code: 109,"), "{}: {error}", path.name);
        for _ in 0..sent {
            assert_eq!(sending.arrives(ROOM).unwrap(), (b"message".to_vec(), 16));
        }
        sending.expect(b"without", 0, "sent");
        assert_eq!(sending.arrives(ROOM).unwrap(), (b"without".to_vec(), 0));
    })
}

const LARGE: usize = 1 << 20;

fn unfinished(kind: Kind, path: Send, end: End) -> Step {
    Box::new(move |number| {
        let mut sending = Sending::new(kind, path);
        sending.sender.set_nonblocking(true).unwrap();
        sending.receiver.set_nonblocking(true).unwrap();
        sending.expect(&vec![b'l'; LARGE], 3, "Unfinished");
        sending.expect(b"not sent", 2, sending.late(true));
        match end {
            End::Death => {
                sending.receiver = Channel::pair().unwrap().0;
                (0..2).for_each(|_| sending.expect(b"nobody", 2, "Disconnected"));
                assert!(matches!(sending.sender.flush(), Err(ChannelError::Disconnected)));
            }
            End::Rest => {
                let mut packet = Packet::with_capacity(LARGE + PART);
                // One thread alone pumps.
                loop {
                    let flushed = sending.sender.flush();
                    assert!(matches!(flushed, Ok(()) | Err(ChannelError::WouldBlock)), "{flushed:?}");
                    match sending.receiver.recv(&mut packet) {
                        Ok(()) => break,
                        Err(error) => assert!(matches!(error, ChannelError::WouldBlock), "{error}"),
                    }
                }
                assert!(packet.bytes().ends_with(&[b'l'; LARGE]));
                assert_eq!(packet.fds().len(), 3);
                sending.goes_on();
            }
            _ => {
                // With or without the receiver holding a part.
                if number % 2 == 0 {
                    assert!(matches!(sending.arrives(LARGE), Err(ChannelError::WouldBlock)));
                }
                sending.sender = Channel::pair().unwrap().0;
                (0..2).for_each(|_| assert!(matches!(sending.arrives(LARGE), Err(ChannelError::Disconnected))));
            }
        }
    })
}

fn full_between_parts(kind: Kind) -> Step {
    Box::new(move |_| {
        let sending = Sending::new(kind, SENDS[4]);
        sending.sender.set_nonblocking(true).unwrap();
        sending.receiver.set_nonblocking(true).unwrap();
        // Each part takes room; some number of them is too many.
        sending.expect(b"whole", 253 * 100, "WouldBlock");
        assert!(matches!(sending.arrives(ROOM), Err(ChannelError::TooManyDescriptors { budget: 300 })));
        // What else is there of it is passed over.
        assert!(matches!(sending.arrives(ROOM), Err(ChannelError::WouldBlock)));
        sending.goes_on();
    })
}

fn no_descriptor(kind: Kind) -> Step {
    let sending = Sending::new(kind, SENDS[5]);
    Box::new(move |number| {
        let numbers = [sending.null.as_raw_fd(), [-1, i32::MAX, i32::MIN][number % 3]];
        let error = sending.sender.send_with_fd(b"x", &numbers).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        sending.goes_on();
    })
}

fn no_pair(kind: Kind) -> Step {
    limit_descriptors(48);
    let null = File::open("/dev/null").unwrap();
    Box::new(move |number| {
        let free = number % 3;
        let filling = leave_free(&null, free);
        match Channel::pair_of(kind) {
            Ok((one, other)) => {
                assert_eq!(free, 2);
                assert_eq!((one.kind(), other.kind()), (kind, kind));
            }
            Err(error) => {
                assert!(free < 2);
                assert!(matches!(error, ChannelError::DescriptorTableFull), "{error:?}");
            }
        }
        assert_eq!(leave_free(&null, 0).len(), free, "slots are free again");
        drop(filling);
    })
}

fn wrong_things() -> Step {
    Box::new(|number| {
        let thing: OwnedFd = match number % 6 {
            0 => File::open("/dev/null").unwrap().into(),
            1 => tempfile::tempfile().unwrap().into(),
            2 => nix::unistd::pipe().unwrap().0,
            3 => TcpListener::bind("127.0.0.1:0").unwrap().into(),
            4 => UdpSocket::bind("127.0.0.1:0").unwrap().into(),
            // SAFETY: epoll_create1 takes a number; what it answers, checked, is nobody else's.
            _ => unsafe {
                let number = libc::epoll_create1(libc::EPOLL_CLOEXEC);
                assert!(number >= 0);
                OwnedFd::from_raw_fd(number)
            },
        };
        assert!(matches!(Channel::try_from(thing), Err(ChannelError::NotASocket)));
    })
}

// The raw form.

/// Two plain sockets, one of which is received from through `raw`.
struct Plain {
    sender: UnixDatagram,
    receiver: UnixDatagram,
    null: File,
}

impl Plain {
    fn new(kind: Kind) -> Self {
        let (sender, receiver) = Channel::pair_of(kind).unwrap();
        let [sender, receiver] = [sender, receiver].map(|end| UnixDatagram::from(OwnedFd::from(end)));
        receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { sender, receiver, null: File::open("/dev/null").unwrap() }
    }

    fn put(&self, bytes: &[u8], fds: usize) {
        self.sender.send_with_fd(bytes, &vec![self.null.as_raw_fd(); fds]).unwrap();
    }

    /// Length, number of descriptors, and whether bytes and ancillary data were cut.
    fn recv(&self, room: usize, budget: usize) -> io::Result<(usize, usize, bool, bool)> {
        let mut ancillary = Ancillary::new(budget);
        let received = raw::recv(&self.receiver, &mut vec![0; room], &mut ancillary)?;
        Ok((received.len, ancillary.fds().len(), received.bytes_cut, received.ancillary_cut))
    }

    fn goes_on(&self) {
        self.put(b"on", 2);
        assert_eq!(self.recv(ROOM, 2).unwrap(), (2, 2, false, false));
    }
}

fn raw_nothing_is_taken(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    let mut ancillary = Ancillary::new(BUDGET);
    Box::new(move |number| {
        for count in [1 + number % BUDGET, 3] {
            plain.put(b"unclaimed", count);
            raw::recv(&plain.receiver, &mut [0; ROOM], &mut ancillary).unwrap();
            assert_eq!(ancillary.fds().len(), count);
        }
        drop(ancillary.take_fds().next());
    })
}

fn raw_table_full(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    limit_descriptors(48);
    Box::new(move |number| {
        let free = number % 4;
        let filling = leave_free(&plain.null, free);
        plain.put(b"three", 3);
        assert_eq!(plain.recv(ROOM, 3).unwrap(), (5, free, false, free < 3));
        assert_eq!(leave_free(&plain.null, 0).len(), free, "slots are free again");
        drop(filling);
        plain.goes_on();
    })
}

fn raw_bytes_cut(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    Box::new(move |number| {
        plain.put(&[0; 100], number % 5);
        assert_eq!(plain.recv(number % 100, 5).unwrap(), (number % 100, number % 5, true, false));
        plain.goes_on();
    })
}

fn raw_surplus(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    Box::new(move |number| {
        let budget = number % 5;
        plain.put(b"many", budget + 1 + number % 7);
        assert_eq!(plain.recv(ROOM, budget).unwrap(), (4, budget, false, true));
        plain.goes_on();
    })
}

fn raw_control_cut(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    Box::new(move |number| {
        setsockopt(&plain.receiver, sockopt::PassCred, &true).unwrap();
        plain.put(b"cut", 5);
        let (len, fds, bytes_cut, ancillary_cut) = plain.recv(ROOM, number % 12).unwrap();
        // The credentials take as much room as they and a few descriptors would.
        assert_eq!((len, bytes_cut), (3, false));
        assert_eq!(ancillary_cut, fds < 5, "{fds} of room for {}", number % 12);
        setsockopt(&plain.receiver, sockopt::PassCred, &false).unwrap();
        plain.goes_on();
    })
}

fn raw_not_ready(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    plain.receiver.set_nonblocking(true).unwrap();
    Box::new(move |_| {
        assert_eq!(plain.recv(ROOM, 2).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        plain.goes_on();
    })
}

fn raw_peer_dies(kind: Kind) -> Step {
    Box::new(move |number| {
        let Plain { sender, receiver, null } = Plain::new(kind);
        receiver.set_nonblocking(true).unwrap();
        let unread = number % 2 == 0;
        if unread {
            receiver.send(b"unread").unwrap();
        }
        sender.send_with_fd(b"last", &[null.as_raw_fd(); 2]).unwrap();
        drop(sender);
        let (mut bytes, mut ancillary) = ([0; ROOM], Ancillary::new(2));
        let mut receive = || match raw::recv(&receiver, &mut bytes, &mut ancillary) {
            Ok(received) if received.hung_up => Err(0),
            Ok(received) => Ok(received.len),
            Err(error) => Err(error.raw_os_error().unwrap()),
        };
        let reset = Err(libc::ECONNRESET);
        let expected = match (kind, unread) {
            (Kind::Datagram, _) => &[Ok(4), Err(libc::EAGAIN)][..],
            (_, false) => &[Ok(4), Err(0)],
            (Kind::Stream, true) => &[Ok(4), reset, Err(0)],
            _ => &[reset, Ok(4), Err(0)],
        };
        expected.iter().for_each(|expected| assert_eq!(receive(), *expected));
        assert!(ancillary.fds().is_empty());
    })
}

fn raw_send(kind: Kind) -> Step {
    let plain = Plain::new(kind);
    plain.receiver.set_nonblocking(true).unwrap();
    setsockopt(&plain.sender, sockopt::SndBuf, &4096).unwrap();
    plain.sender.set_nonblocking(true).unwrap();
    Box::new(move |_| {
        let send = |bytes: &[u8], fds| {
            raw::send(&plain.sender, bytes, &vec![plain.null.as_fd(); fds]).map_err(|error| error.raw_os_error())
        };
        assert_eq!(send(b"x", MAX_FDS + 1), Err(Some(libc::EINVAL)));
        if kind == Kind::Stream {
            assert_eq!(send(b"", 1), Err(Some(libc::EINVAL)));
        } else {
            assert_eq!(send(&[0; 1 << 20], 1), Err(Some(libc::EMSGSIZE)));
        }
        while send(b"full", 2) == Ok(4) {}
        assert_eq!(send(b"full", 2), Err(Some(libc::EAGAIN)));
        while plain.recv(4, 2).is_ok() {}
        plain.goes_on();
        let Plain { sender, receiver, null } = Plain::new(kind);
        drop(receiver);
        let dead = [libc::EPIPE, libc::ECONNRESET, libc::ECONNREFUSED].map(Some);
        let error = raw::send(&sender, b"nobody", &[null.as_fd(); 2]).unwrap_err();
        assert!(dead.contains(&error.raw_os_error()), "{error}");
    })
}

// Typed receive.

fn taken(kind: Kind, count: usize, take: fn(&mut Packet) -> String) -> Step {
    let mut ends = Ends::new(kind, RECEIVES[0]);
    let mut packet = Packet::new();
    Box::new(move |_| {
        // /dev/null is a descriptor of no type that is asked for.
        ends.put_message(b"typed", count);
        ends.channel.recv(&mut packet).unwrap();
        let error = take(&mut packet);
        assert!(error.starts_with("WrongKind") || error.starts_with("WrongCount"), "{error}");
        assert!(packet.fds().is_empty());
        ends.goes_on();
    })
}

fn wrong<T>(result: Result<T, TakeError>) -> String {
    result.map(drop).map_or_else(|error| format!("{error:?}"), |()| "taken".into())
}

// Endpoints.

fn failed<T>(result: Result<T, EndpointError>, expected: &str) {
    let told = result.map(drop).map_or_else(|error| format!("{error:?}"), |()| "no error".into());
    assert!(told.starts_with(expected), "{told} for {expected}");
}

fn binding(kind: Kind) -> Step {
    let (keep, root) = common::directory();
    let (path, file) = (root.join("socket"), root.join("file"));
    std::fs::write(&file, b"content").unwrap();
    limit_descriptors(48);
    let null = File::open("/dev/null").unwrap();
    let options = move || Listener::options().kind(kind).clone();
    let taken = options().bind(&path).unwrap();
    Box::new(move |number| {
        let _ = (&keep, &taken);
        failed(options().bind(&path), "InUse");
        failed(options().bind(&file), "Occupied");
        failed(options().bind(root.join("absent").join("socket")), "NotFound");
        failed(options().bind(root.join("long".repeat(50))), "Unfit");
        // The lock, the directory and the socket, or some of them.
        let filling = leave_free(&null, number % 2);
        failed(options().bind(root.join("new")), "DescriptorTableFull");
        drop(filling);
        assert!(!root.join("new").exists());
        drop(options().bind(root.join("new")).unwrap());
    })
}

fn connecting(kind: Kind) -> Step {
    let (keep, root) = common::directory();
    let address = |name: &str| SocketAddr::from_pathname(root.join(name)).unwrap();
    let [path, stale, other, full, absent] = ["socket", "stale", "other", "full", "absent"].map(address);
    let another = if kind == Kind::Stream { Kind::SeqPacket } else { Kind::Stream };
    let listener = Listener::options().kind(kind).bind_addr(&path).unwrap();
    let other_listener = Listener::options().kind(another).bind_addr(&other).unwrap();
    let full_listener = Listener::options().kind(kind).backlog(0).bind_addr(&full).unwrap();
    let queued = Channel::connect_to(&full, kind).unwrap();
    drop(std::os::unix::net::UnixListener::bind_addr(&stale).unwrap());
    limit_descriptors(48);
    let null = File::open("/dev/null").unwrap();
    Box::new(move |_| {
        let _ = (&keep, &other_listener, &full_listener, &queued);
        failed(Channel::connect_to(&absent, kind), "NotFound");
        failed(Channel::connect_to(&stale, kind), "NobodyListens");
        failed(Channel::connect_to(&other, kind), "WrongKind");
        failed(Channel::connect_to(&path, Kind::Datagram), "Unfit");
        failed(Channel::connect_deadline(&full, kind, Instant::now()), "QueueFull");
        let filling = leave_free(&null, 0);
        failed(Channel::connect_to(&path, kind), "DescriptorTableFull");
        drop(filling);
        let connected = Channel::connect_to(&path, kind).unwrap();
        let accepted = listener.accept(|_| true).unwrap();
        connected.send(b"on", &[null.as_fd()]).unwrap();
        accepted.recv(&mut Packet::new()).unwrap();
    })
}

fn accept_table_full(kind: Kind) -> Step {
    let (keep, root) = common::directory();
    let path = SocketAddr::from_pathname(root.join("socket")).unwrap();
    let listener = Listener::options().kind(kind).bind_addr(&path).unwrap();
    limit_descriptors(48);
    let null = File::open("/dev/null").unwrap();
    Box::new(move |number| {
        let _ = &keep;
        let client = Channel::connect_to(&path, kind).unwrap();
        client.send(b"first", &[null.as_fd(); 3]).unwrap();
        let filling = leave_free(&null, 0);
        for _ in 0..3 {
            assert!(matches!(listener.accept(|_| true), Err(ChannelError::DescriptorTableFull)));
        }
        drop(filling);
        let filling = leave_free(&null, 1 + number % 4);
        let accepted = listener.accept(|_| true).unwrap();
        let result = accepted.recv(&mut Packet::new());
        match number % 4 {
            3 => result.unwrap(),
            _ => assert!(matches!(result, Err(ChannelError::DescriptorTableFull)), "{result:?}"),
        }
        drop(filling);
    })
}

fn accepting(kind: Kind) -> Step {
    let (keep, root) = common::directory();
    let path = SocketAddr::from_pathname(root.join("socket")).unwrap();
    let listener = Listener::options().kind(kind).bind_addr(&path).unwrap();
    let null = File::open("/dev/null").unwrap();
    Box::new(move |number| {
        let _ = &keep;
        let late = listener.accept_deadline(|_| true, Instant::now());
        assert!(matches!(late, Err(ChannelError::TimedOut)), "{late:?}");
        listener.set_nonblocking(true).unwrap();
        assert!(matches!(listener.accept(|_| true), Err(ChannelError::WouldBlock)));
        listener.set_nonblocking(false).unwrap();
        let client = Channel::connect_to(&path, kind).unwrap();
        client.send(b"from nobody", &[null.as_fd(); 3]).unwrap();
        if number % 2 == 0 {
            assert!(matches!(listener.accept(|_| false), Err(ChannelError::PeerRefused { .. })));
            let refused = client.send(b"again", &[null.as_fd()]);
            assert!(matches!(refused, Err(ChannelError::Disconnected)), "{refused:?}");
            return;
        }
        drop(client);
        let (accepted, mut packet) = (listener.accept(|_| true).unwrap(), Packet::new());
        accepted.recv(&mut packet).unwrap();
        assert_eq!(packet.fds().len(), 3);
        assert!(matches!(accepted.recv(&mut packet), Err(ChannelError::Disconnected)));
    })
}

// Futures that are dropped before they are ready.

#[cfg(feature = "tokio")]
fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What it opens at its first use is there before the descriptors are counted.
    runtime.block_on(async { drop(fdbroker::AsyncChannel::new(Channel::pair().unwrap().0).unwrap()) });
    runtime
}

/// Polls once, and drops.
#[cfg(feature = "tokio")]
async fn cancelled<T>(future: impl Future<Output = T>) {
    let mut future = std::pin::pin!(future);
    let pending =
        std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context).is_pending())).await;
    assert!(pending);
}

#[cfg(feature = "tokio")]
fn cancelled_recv(kind: Kind) -> Step {
    let runtime = runtime();
    Box::new(move |number| {
        let mut ends = Ends::new(kind, RECEIVES[0]);
        let message = ends.frame(b"in pieces", 4, 0, 4);
        let cut = if kind == Kind::Stream { 1 + number / 2 % (message.len() - 1) } else { 0 };
        let (first, rest) = message.split_at(cut);
        let mut packet = Packet::new();
        runtime.block_on(async {
            let channel = fdbroker::AsyncChannel::new(ends.channel).unwrap();
            let numbers = [ends.null.as_raw_fd(); 4];
            if cut > 0 {
                ends.raw.send_with_fd(first, &numbers).unwrap();
            }
            for _ in 0..3 {
                cancelled(channel.recv(&mut packet)).await;
                assert!(packet.bytes().is_empty() && packet.fds().is_empty());
            }
            if number % 2 == 0 {
                ends.raw.send_with_fd(rest, if cut > 0 { &[] } else { &numbers }).unwrap();
                channel.recv(&mut packet).await.unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"in pieces"[..], 4));
            }
        });
    })
}

#[cfg(feature = "tokio")]
fn cancelled_send(kind: Kind, give: bool) -> Step {
    let runtime = runtime();
    Box::new(move |number| {
        let Sending { sender, receiver, null, .. } = Sending::new(kind, SENDS[0]);
        receiver.set_nonblocking(true).unwrap();
        let mut packet = Packet::with_capacity(LARGE);
        runtime.block_on(async {
            let sender = fdbroker::AsyncChannel::new(sender).unwrap();
            while sender.get_ref().try_send(b"full", &[null.as_fd(); 2]).is_ok() {}
            let bytes = if kind == Kind::Stream { vec![7; LARGE] } else { b"message".to_vec() };
            for _ in 0..3 {
                let mut given = vec![null.as_fd().try_clone_to_owned().unwrap()];
                if give {
                    cancelled(sender.give(&bytes, &mut given)).await;
                } else {
                    cancelled(sender.send(&bytes, &[null.as_fd()])).await;
                }
                assert_eq!(given.len(), 1, "nothing of it was sent");
            }
            if number % 2 == 0 {
                while receiver.recv(&mut packet).is_ok() {
                    assert_eq!((packet.bytes(), packet.fds().len()), (&b"full"[..], 2));
                }
                sender.send(b"on", &[null.as_fd()]).await.unwrap();
                receiver.recv(&mut packet).unwrap();
                assert_eq!((packet.bytes(), packet.fds().len()), (&b"on"[..], 1));
            }
        });
    })
}
