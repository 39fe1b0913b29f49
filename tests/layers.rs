//! The layers around a worker: which are there, which are not, and whether the report says so. Each is looked at from
//! outside (/proc) and tried from inside, at every preset.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::print_stdout, reason = "a test")]
#![allow(unsafe_code, reason = "prctl(2) has no safe form for what is asked, nor has a look before main")]

mod common;
mod seen;

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use common::start::{run, worker};
use common::status;
use fdbroker::{Host, Layer, Mode, Preset, Sandbox, SpawnError, Stdio, Word};
use seen::{Seen, inside, sandbox};

/// Not a test by itself: what the processes do that the tests of this file start.
#[test]
fn process() {
    let Some(role) = common::role() else { return };
    match role.as_str() {
        "inside" => inside(),
        "groups" => groups(),
        other => panic!("no such role: {other}"),
    }
}

// ------------------------------------------------------------------------------------------- ids and capabilities

/// B-01: at every preset, /proc says NoNewPrivs 1, Seccomp 2, no capability in any set, and the ids and groups that were
/// asked for.
#[test]
fn b_01_ids_and_capabilities_at_each_preset() {
    for preset in Preset::ALL {
        let (sandbox, uid, gid, groups) = if common::is_root() {
            (sandbox(preset).ids(54321, 54322).groups([7, 54323]), 54321, 54322, "7 54323")
        } else {
            (sandbox(preset), nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), "")
        };
        let seen = Seen::of(&sandbox);
        check_status(&seen, uid, gid);
        if common::is_root() {
            assert_eq!(seen.status("Groups"), groups);
        }
    }
}

/// B-01: without a word about the user, root's worker is nobody; by name, it is that user with that user's group, and
/// with no other.
#[test]
fn b_01_users_by_default_and_by_name() {
    if !common::is_root() {
        eprintln!("SKIPPED b_01_users_by_default_and_by_name: only root can start a worker as another user");
        return;
    }
    let daemon = nix::unistd::User::from_name("daemon").unwrap().expect("a user called daemon");
    for preset in Preset::ALL {
        check_status(&Seen::of(&sandbox(preset)), 65534, 65534);
        let seen = Seen::of(&sandbox(preset).user("daemon"));
        check_status(&seen, daemon.uid.as_raw(), daemon.gid.as_raw());
        assert_eq!(seen.status("Groups"), "");
    }
}

/// B-01: the broker's supplementary groups are not the worker's.
#[test]
fn b_01_no_supplementary_groups() {
    if common::is_root() {
        run("groups");
    } else {
        eprintln!("SKIPPED b_01_no_supplementary_groups: only root can leave groups");
    }
}

fn groups() {
    nix::unistd::setgroups(&[1, 2, 1234].map(nix::unistd::Gid::from_raw)).unwrap();
    assert_eq!(status(std::process::id(), "Groups"), "1 2 1234");
    for preset in Preset::ALL {
        assert_eq!(Seen::of(&sandbox(preset)).status("Groups"), "");
    }
}

/// B-01: a daemon of root's that has lowered its effective user for a while: the worker is that user, and not root.
#[test]
fn b_01_an_effective_user_who_is_not_the_real_one() {
    common::alone("b_01_an_effective_user_who_is_not_the_real_one", || {
        if !common::is_root() {
            eprintln!("SKIPPED b_01_an_effective_user_who_is_not_the_real_one: it takes root to be two users");
            return;
        }
        nix::unistd::setegid(nix::unistd::Gid::from_raw(65534)).unwrap();
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(65534)).unwrap();
        let prepared = Sandbox::new("/bin/sleep").arg("1000").preset(Preset::Floor).prepare().unwrap();
        let (worker, _channel) = prepared.spawn().unwrap();
        for field in ["Uid", "Gid"] {
            assert_eq!(common::status(worker.id(), field), ["65534"; 4].join("\t"), "{field}");
        }
        // Who may end it is root.
        nix::unistd::seteuid(nix::unistd::Uid::from_raw(0)).unwrap();
    });
}

/// B-01: user 0 and group 0 are refused, and so is another user for a broker that is not root; nothing is run.
#[test]
fn b_01_users_that_no_worker_can_be() {
    let zero = |sandbox: Sandbox| [sandbox.clone().ids(0, 1), sandbox.clone().ids(1, 0), sandbox.groups([5, 0])];
    let plain = || worker("inside");
    let mut refused = vec![plain().ids(1, 1), plain().groups([1]), plain().user("daemon")];
    if common::is_root() {
        refused = zero(plain()).to_vec();
        refused.push(plain().user("root"));
        refused.push(plain().user("no such user"));
    }
    for sandbox in refused {
        let error = witnessed(&sandbox).unwrap_err();
        assert!(matches!(error, SpawnError::Prepare { what: "choosing the user", .. }), "{error:?}");
    }
}

fn check_status(seen: &Seen, uid: u32, gid: u32) {
    assert_eq!(seen.status("NoNewPrivs"), "1");
    assert_eq!(seen.status("Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(seen.status(set), "0000000000000000", "{set}");
    }
    // Without a user namespace, an ordinary user cannot empty it; the report says so then.
    let has_rights = common::is_root() || seen.enforced().has(Layer::UserNamespace);
    assert_eq!(seen.status("CapBnd") == "0000000000000000", has_rights);
    assert_eq!(seen.enforced().has(Layer::Capabilities), has_rights);
    assert_eq!(seen.holds(Layer::Securebits), has_rights);
    // Real, effective, saved and of the file system.
    assert_eq!(seen.status("Uid"), [uid; 4].map(|id| id.to_string()).join("\t"));
    assert_eq!(seen.status("Gid"), [gid; 4].map(|id| id.to_string()).join("\t"));
}

// ---------------------------------------------------------------------------------------------------- the report

/// B-09, B-07: at every preset, each line of the report is what /proc says from outside and a try says from inside, and
/// what it does not speak of is not there.
#[test]
fn b_09_b_07_the_report_is_what_holds() {
    for preset in Preset::ALL {
        let seen = Seen::of(&sandbox(preset));
        eprintln!("{preset}:\n{}", seen.enforced());
        seen.check(preset.name());
        // The preset wants what it says: nothing that it wants is passed over. Root has no use for a user namespace.
        for layer in Layer::ALL {
            let wanted = preset.mode(layer) != Mode::Off && !(common::is_root() && layer == Layer::UserNamespace);
            assert_eq!(seen.enforced().layers().any(|(known, _)| known == layer), wanted, "{preset}: {layer}");
        }
        // What every host has that these tests run on.
        for layer in [Layer::Descriptors, Layer::NoNewPrivs, Layer::Seccomp, Layer::Limits] {
            assert!(seen.enforced().has(layer), "{preset}: {layer}");
        }
        assert_eq!(seen.enforced().has(Layer::ExecOnce), cfg!(not(target_arch = "riscv64")), "{preset}");
    }
}

/// B-09: each layer turned off is not there, and the report, which does not speak of it, is true of all others: so each
/// of the looks above tells a layer that is there from one that is not.
#[test]
fn b_09_a_layer_that_is_off_is_not_there() {
    for layer in Layer::ALL.into_iter().filter(|layer| *layer != Layer::Descriptors) {
        let mut sandbox = sandbox(Preset::Full).layer(layer, Mode::Off);
        if layer == Layer::NoNewPrivs {
            // These want it.
            sandbox = sandbox.layer(Layer::Landlock, Mode::Off).layer(Layer::Seccomp, Mode::Off);
        }
        if layer == Layer::User && common::is_root() {
            // That is refused.
            continue;
        }
        if layer == Layer::NoNewPrivs && !common::is_root() {
            // The right to do without is the user namespace's.
            continue;
        }
        let seen = Seen::of(&sandbox);
        assert!(!seen.enforced().layers().any(|(known, _)| known == layer), "{layer}\n{}", seen.enforced());
        seen.check(&format!("{layer} off"));
    }
}

/// B-09: the report as JSON parses, and says the same as the table and the lines; so it is of the host's.
#[test]
fn b_09_the_report_as_json() {
    let script = "import json, sys\nfor entry in json.load(sys.stdin):\n  \
                  assert sorted(entry) == ['detail', 'enforced', 'layer'] and type(entry['enforced']) is bool\n  \
                  print(entry['layer'], {True: 'yes', False: 'NO'}[entry['enforced']], entry['detail'], sep='|')\n";
    for preset in Preset::ALL {
        let prepared = sandbox(preset).prepare().unwrap();
        let report = prepared.enforced();
        let mut python = match std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        {
            Ok(python) => python,
            Err(error) => {
                eprintln!("SKIPPED b_09_the_report_as_json: python3: {error}");
                return;
            }
        };
        python.stdin.take().unwrap().write_all(report.to_json().as_bytes()).unwrap();
        let output = python.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", report.to_json());
        let lines = report.layers().map(|(layer, state)| match state {
            Ok(what) => format!("{layer}|yes|{what}\n"),
            Err(why) => format!("{layer}|NO|{why}\n"),
        });
        assert_eq!(String::from_utf8(output.stdout).unwrap(), lines.collect::<String>());
        // The table has the same in the same order, in columns.
        let table = report.to_string();
        assert_eq!(table.lines().count(), report.layers().count());
        for (line, (layer, state)) in table.lines().zip(report.layers()) {
            let (word, detail) = state.map_or_else(|why| ("NO ", why), |what| ("yes", what));
            assert_eq!(line.split_whitespace().collect::<Vec<_>>().join(" "), {
                let plain = format!("{layer} {word} {detail}");
                plain.split_whitespace().collect::<Vec<_>>().join(" ")
            });
            assert_eq!(line.find(&format!("  {word}  ")), table.lines().next().unwrap().find("  yes  "), "{table}");
        }
    }
}

/// B-09, B-07: what the probe says of the host is what workers get that ask for it.
#[test]
fn b_09_b_07_the_probe_says_what_workers_get() {
    let host = Host::probe();
    eprintln!("{host}");
    assert_eq!(host.layers().map(|(layer, _)| layer).collect::<Vec<_>>(), Layer::ALL);
    let seen = Seen::of(&sandbox(Preset::Full));
    for (layer, state) in host.layers() {
        // For what the preset leaves out: asked for by name.
        let seen = if seen.enforced().layers().any(|(known, _)| known == layer) {
            &seen
        } else {
            &Seen::of(&sandbox(Preset::Full).layer(layer, Mode::IfAvailable))
        };
        assert_eq!(state.is_ok(), seen.holds(layer), "{layer}: {state:?}\n{}", seen.enforced());
        assert!(!state.unwrap_or_else(|why| why).is_empty());
    }
}

// ------------------------------------------------------------------------------------- required, if available, off

/// Starts the worker with standard output to a file. On an error, nothing has been run: the file is empty.
fn witnessed(sandbox: &Sandbox) -> Result<(), SpawnError> {
    let file = tempfile::tempfile().unwrap();
    let sandbox = sandbox.clone().stdout(Stdio::from(file.try_clone().unwrap()));
    match sandbox.spawn() {
        Ok((worker, channel)) => {
            common::start::word(&channel);
            drop(worker);
            assert_ne!(file.metadata().unwrap().size(), 0, "a worker that runs writes there");
            Ok(())
        }
        Err(error) => {
            // Who was born after all writes before it ends.
            assert_eq!(file.metadata().unwrap().size(), 0, "{error}, but the worker ran");
            Err(error)
        }
    }
}

/// B-08, B-07, L-10: each layer, required, if available, and off: the worker has it, or there is no worker and the error
/// names the layer and says why; or the report says why; or neither speaks of it.
#[test]
fn b_08_b_07_l_10_each_layer_in_each_mode() {
    let host = Host::probe();
    for (layer, state) in host.layers() {
        let asked = |mode| sandbox(Preset::Full).layer(layer, mode);
        match (state, witnessed(&asked(Mode::Required))) {
            (Ok(_), started) => started.unwrap_or_else(|error| panic!("{layer}: {error}")),
            (Err(why), Err(SpawnError::Unavailable { layer: missing, reason, .. })) => {
                // The missing user namespace is why the others are missing.
                assert!(missing == layer, "{layer}: {missing}: {reason}");
                assert!(!reason.is_empty() && !why.is_empty());
            }
            (Err(why), other) => panic!("{layer} is not to be had ({why}), but: {other:?}"),
        }
        let prepared = asked(Mode::IfAvailable).prepare().unwrap();
        let of_root = common::is_root() && layer == Layer::UserNamespace;
        assert_eq!(prepared.enforced().has(layer), state.is_ok(), "{layer}: {}", prepared.enforced());
        assert_eq!(prepared.enforced().layers().any(|(known, _)| known == layer), !of_root, "{layer}");
        match (layer, asked(Mode::Off).prepare()) {
            // Who is root starts no worker that is.
            (Layer::User, Err(SpawnError::Unavailable { layer: Layer::User, .. })) if common::is_root() => {}
            (Layer::User, other) if common::is_root() => panic!("{other:?}"),
            (Layer::Descriptors | Layer::NoNewPrivs, Err(SpawnError::Unavailable { layer: named, .. })) => {
                assert_eq!(named, layer);
            }
            (Layer::Descriptors | Layer::NoNewPrivs, other) => panic!("{layer}: {other:?}"),
            (_, prepared) => {
                let prepared = prepared.unwrap();
                assert!(!prepared.enforced().layers().any(|(known, _)| known == layer), "{layer}");
            }
        }
    }
}

/// B-08: what needs another layer that is off is not to be had, and says which one it needs.
#[test]
fn b_08_layers_that_need_others() {
    let off = |layer| sandbox(Preset::Full).layer(layer, Mode::Off);
    let mut cases = vec![
        (off(Layer::MountNamespace), Layer::Root, "the mount namespace"),
        (off(Layer::Seccomp), Layer::ExecOnce, "the filter"),
        (off(Layer::Seccomp).allow(Word::Exec), Layer::ExecOnce, "the filter"),
        (sandbox(Preset::Full).allow(Word::Exec), Layer::ExecOnce, "the word exec"),
    ];
    if !common::is_root() {
        for layer in [Layer::PidNamespace, Layer::Capabilities, Layer::Securebits, Layer::NetworkNamespace] {
            cases.push((off(Layer::UserNamespace), layer, "the user namespace"));
        }
    }
    for (sandbox, layer, needed) in cases {
        match witnessed(&sandbox.clone().layer(layer, Mode::Required)) {
            Err(SpawnError::Unavailable { layer: named, reason, .. }) => {
                assert_eq!(named, layer);
                assert!(reason.contains(needed), "{layer}: {reason}");
            }
            other => panic!("{layer}: {other:?}"),
        }
        let prepared = sandbox.layer(layer, Mode::IfAvailable).prepare().unwrap();
        let said = prepared.enforced().layers().find(|(known, _)| *known == layer).unwrap().1;
        assert!(said.unwrap_err().contains(needed), "{said:?}");
    }
}

/// B-08, L-10: what could not be found out for want of descriptors is not taken for what the host has not: there is no
/// worker, and as soon as there is room again, one with all of it.
#[test]
fn b_08_l_10_a_want_for_a_moment() {
    common::alone_with(128, "b_08_l_10_a_want_for_a_moment", || {
        // One more than the program takes to be found, so that trying out is what fails.
        let mut all = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            all.push(file);
        }
        let mut failures = 0;
        let prepared = loop {
            match sandbox(Preset::Full).prepare() {
                Ok(prepared) => break prepared,
                Err(_) => failures += 1,
            }
            all.pop().unwrap();
        };
        drop(all);
        assert!(failures > 2, "{failures}");
        let seen = Seen::of(&sandbox(Preset::Full));
        seen.check("after a want of descriptors");
        let host = Host::probe();
        let missing = |layer: &Layer| host.layers().any(|(known, state)| known == *layer && state.is_err());
        let not_there = seen.enforced().layers().filter(|(layer, state)| state.is_err() && !missing(layer)).count();
        assert_eq!(not_there, 0, "{}", seen.enforced());
        assert_eq!(prepared.enforced().to_string(), seen.enforced().to_string());
        assert!(!host.to_string().contains("Too many open files"), "{host}");
        assert!(!common::is_root() || seen.enforced().has(Layer::User), "{}", seen.enforced());
    });
}

/// B-08: asked for beforehand, a full sandbox is one whose report is full, or there is no worker; asked for afterwards,
/// the answer names what is missing.
#[test]
fn b_08_l_10_full_or_none() {
    for preset in Preset::ALL {
        let seen = Seen::of(&sandbox(preset));
        let missing: Vec<_> =
            seen.enforced().layers().filter_map(|(layer, state)| Some((layer, state.err()?))).collect();
        match seen.enforced().require_full() {
            Ok(()) => assert!(missing.is_empty() && seen.enforced().is_full()),
            Err(error) => {
                assert_eq!(error.missing().collect::<Vec<_>>(), missing);
                let text = error.to_string();
                assert!(missing.iter().all(|(layer, why)| text.contains(&format!("{layer}: {why}"))), "{text}");
            }
        }
        match (missing.first(), witnessed(&sandbox(preset).require_full())) {
            (None, Ok(())) => {}
            (Some((layer, _)), Err(SpawnError::Unavailable { layer: named, .. })) => assert_eq!(named, *layer),
            (_, other) => panic!("{preset}: missing {missing:?}, but {other:?}"),
        }
        // Without what is missing, it is full.
        let without = missing.iter().fold(sandbox(preset), |sandbox, (layer, _)| sandbox.layer(*layer, Mode::Off));
        witnessed(&without.require_full()).unwrap();
    }
}
