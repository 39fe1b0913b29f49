//! `[broker]` The names that the options of a sandbox take, and what they are.

use crate::cli::paint::Paint;
use crate::cli::table::table;
use crate::cli::walls::{presets, words, written};
use crate::sandbox::{Layer, Limit, Mode, Preset};

pub(super) fn list(paint: Paint) -> String {
    let described = |(name, description): (&str, &str)| [written(name), description.to_owned()];
    let [presets, words, limits]: [Vec<_>; 3] = [
        presets().map(described).collect(),
        words().map(described).collect(),
        Limit::ALL.iter().map(|limit| described((limit.name(), limit.description()))).collect(),
    ];
    let layers: Vec<_> = Layer::ALL.into_iter().map(layer).collect();
    [
        table(["preset", "what it is"], &presets, paint),
        table(["layer", "floor", "standard", "full", "what it is"], &layers, paint),
        table(["word", "what it allows"], &words, paint),
        table(["limit", "what it counts"], &limits, paint),
    ]
    .join("\n")
}

fn layer(layer: Layer) -> [String; 5] {
    let [floor, standard, full] = Preset::ALL.map(|preset| match preset.mode(layer) {
        Mode::Off => "-".to_owned(),
        mode => mode.to_string(),
    });
    [written(layer.name()), floor, standard, full, layer.description().to_owned()]
}
