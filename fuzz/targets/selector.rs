#![no_main]

#[path = "../src/selector.rs"]
mod selector;

libfuzzer_sys::fuzz_target!(|data: &[u8]| selector::run(data));
