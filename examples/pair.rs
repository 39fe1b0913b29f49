//! Two processes, one channel: the smallest thing to do with this crate.
//!
//! The parent opens a file and a listening socket and hands both over to its child, a process of its own, which serves
//! the one through the other.
//!
//! ```text
//! cargo run --example pair
//! ```
#![allow(clippy::print_stdout, reason = "an example's output")]

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, id};

use fdbroker::{Channel, Packet};

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("child") { child() } else { parent() }
}

fn parent() -> Result<(), Box<dyn Error>> {
    // Each process holds one end, and so each is told when the other is gone. The child finds its own as standard
    // input.
    let (ours, theirs) = Channel::pair()?;
    let mut child = Command::new(std::env::current_exe()?).arg("child").stdin(OwnedFd::from(theirs)).spawn()?;

    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut file = tempfile::tempfile()?;
    writeln!(file, "This file has no name. Only a descriptor leads to it.")?;
    file.rewind()?;

    // One message: the bytes and both descriptors arrive together, or not at all.
    ours.send(b"serve this file here", &[listener.as_fd(), file.as_fd()])?;
    println!("parent {}: sent a socket that listens on {address}, and a file", id());
    // Sending lends. The child has descriptors of its own by now, so the parent's can go.
    drop((listener, file));

    let mut text = String::new();
    TcpStream::connect(address)?.read_to_string(&mut text)?;
    print!("parent {}: was served: {text}", id());

    let mut packet = Packet::new();
    ours.recv(&mut packet)?;
    println!("parent {}: the child says: {}", id(), String::from_utf8_lossy(packet.bytes()));
    if child.wait()?.success() { Ok(()) } else { Err("the child failed".into()) }
}

fn child() -> Result<(), Box<dyn Error>> {
    let channel = Channel::try_from(io::stdin().as_fd().try_clone_to_owned()?)?;

    let mut packet = Packet::new();
    channel.recv(&mut packet)?;
    println!("child  {}: was told: {}", id(), String::from_utf8_lossy(packet.bytes()));
    // The kernel is asked what each descriptor is: exactly these two, or an error, and everything is closed.
    let (listener, mut file) = packet.take_all::<(TcpListener, File)>()?;

    let (mut client, _) = listener.accept()?;
    io::copy(&mut file, &mut client)?;
    channel.send(b"done", &[])?;
    Ok(())
}
