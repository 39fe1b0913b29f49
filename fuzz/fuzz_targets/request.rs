//! P-18: any bytes, with any number of descriptors, are an error or a request that is written as exactly those bytes.
//! The first two bytes of the input are the number of descriptors that came with the rest.
#![no_main]

use fdbroker::wire::{MAX_MESSAGE, Request};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((descriptors, bytes)) = input.split_first_chunk() else { return };
    let descriptors = u16::from_le_bytes(*descriptors);
    if let Ok(request) = Request::decode(bytes, descriptors.into()) {
        let mut buffer = [0; MAX_MESSAGE];
        assert_eq!(request.encode(&mut buffer).map(|length| &buffer[..length]), Ok(bytes));
        assert_eq!(descriptors, 0, "a request carries none");
    }
});
