//! `[broker]` `fdbroker sandbox --probe`: what this host offers.

use std::fs;
use std::io;
use std::process::ExitCode;

use super::json_of;
use crate::broker::Printable;
use crate::cli::json::Json;
use crate::cli::paint::Paint;
use crate::cli::table::table;
use crate::cli::walls::Walls;
use crate::cli::{Failure, print};
use crate::error::SpawnError;
use crate::sandbox::{Host, Layer, Preset, Sandbox, has_listener};
use crate::sys::process;

/// Exit status 0 if a sandbox with these walls can be had.
pub(super) fn probe(walls: Walls, json: bool) -> Result<ExitCode, Failure> {
    let why_not = match walls.apply(Sandbox::this_program())?.prepare() {
        Ok(_) => None,
        Err(SpawnError::Unavailable { layer, reason, .. }) => Some((layer, reason)),
        Err(error) => return Err(error.into()),
    };
    let probed = Probed {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(|_| "?".into(), |line| line.trim().into()),
        landlock: process::landlock_abi().ok(),
        notifies: has_listener(),
        host: Host::probe(),
        presets: Preset::ALL.map(|preset| (preset, missing(preset))),
        why_not,
    };
    print(&if json { probed.json() } else { probed.people(Paint::of(&io::stdout())) })?;
    Ok(ExitCode::from(u8::from(probed.why_not.is_some())))
}

struct Probed {
    kernel: String,
    landlock: Option<i64>,
    /// Whether the kernel can ask this process about a system call that a filter refuses.
    notifies: bool,
    host: Host,
    presets: [(Preset, Vec<(Layer, String)>); 3],
    /// The layer that is required and not to be had, and why.
    why_not: Option<(Layer, String)>,
}

/// What a preset wants and would not get, found out in the way in which a worker gets it.
fn missing(preset: Preset) -> Vec<(Layer, String)> {
    match Sandbox::this_program().preset(preset).prepare() {
        Ok(prepared) => {
            let layers = prepared.enforced().layers();
            layers.filter_map(|(layer, state)| Some((layer, state.err()?.to_owned()))).collect()
        }
        Err(SpawnError::Unavailable { layer, reason, .. }) => vec![(layer, reason)],
        Err(error) => vec![(Layer::Descriptors, error.to_string())],
    }
}

impl Probed {
    fn people(&self, paint: Paint) -> Vec<u8> {
        let missed = |layer| self.presets.iter().any(|(_, missing)| missing.iter().any(|(known, _)| *known == layer));
        let layers: Vec<_> = self.host.layers().map(|(layer, state)| row(layer, state, missed(layer), paint)).collect();
        let presets: Vec<_> =
            self.presets.iter().map(|(preset, missing)| preset_row(*preset, missing, paint)).collect();
        let uid = nix::unistd::geteuid();
        let mut text = format!("Linux {}, {}, user {uid}\n\n", Printable(&self.kernel), std::env::consts::ARCH);
        text += &table(["layer", "there", "what there is, or why not"], &layers, paint);
        text +=
            &format!("\nLandlock: {}\nA call that the filter refuses: {}\n\n", self.landlock(), self.notification());
        text += &table(["preset", "whole", ""], &presets, paint);
        if let Some((layer, reason)) = &self.why_not {
            let head = paint.wrong("it cannot be had");
            text += &format!("\n{head}: layer \"{layer}\" is required: {}\n", Printable(reason));
        }
        text.into_bytes()
    }

    fn landlock(&self) -> String {
        match self.landlock {
            None => "none".to_owned(),
            Some(abi @ ..=3) => {
                format!(
                    "ABI {abi}: files; TCP (Linux 6.7), signals and abstract sockets (Linux 6.12) are for the filter"
                )
            }
            Some(abi @ 4..=5) => {
                format!("ABI {abi}: files and TCP; signals and abstract sockets (Linux 6.12) are for the filter")
            }
            Some(abi) => format!("ABI {abi}: files, TCP, signals and abstract sockets"),
        }
    }

    fn notification(&self) -> &'static str {
        match self.notifies {
            true => "with --refuse kill, the broker is told which one it was (seccomp user notification)",
            false => {
                "with --refuse kill, only the kernel's log says which one it was (the broker is told from Linux 5.0 on, unless \
                 another, as a container's manager, listens to a filter around it)"
            }
        }
    }

    fn json(&self) -> Vec<u8> {
        let lack =
            |(layer, why): &(Layer, String)| Json::Object(vec![("layer", Json::text(layer)), ("why", Json::text(why))]);
        let preset = |(preset, missing): &(Preset, Vec<(Layer, String)>)| {
            Json::Object(vec![
                ("preset", Json::text(preset)),
                ("whole", Json::Bool(missing.is_empty())),
                ("missing", Json::list(missing.iter().map(lack))),
            ])
        };
        Json::Object(vec![
            ("kernel", Json::text(&self.kernel)),
            ("machine", Json::text(std::env::consts::ARCH)),
            ("user", Json::Number(nix::unistd::geteuid().as_raw().into())),
            ("layers", Json::list(self.host.layers().map(|layer| json_of(layer, "available")))),
            ("landlock_abi", Json::or_null(self.landlock.map(Json::Number))),
            ("seccomp_notification", Json::Bool(self.notifies)),
            ("presets", Json::list(self.presets.iter().map(preset))),
            ("can_be_had", Json::Bool(self.why_not.is_none())),
            ("lacks", Json::or_null(self.why_not.as_ref().map(lack))),
        ])
        .document()
    }
}

/// What no preset misses is no lack: it stands in the background.
fn row(layer: Layer, state: Result<&str, &str>, missed: bool, paint: Paint) -> [String; 3] {
    match state {
        Ok("yes") => [layer.to_string(), paint.good("yes"), layer.description().to_owned()],
        Ok(what) => [layer.to_string(), paint.good("yes"), Printable(what).to_string()],
        Err(why) => {
            let no = if missed { paint.wrong("NO") } else { paint.faint("NO") };
            [layer.to_string(), no, paint.faint(Printable(why))]
        }
    }
}

fn preset_row(preset: Preset, missing: &[(Layer, String)], paint: Paint) -> [String; 3] {
    if missing.is_empty() {
        return [preset.to_string(), paint.good("yes"), preset.description().to_owned()];
    }
    let names = missing.iter().map(|(layer, _)| layer.name()).collect::<Vec<_>>().join(", ");
    [preset.to_string(), paint.wrong("NO"), format!("without {names}")]
}
