#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    lakeward_fuzz::server::server(input);
});
