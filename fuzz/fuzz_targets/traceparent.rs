//! libFuzzer entry point of `phoenix_fuzz_targets::traceparent`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    phoenix_fuzz_targets::traceparent(data);
});
