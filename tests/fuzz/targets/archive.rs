//! Bytes that claim to be an archive: whatever they unpack to has harmless names, and is what packing it again gives.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // As it comes, and as the inside of a frame: compressed noise never gets as far as the tar reader.
    let framed = bundle::archive::compressed(data).expect("memory");
    for bytes in [data, &framed] {
        let Ok(files) = bundle::read_archive(bytes) else { continue };
        for path in files.keys() {
            assert!(!path.starts_with('/') && !path.split('/').any(|s| s.is_empty() || s.starts_with('.')), "{path}");
        }
        let again = bundle::archive::pack(&files, None).expect("what was unpacked can be packed");
        let mut unsigned = files.clone();
        unsigned.remove(bundle::archive::SIGNATURE);
        assert_eq!(bundle::read_archive(&again.bytes).expect("our own"), unsigned);
    }
});
