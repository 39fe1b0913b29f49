//! Proves of the tests themselves that what they mount beneath a directory of their own is not deleted with it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::directory;
use common::mounts::{Mounted, own_mounts};

/// What the tests of R1-05 and R1-10 mount is whole after one of their assertions has failed; their directory is gone.
#[test]
fn what_is_mounted_outlives_the_directory() {
    common::alone("what_is_mounted_outlives_the_directory", || {
        let (_keep, precious) = directory();
        fs::create_dir(precious.join("deep")).unwrap();
        fs::write(precious.join("deep/file"), b"precious").unwrap();
        if let Err(error) = own_mounts() {
            return eprintln!(
                "SKIPPED what is mounted outlives the directory: mounting is not permitted here: {error}"
            );
        }
        let mut deleted = None;
        let failed = catch_unwind(AssertUnwindSafe(|| {
            let (keep, root) = directory();
            let place = root.join("place");
            fs::create_dir(&place).unwrap();
            deleted = Some(root);
            let _mounted = Mounted::again(&keep, &precious, &place).unwrap();
            assert_eq!(fs::read(place.join("deep/file")).unwrap(), b"precious");
            panic!("an assertion that fails");
        }));
        assert!(failed.is_err() && !deleted.unwrap().exists());
        assert_eq!(fs::read(precious.join("deep/file")).unwrap(), b"precious");
    });
}
