//! libFuzzer entry point of `phoenix_fuzz_targets::journal_record`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    phoenix_fuzz_targets::journal_record(data);
});
