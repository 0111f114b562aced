//! A manifest signed by the bundle key: what is accepted is canonical, names its own content and every file.
#![no_main]

use bundle::archive::{MANIFEST, pack};
use bundle::trust::sign_manifest;
use bundle::verify::verify_offline;
use domain::ProjectId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut files = fuzz::GOOD.files.clone();
    files.insert(MANIFEST.into(), data.to_vec());
    let signature = sign_manifest(data, &fuzz::key(bundle::Role::Bundle));
    let Ok(packed) = pack(&files, Some(&signature)) else { return };
    if let Ok(verified) = verify_offline(&packed.bytes, ProjectId::NIL, &fuzz::bundle_keys()) {
        assert_eq!(verified.manifest.project_id, ProjectId::NIL);
        assert!(verified.manifest.payload_hashes.keys().all(|p| verified.file(p).is_some()));
    }
});
