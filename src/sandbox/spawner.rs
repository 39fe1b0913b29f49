//! `[broker]` A thread that lives as long as the process.
//!
//! PR_SET_PDEATHSIG, by which a worker dies with its parent, is about the *thread* that made it. So workers that are to
//! die with the process are made by the main thread, or by this one.

use std::io;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::unistd::{getpid, gettid};

type Task = Box<dyn FnOnce() + Send>;

/// Of this process, and not of one that it was forked from.
static SPAWNER: Mutex<Option<(u32, Sender<Task>)>> = Mutex::new(None);

/// What `task` answers, done on a thread that ends with the process.
pub(super) fn for_life<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    // The main thread's end is the process's, but in programs that call pthread_exit(3) there.
    if gettid() == getpid() {
        return Ok(task());
    }
    let (answer, answered) = sync_channel(1);
    let task = move || drop(answer.send(task()));
    let gone = |_| io::Error::other("the thread that starts workers has ended");
    spawner()?.send(Box::new(task)).map_err(|_| gone(()))?;
    answered.recv().map_err(|_| gone(()))
}

fn spawner() -> io::Result<Sender<Task>> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((process, sender)) = &*spawner {
        if *process == std::process::id() {
            return Ok(sender.clone());
        }
    }
    let (sender, tasks) = channel::<Task>();
    thread::Builder::new().name("spawner".to_owned()).spawn(move || tasks.into_iter().for_each(|task| task()))?;
    *spawner = Some((std::process::id(), sender.clone()));
    Ok(sender)
}
