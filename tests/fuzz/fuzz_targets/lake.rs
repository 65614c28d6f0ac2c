#![no_main]

use std::sync::Once;

/// A panic that becomes an error is none.
static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    HOOK.call_once(|| {
        let abort = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !writers::is_guarded() {
                abort(panic);
            }
        }));
    });
    lakeward_fuzz::lake::lake(input);
});
