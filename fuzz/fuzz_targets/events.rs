#![no_main]

#[path = "../properties/events.rs"]
mod property;
#[path = "../properties/spelling.rs"]
mod spelling;

libfuzzer_sys::fuzz_target!(|input: &[u8]| property::check(input));
