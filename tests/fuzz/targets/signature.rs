//! `signature.sig` as it comes: nothing but a signature by the bundle key is accepted.
#![no_main]

use bundle::archive::SIGNATURE;
use bundle::verify::{check_manifest, verify_offline};
use domain::ProjectId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let good = &*fuzz::GOOD;
    let mut files = good.files.clone();
    files.insert(SIGNATURE.into(), data.to_vec());
    let Ok(bytes) = bundle::archive::pack_as_is(&files) else { return };
    let accepted = verify_offline(&bytes, ProjectId::NIL, &fuzz::bundle_keys()).is_ok();
    let honest = serde_json::from_slice(data)
        .is_ok_and(|s| check_manifest(&fuzz::bundle_keys(), &good.manifest_bytes, &s).is_ok());
    assert_eq!(accepted, honest);
});
