//! KDL from outside: what the scan lets through the parser must survive, on the stack that a thread of the proxy has.
#![no_main]

use bundle::Sources;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if bundle::guard::scan(text).is_empty() {
        // An overflow aborts the process, which is what the fuzzer reports.
        let verdict = bundle::validate_in_process(&Sources::single(text));
        assert_eq!(verdict.ok, verdict.errors.is_empty());
    }
});
