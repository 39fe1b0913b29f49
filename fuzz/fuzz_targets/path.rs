//! P-18: the form of a path, against the same rules said another way: what is good is put together again from
//! its components.
#![no_main]

use fdbroker::wire::path::check;

libfuzzer_sys::fuzz_target!(|path: &[u8]| {
    assert_eq!(check(path).is_ok(), specified(path), "{}", path.escape_ascii());
});

/// One or more times: a slash, then 1 to 255 bytes that are neither slash nor NUL, and not only one or two dots. At
/// most 4095 bytes in all.
fn specified(path: &[u8]) -> bool {
    let mut rest = path;
    while let Some((b'/', after)) = rest.split_first() {
        let length = after.iter().take_while(|&&byte| byte != b'/').count();
        let (component, next) = after.split_at(length);
        let dots = length <= 2 && component.iter().all(|&byte| byte == b'.');
        if dots || length > 255 || component.contains(&0) {
            return false;
        }
        rest = next;
    }
    rest.is_empty() && (1..=4095).contains(&path.len())
}
