//! P-18: any bytes, with any number of descriptors, are an error or a reply that is written as exactly those bytes.
//! The first two bytes of the input are the number of descriptors that came with the rest.
#![no_main]

use fdbroker::wire::{Answer, MAX_REPLY, Reply};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((descriptors, bytes)) = input.split_first_chunk() else { return };
    let descriptors = u16::from_le_bytes(*descriptors);
    if let Ok(reply) = Reply::decode(bytes, descriptors.into()) {
        let mut buffer = [0; MAX_REPLY];
        assert_eq!(reply.encode(descriptors, &mut buffer).map(|length| &buffer[..length]), Ok(bytes));
        match reply.answer {
            Answer::Granted { descriptors: told, .. } => assert_eq!(told, descriptors),
            Answer::Refused(_) => assert_eq!(descriptors, 0, "a refusal carries none"),
            Answer::Batch(answers) => {
                let carried = |answer| if let Answer::Granted { descriptors, .. } = answer { descriptors } else { 0 };
                assert_eq!(answers.iter().map(carried).sum::<u16>(), descriptors);
            }
        }
    }
});
