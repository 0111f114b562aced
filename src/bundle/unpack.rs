//! From the bytes of an archive to its files in memory, and from there to a directory.
//!
//! Invariant: at most [`MAX_UNPACKED_BYTES`] and [`MAX_ENTRIES`] are ever held; plain files with plain
//! relative names only. Nothing is written before everything is verified.

use crate::archive::{MAX_ENTRIES, MAX_ENTRY_PATH_BYTES, MAX_UNPACKED_BYTES};
use crate::source::relative_path_problem;
use crate::verify::Refusal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

/// 2^24 bytes: what our level ever uses; a frame that asks for more memory is refused by the decoder.
const ZSTD_WINDOW_LOG_MAX: u32 = 24;
/// Tar's unit.
const BLOCK: u64 = 512;

/// All files of an archive, by path.
pub fn unpack(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Refusal> {
    untar(&decompress(bytes)?)
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let bad = |e: io::Error| Refusal::Archive(format!("zstd: {e}"));
    let mut z = zstd::stream::read::Decoder::with_buffer(bytes).map_err(bad)?.single_frame();
    z.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(bad)?;
    let mut tar = Vec::new();
    // The announced size is not believed: memory grows with what really comes.
    let n = z.by_ref().take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut tar).map_err(bad)?;
    if n as u64 > MAX_UNPACKED_BYTES {
        return Err(Refusal::TooLarge("it unpacks to too many bytes"));
    }
    if !z.finish().is_empty() {
        return Err(Refusal::Archive("there is something behind the compressed frame".into()));
    }
    Ok(tar)
}

fn untar(tar: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Refusal> {
    let bad = |e: io::Error| Refusal::Archive(format!("tar: {e}"));
    let mut files = BTreeMap::new();
    let mut lower = BTreeSet::new();
    let mut end = 0;
    let mut archive = tar::Archive::new(tar);
    // Raw: long names, sparse files and pax headers stay entries of their own types, which are refused.
    for entry in archive.entries().map_err(bad)?.raw(true) {
        let mut entry = entry.map_err(bad)?;
        if files.len() >= MAX_ENTRIES {
            return Err(Refusal::TooLarge("it has too many entries"));
        }
        let path = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|_| Refusal::Path("a name that is not text".into(), "only ASCII is allowed"))?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(Refusal::EntryType(path));
        }
        if let Err(why) = relative_path_problem(&path, MAX_ENTRY_PATH_BYTES) {
            return Err(Refusal::Path(path, why));
        }
        if !lower.insert(path.to_ascii_lowercase()) {
            return Err(Refusal::Duplicate(path));
        }
        let size = entry.size();
        let start = entry.raw_file_position();
        if size > tar.len() as u64 - start.min(tar.len() as u64) {
            return Err(Refusal::Archive("tar: an entry is cut off".into()));
        }
        let mut data = Vec::with_capacity(size as usize);
        entry.read_to_end(&mut data).map_err(bad)?;
        end = start + size.div_ceil(BLOCK) * BLOCK;
        files.insert(path, data);
    }
    if tar.get(end as usize..).is_none_or(|rest| rest.iter().any(|b| *b != 0)) {
        return Err(Refusal::Archive("tar: there is something behind the last entry".into()));
    }
    // A file cannot be a folder as well.
    for path in files.keys() {
        let mut parent = path.as_str();
        while let Some((dir, _)) = parent.rsplit_once('/') {
            if lower.contains(&dir.to_ascii_lowercase()) {
                return Err(Refusal::Duplicate(dir.to_string()));
            }
            parent = dir;
        }
    }
    Ok(files)
}

/// Writes into `dir`, which must be an empty directory of the caller's own, and flushes everything to disk.
pub fn write_files(dir: &Path, files: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    if std::fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, "the folder to unpack into is not empty"));
    }
    let mut folders = BTreeSet::from([dir.to_path_buf()]);
    for (path, bytes) in files {
        let full = dir.join(path);
        let mut parent = full.parent();
        while let Some(p) = parent.filter(|p| *p != dir) {
            folders.insert(p.to_path_buf());
            parent = p.parent();
        }
        if let Some(p) = full.parent() {
            std::fs::create_dir_all(p)?;
        }
        // Never follows or replaces what is there: the folder was empty.
        let mut file = OpenOptions::new().write(true).create_new(true).open(&full)?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    for folder in folders {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
