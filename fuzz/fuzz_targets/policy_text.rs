//! Any text is an error with a line and a column inside it, or a policy that is written as text which is that policy
//! again. Nothing is built of it: that would open directories.
#![no_main]

use fdbroker::PolicyFile;
use fdbroker::policy::{Place, Values};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = match PolicyFile::parse(text, "fuzz") {
        Ok(file) => file,
        Err(error) => {
            let Place::Text { line, column, .. } = error.place() else { panic!("{error}") };
            let found = text.split('\n').nth(line - 1).expect("a line of the text");
            assert!((1..=found.chars().count() + 1).contains(column), "{error}");
            return;
        }
    };
    let again = PolicyFile::parse(&file.to_toml(), "again").unwrap_or_else(|error| panic!("{error}\n{file}"));
    assert!(again == file, "{file}\n{again}");
    assert_eq!(again.limits(), file.limits());
    let rules = |file: &PolicyFile| -> Vec<_> {
        file.rules().map(|rule| (rule.denies(), rule.object(), rule.rights(), rule.path().map(Into::into))).collect()
    };
    let (one, other): (Vec<(_, _, _, Option<std::path::PathBuf>)>, _) = (rules(&file), rules(&again));
    assert_eq!(one, other);
    // A name in braces has no value here, and is all that can be wrong.
    let values = Values::new().with("user", "alice").expect("a value");
    if let Err(error) = file.builder(&values) {
        assert!(error.message().contains("is not known here"), "{error}");
    }
});
