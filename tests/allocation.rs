//! Receiving and sending allocate nothing, nor do reading and writing the wire: an allocator counts.
#![allow(unsafe_code, clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::hint::black_box;
use std::net::TcpListener;
use std::os::fd::AsFd;

use fdbroker::typed::{PipeReader, PipeWriter};
use fdbroker::wire::{
    Access, Address, Answer, AnswersWriter, Ask, Batch, Entries, EntriesWriter, Entry, MAX_MESSAGE, MAX_REPLY, Reason,
    Refusal, Reply, Request, Rights, SocketType, Stat,
};
use fdbroker::{Channel, ChannelError, Kind, Packet, PidFd, TakeError};

thread_local! {
    /// Of this thread: the tests' own threads do not disturb each other.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts what takes memory. `alloc_zeroed` and `realloc` come through `alloc`.
struct Counting;

// SAFETY: every call is handed on to the system's allocator with the caller's own arguments. Counting neither
// allocates nor panics: the number is const-initialised and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise; `memory` came from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

/// P-02: the count can fail: it sees what a vector, a string and a box take.
#[test]
fn p_02_the_count_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1)))), 1);
    assert_eq!(allocations(|| drop(black_box(vec![0u8; 10]))), 1);
    assert_eq!(allocations(|| drop(black_box(Vec::<u8>::new()))), 0);
}

/// P-02: a thousand messages there and back over each kind, with 0, 1 and 16 descriptors, allocate exactly
/// nothing, in small and in large messages.
#[test]
fn p_02_recv_allocates_nothing() {
    let null = File::open("/dev/null").unwrap();
    for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
        let (here, there) = Channel::pair_of(kind).unwrap();
        let mut packet = Packet::new();
        let bytes = [7; 60_000];
        for count in [0, 1, 16] {
            let fds = vec![null.as_fd(); count];
            let mut there_and_back = |length: usize| {
                for (from, to) in [(&here, &there), (&there, &here)] {
                    from.send(&bytes[..length], &fds).unwrap();
                    to.recv(&mut packet).unwrap();
                    assert_eq!((packet.bytes().len(), packet.fds().len()), (length, count));
                    packet.take_fds().for_each(drop);
                }
            };
            there_and_back(100);
            let taken = allocations(|| (0..1000).for_each(|turn| there_and_back([1, 100, 60_000][turn % 3])));
            assert_eq!(taken, 0, "{kind:?} with {count} descriptors");
        }
    }
}

/// P-02, P-11: nor do the errors of a receive, which a hostile peer can cause at will.
#[test]
fn p_02_p_11_errors_allocate_nothing() {
    let null = File::open("/dev/null").unwrap();
    for kind in [Kind::SeqPacket, Kind::Stream, Kind::Datagram] {
        let (here, mut there) = Channel::pair_of(kind).unwrap();
        there.set_nonblocking(true).unwrap();
        there.set_max_fds(2);
        let (mut packet, mut small) = (Packet::new(), Packet::with_capacity(4));
        let fds = [null.as_fd(); 3];
        let mut hostile = || {
            here.send(b"many", &fds).unwrap();
            assert!(matches!(there.recv(&mut packet), Err(ChannelError::TooManyDescriptors { .. })));
            assert!(matches!(there.recv(&mut packet), Err(ChannelError::WouldBlock)));
            if kind != Kind::Stream {
                here.send(b"too large", &fds[..1]).unwrap();
                assert!(matches!(there.recv(&mut small), Err(ChannelError::TooLarge)));
            }
            // Descriptors that nobody takes.
            here.send(b"left", &fds[..2]).unwrap();
            there.recv(&mut packet).unwrap();
        };
        hostile();
        assert_eq!(allocations(|| (0..1000).for_each(|_| hostile())), 0, "{kind:?}");
    }
}

/// P-02: nor does taking descriptors as types, right ones and wrong ones.
#[test]
fn p_02_typed_takes_allocate_nothing() {
    let file = tempfile::tempfile().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (reads, writes) = nix::unistd::pipe().unwrap();
    let fds = [file.as_fd(), listener.as_fd(), reads.as_fd(), writes.as_fd()];
    let (here, there) = Channel::pair().unwrap();
    let mut packet = Packet::new();
    let mut take = || {
        here.send(b"right", &fds).unwrap();
        there.recv(&mut packet).unwrap();
        drop(packet.take_all::<(File, TcpListener, PipeReader, PipeWriter)>().unwrap());
        for (wrong, count) in [(&fds[..1], false), (&fds[1..2], false), (&fds[..2], true)] {
            here.send(b"wrong", wrong).unwrap();
            there.recv(&mut packet).unwrap();
            let error = packet.take_one::<PidFd>().unwrap_err();
            assert_eq!(matches!(error, TakeError::WrongCount { .. }), count);
        }
    };
    take();
    assert_eq!(allocations(|| (0..1000).for_each(|_| take())), 0);
}

/// P-02: reading and writing each message of the wire, and finding it malformed, allocate nothing.
#[test]
fn p_02_the_wire_allocates_nothing() {
    let long = vec![b'a'; 4000];
    let mut batch = vec![0; MAX_MESSAGE];
    let (stream, to) = (SocketType::Stream, Address::Ip("[2001:db8::1]:80".parse().unwrap()));
    let open = Ask::Open { access: Access::CREATE_NEW, path: &long };
    let asks = [
        Ask::Hello,
        Ask::Ready,
        Ask::Scratch,
        open,
        Ask::List { path: &long, from: 7 },
        Ask::Rename { from: &long, to: &long },
        Ask::Listen(stream, to),
        Ask::Bind(Address::Abstract(b"name")),
        Ask::Connect(stream, Address::Path(&long)),
        Ask::ConnectName { socket: stream, host: b"a.example", port: 1 },
        Ask::Call { service: b"sign", rights: Rights::ALL, bytes: &long },
        Ask::Batch(Batch::encode([open, Ask::Scratch, Ask::Stat(b"/")], &mut batch).unwrap()),
    ];
    let mut collected = vec![0; MAX_REPLY];
    let refused = Answer::Refused(Refusal { reason: Reason::Failed, errno: libc::ENOENT });
    let granted = Answer::Granted { descriptors: 1, data: b"" };
    let data = Answer::Granted { descriptors: 0, data: &long };
    let mut buffer = vec![0; MAX_MESSAGE];
    let taken = allocations(|| {
        for id in 0..1000 {
            for ask in asks {
                let length = Request { id, ask }.encode(&mut buffer).unwrap();
                let request = Request::decode(&buffer[..length], 0).unwrap();
                assert_eq!(request, Request { id, ask });
                if let Ask::Batch(batch) = request.ask {
                    assert_eq!(batch.iter().count(), batch.len());
                }
                assert!(Request::decode(&buffer[..length - 1], 0).is_err());
                assert!(Request { id, ask }.encode(&mut buffer[..10]).is_err());
            }
            let mut writer = AnswersWriter::new(&mut collected);
            [granted, refused, data].iter().for_each(|answer| writer.put(*answer).unwrap());
            let answers = Answer::Batch(writer.finish().0);
            for (answer, riding) in [(granted, 1), (refused, 0), (data, 0), (answers, 1)] {
                let length = Reply { id, answer }.encode(riding, &mut buffer).unwrap();
                assert_eq!(Reply::decode(&buffer[..length], riding.into()).unwrap(), Reply { id, answer });
                assert!(Reply::decode(&buffer[..length], 7).is_err());
            }
            let mut writer = EntriesWriter::new(&mut buffer);
            (0..10).for_each(|inode| writer.put(Entry { inode, file_type: 8, name: b"name" }).unwrap());
            let length = writer.finish(Some(id)).unwrap();
            assert_eq!(Entries::decode(&buffer[..length]).unwrap().iter().count(), 10);
            let length = Stat::decode(&[0; Stat::LEN]).unwrap().encode(&mut buffer).unwrap();
            assert!(Stat::decode(&buffer[..length]).is_some());
        }
    });
    assert_eq!(taken, 0);
}
