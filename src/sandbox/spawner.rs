//! `[broker]` Threads that live as long as the process.
//!
//! PR_SET_PDEATHSIG, by which a worker dies with its parent, is about the *thread* that made it. So workers that are to
//! die with the process are made by the main thread, or by one of these. There are as many of them as were ever needed at
//! once: a start that takes long, because the new process was stopped, keeps none of the others waiting.

use std::io;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::unistd::{getpid, gettid};

type Task = Box<dyn FnOnce() + Send>;

/// Those that have nothing to do, with the process that they are of: after a fork, the child has none.
static IDLE: Mutex<Vec<(u32, Sender<Task>)>> = Mutex::new(Vec::new());

/// What `task` answers, done on a thread that ends with the process.
pub(super) fn for_life<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    // The main thread's end is the process's, but in programs that call pthread_exit(3) there.
    if gettid() == getpid() {
        return Ok(task());
    }
    let (answer, answered) = sync_channel(1);
    let task = move || drop(answer.send(task()));
    let spawner = take()?;
    let gone = || io::Error::other("the thread that starts workers has ended");
    spawner.send(Box::new(task)).map_err(|_| gone())?;
    // One that has panicked is not given back.
    let answer = answered.recv().map_err(|_| gone())?;
    idle().push((std::process::id(), spawner));
    Ok(answer)
}

fn take() -> io::Result<Sender<Task>> {
    let process = std::process::id();
    let known = {
        let mut idle = idle();
        idle.retain(|(of, _)| *of == process);
        idle.pop()
    };
    if let Some((_, spawner)) = known {
        return Ok(spawner);
    }
    let (spawner, tasks) = channel::<Task>();
    thread::Builder::new().name("spawner".to_owned()).spawn(move || tasks.into_iter().for_each(|task| task()))?;
    Ok(spawner)
}

fn idle() -> MutexGuard<'static, Vec<(u32, Sender<Task>)>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}
