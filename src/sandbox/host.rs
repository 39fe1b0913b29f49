//! `[broker]` What this host offers, found out by trying: once for each layer.

use std::cell::Cell;
use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;

use nix::unistd::{getegid, geteuid};

use super::states::States;
use super::{Layer, landlock, user};
use crate::sys::child::{self, Entity, Failure, Filter, Plan, Start, Step, Why};
use crate::sys::process;

/// What this host offers for each layer of a sandbox, to this process: see [`Host::probe`].
#[derive(Debug, Clone)]
pub struct Host(States);

impl Host {
    /// Tries every layer out, in processes that end at once. What was tried before in this process, for this user, is not
    /// tried again: a later change of the host is seen by another process only. But where something was used up for the
    /// moment (descriptors, processes, memory, or as many namespaces as there may be), that is tried anew.
    #[must_use]
    pub fn probe() -> Self {
        Self(Layer::ALL.into_iter().map(|layer| (layer, available(layer))).collect())
    }

    /// Each layer with what there is, or why it is not to be had and who can do what about that.
    pub fn layers(&self) -> impl Iterator<Item = (Layer, Result<&str, &str>)> {
        self.0.iter()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a layer is to be had by this process, and what is known of it.
pub(super) fn available(layer: Layer) -> Result<String, String> {
    let in_user_namespace = !changes_user();
    match layer {
        Layer::User if !geteuid().is_root() => {
            Err("only root can start a worker as another user: it runs as the broker's own".to_owned())
        }
        Layer::User => tried(layer).map(|()| "any".to_owned()),
        Layer::UserNamespace if !in_user_namespace => {
            Err("not for root, whose workers get another user instead".to_owned())
        }
        Layer::UserNamespace => tried(layer).map(|()| "its own".to_owned()),
        Layer::Capabilities if in_user_namespace && tried(Layer::UserNamespace).is_err() => {
            Err("none is held, but the bounding set is as it was: it needs the user namespace".to_owned())
        }
        Layer::Capabilities => {
            let bounding = |why| format!("none is held, but the bounding set is as it was: {why}");
            tried(layer).map(|()| "none, in any set".to_owned()).map_err(bounding)
        }
        Layer::NotDumpable => {
            Err("executing a program makes it dumpable: the worker itself can see to that afterwards (lockdown)"
                .to_owned())
        }
        Layer::Landlock => landlock::abi().map(|abi| format!("ABI {abi}")),
        // K65.
        Layer::ExecOnce if cfg!(target_arch = "riscv64") => {
            Err("this architecture's kernel leaves a new program the registers, with the number that lets it pass"
                .to_owned())
        }
        Layer::Seccomp if !has_filter() => {
            Err("this kernel or machine has no system-call filters (CONFIG_SECCOMP_FILTER)".to_owned())
        }
        Layer::Securebits
        | Layer::Root
        | Layer::MountNamespace
        | Layer::PidNamespace
        | Layer::IpcNamespace
        | Layer::UtsNamespace
        | Layer::CgroupNamespace
        | Layer::NetworkNamespace => {
            if in_user_namespace {
                tried(Layer::UserNamespace).map_err(|_| "it needs the user namespace".to_owned())?;
            }
            let what = match layer {
                Layer::Root => "empty, in memory",
                Layer::Securebits => "locked: no capabilities by being user 0",
                _ => "its own",
            };
            tried(layer).map(|()| what.to_owned())
        }
        _ => Ok("yes".to_owned()),
    }
}

/// Whether this process can start workers as another user. Root in a container or in a user namespace may not be able
/// to: it is then as any other user here.
pub(super) fn changes_user() -> bool {
    geteuid().is_root() && tried(Layer::User).is_ok()
}

fn has_filter() -> bool {
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")) && process::has_filters()
}

/// Whether the broker can be asked about a system call that a worker's filter refuses. Of the filters around a process
/// one may have a listener, and a container's manager may have taken that: EBUSY. Found out once, unless something was
/// wanting.
pub(crate) fn has_listener() -> bool {
    static HAS: Mutex<Option<bool>> = Mutex::new(None);
    let mut has = HAS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = *has {
        return known;
    }
    if !process::filters_can_notify() {
        return *has.insert(false);
    }
    // BPF_RET, SECCOMP_RET_ALLOW
    let everything = [seccompiler::sock_filter { code: 6, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let plan = Plan { no_new_privs: true, ..nothing() };
    let filter = Some(Filter { code: &everything, listener: true });
    match run(&Start { plan: &plan, descriptors: &[], filter, token: 0, listener: None, parent: None }) {
        Ok(()) => *has.insert(true),
        Err(Failure { step: Step::Seccomp, why: Why::Refused(libc::EBUSY), .. }) => *has.insert(false),
        // The worker's start will say it.
        Err(_) => true,
    }
}

/// Answers of [`try_out`], by layer and user.
static TRIED: Mutex<Vec<((Layer, u32), Result<(), String>)>> = Mutex::new(Vec::new());

fn tried(layer: Layer) -> Result<(), String> {
    let key = (layer, geteuid().as_raw());
    let lock = || TRIED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let known = lock().iter().find(|(known, _)| *known == key).map(|(_, result)| result.clone());
    known.unwrap_or_else(|| match try_out(layer) {
        // It says nothing about the host, and is not remembered.
        Err(Failure { why: Why::Refused(errno), .. }) if is_want(errno) => {
            WANTED.set(Some(errno));
            Err(format!("not found out: {}", io::Error::from_raw_os_error(errno)))
        }
        // It is so until somebody else's namespace ends, or mount.
        Err(failure) if is_full(failure) && !may_have_none(layer) => Err(reason(layer, failure)),
        result => {
            let result = result.map_err(|failure| reason(layer, failure));
            // Two threads may try it at once, to the same end.
            lock().push((key, result.clone()));
            result
        }
    })
}

thread_local! {
    /// What this thread was short of when it tried something out.
    static WANTED: Cell<Option<i32>> = const { Cell::new(None) };
}

/// Does it, and fails if something could not be tried out meanwhile for want of descriptors, processes or memory: what
/// is "not available" then would be so for a moment only, and a worker without it less than what was asked for.
pub(super) fn known<T, E>(prepare: impl FnOnce() -> Result<T, E>, short: impl FnOnce(io::Error) -> E) -> Result<T, E> {
    WANTED.set(None);
    let prepared = prepare();
    match WANTED.take() {
        Some(errno) => Err(short(io::Error::from_raw_os_error(errno))),
        None => prepared,
    }
}

fn is_want(errno: i32) -> bool {
    matches!(errno, libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE)
}

/// Whether there were as many of them as there may be. (Before Linux 4.9 it was EUSERS for user namespaces.)
fn is_full(Failure { why, .. }: Failure) -> bool {
    matches!(why, Why::Refused(libc::ENOSPC | libc::EUSERS))
}

/// A child that does what the layer's worker would do, and ends.
fn try_out(layer: Layer) -> Result<(), Failure> {
    let mut namespaces = layer.flag().unwrap_or(0);
    let in_user_namespace = takes_user_namespace(layer);
    if in_user_namespace {
        namespaces |= Layer::UserNamespace.flag().unwrap_or(0);
    }
    if layer == Layer::Root {
        namespaces |= Layer::MountNamespace.flag().unwrap_or(0);
    }
    let plan = Plan {
        namespaces,
        id_maps: in_user_namespace.then(id_maps),
        root: (layer == Layer::Root).then(one_bind),
        bounding_set: (layer == Layer::Capabilities).then(process::capabilities),
        securebits: layer == Layer::Securebits,
        ids: (layer == Layer::User).then(user::nobody),
        ..nothing()
    };
    run(&Start { plan: &plan, descriptors: &[], filter: None, token: 0, listener: None, parent: None })
}

/// The plan of a child that ends at once.
fn nothing() -> Plan {
    Plan {
        namespaces: 0,
        id_maps: None,
        root: None,
        working_directory: CString::from(c"/"),
        limits: Vec::new(),
        bounding_set: None,
        securebits: false,
        ids: None,
        no_new_privs: false,
        die_with_parent: false,
        landlock: None,
        image: None,
    }
}

fn run(start: &Start<'_>) -> Result<(), Failure> {
    child::spawn(start).map(|(pid, pidfd)| {
        process::reap(&pidfd, pid);
    })
}

/// Whether a try of the layer makes a user namespace, to have the right to the rest.
fn takes_user_namespace(layer: Layer) -> bool {
    layer != Layer::User && !changes_user()
}

/// A root with something in it: a host may refuse that alone. A file, if there is one, beneath which nothing is mounted:
/// without mount_setattr(2), what has mounts beneath it cannot be bound in a user namespace.
fn one_bind() -> Vec<Entity> {
    let path = CString::from(c"host");
    let bind = |source: &CStr| Entity::Bind { path: path.clone(), source: source.to_owned(), is_device: false };
    let files = [c"/dev/null", c"/proc/version"];
    match files.into_iter().find(|file| Path::new(OsStr::from_bytes(file.to_bytes())).exists()) {
        Some(file) => vec![Entity::File(path.clone()), bind(file)],
        None => vec![Entity::Directory(path.clone()), bind(c"/")],
    }
}

/// In its own user namespace the worker is the user that it is outside.
pub(super) fn id_maps() -> [String; 2] {
    let (uid, gid) = (geteuid(), getegid());
    [format!("{uid} {uid} 1\n"), format!("{gid} {gid} 1\n")]
}

/// What was refused, and who can do what about it.
fn reason(layer: Layer, Failure { step, why, .. }: Failure) -> String {
    let said = format!("step \"{step}\": {}", io::Error::from(why));
    let Why::Refused(errno) = why else { return said };
    let advice = match errno {
        libc::EINVAL if matches!(step, Step::PrivateMounts | Step::PivotRoot) => {
            "the root of this process is no mount point, as in a chroot or in an initramfs: an administrator can mount \
             that directory over itself (mount --bind)"
                .to_owned()
        }
        libc::ENOENT if matches!(step, Step::IdMaps | Step::CloseOnExec) => {
            "there is no /proc here: an administrator can mount it".to_owned()
        }
        libc::EINVAL if layer == Layer::User => {
            "user 65534 does not exist here: this is a user namespace that does not map it".to_owned()
        }
        libc::ENOSYS | libc::EINVAL => {
            "this kernel does not have it, or a filter around this process hides it".to_owned()
        }
        libc::ENOSPC | libc::EUSERS if step == Step::Clone => exhausted(layer),
        libc::EPERM | libc::EACCES => forbidden(),
        _ => return said,
    };
    format!("{said}: {advice}")
}

fn exhausted(layer: Layer) -> String {
    let kinds = kinds(layer);
    let kind = kinds.clone().find(|kind| may_have_no(kind)).or(kinds.last()).unwrap_or("user");
    let limit = setting(&format!("user/max_{kind}_namespaces")).unwrap_or_else(|| "unknown".to_owned());
    format!("no more namespaces are to be had (user.max_{kind}_namespaces is {limit}): an administrator can raise it")
}

/// Whether a kind of namespace that a try of the layer makes is not to be had at all: it stays so, unlike a limit that
/// has been reached. The limits of user namespaces further out are not to be seen from here.
fn may_have_none(layer: Layer) -> bool {
    kinds(layer).any(may_have_no)
}

fn may_have_no(kind: &str) -> bool {
    setting(&format!("user/max_{kind}_namespaces")).as_deref() == Some("0")
}

/// The namespaces that a try of the layer makes, as settings name them; last the layer's own.
fn kinds(layer: Layer) -> impl Iterator<Item = &'static str> + Clone {
    let own = match layer {
        Layer::PidNamespace => Some("pid"),
        Layer::MountNamespace | Layer::Root => Some("mnt"),
        Layer::IpcNamespace => Some("ipc"),
        Layer::UtsNamespace => Some("uts"),
        Layer::CgroupNamespace => Some("cgroup"),
        Layer::NetworkNamespace => Some("net"),
        _ => None,
    };
    takes_user_namespace(layer).then_some("user").into_iter().chain(own)
}

fn forbidden() -> String {
    if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return "user namespaces are for root only (kernel.unprivileged_userns_clone is 0): an administrator can set it to 1"
            .to_owned();
    }
    if setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return "AppArmor restricts user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1): an administrator \
                can give this program a profile with \"userns,\", or set it to 0"
            .to_owned();
    }
    if !geteuid().is_root() && process::dumpable() != 1 {
        return "this process is not dumpable (PR_SET_DUMPABLE, or a program that may not be read), so /proc/self/uid_map \
                is root's: start workers before it becomes so"
            .to_owned();
    }
    "refused to this process, as in a container, in a chroot, or by a security module: an administrator can allow it"
        .to_owned()
}

/// A line of /proc/sys.
fn setting(name: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().to_owned())
}
