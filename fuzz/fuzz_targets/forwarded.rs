#![no_main]

#[path = "../properties/forwarded.rs"]
mod property;

libfuzzer_sys::fuzz_target!(|input: &[u8]| property::check(input));
