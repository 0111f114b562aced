//! README's tour as it is written there, and its check of a bundle by hand: with a shell and the programs that it names, none
//! of ours. What was tampered with does not pass it.

use crate::harness::*;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const README: &str = include_str!("../README.md");
const TOUR: &str = "## Tour with curl";
/// The heading of the check, and what only the step after it has.
const BY_HAND: &str = "### Checking a bundle by hand";
const WITH_OURS: &str = "$SENTINEL_CP";

/// The blocks of the tour from `after` on, in their order.
fn blocks(after: &str) -> Vec<String> {
    let from = README.find(after).unwrap_or_else(|| panic!("README says nothing of {after:?}"));
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in README[from..].lines() {
        match (&mut block, line) {
            (None, "```sh tour") => block = Some(String::new()),
            (None, _) => {}
            (Some(_), "```") => found.extend(block.take()),
            (Some(text), line) => text.push_str(&format!("{line}\n")),
        }
    }
    assert!(!found.is_empty(), "no block after {after:?}");
    found
}

fn bash(dir: &Path, script: &str, env: &[(&str, &str)]) -> Output {
    Command::new("bash")
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("TMPDIR", dir)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// As README names them: a missing one must not look like a broken tour.
fn need(tools: &[&str]) {
    for tool in tools {
        let found =
            Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status().unwrap();
        assert!(found.success(), "{tool} is not there: apt-get install curl python3 zstd openssl");
    }
}

fn said(out: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(data: &Path) -> (Server, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sentinel-cp"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--data-dir"])
        .arg(data)
        .env("SENTINEL_CP_BOOTSTRAP_API_KEY", "a-key-for-this-tour")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Server(child), line.trim().rsplit(' ').next().unwrap().to_string())
}

/// The values of a shell's variables that were printed at its end, as `NAME=value`.
fn variable<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().rev().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("{name} is not in {text}"))
}

/// What somebody has who got a bundle and a public key, and nothing else: `bundle.tar.zst` and `bundle.pub` in a directory.
struct ThirdParty {
    dir: PathBuf,
    bundle: String,
}

impl ThirdParty {
    /// The steps of README, in a fresh place. `Ok`: every step went well and both ids are the same.
    fn check(&self, archive: &Path, name: &str) -> Result<(), String> {
        let place = self.dir.join(name);
        std::fs::create_dir(&place).unwrap();
        std::fs::copy(archive, place.join("bundle.tar.zst")).unwrap();
        std::fs::copy(self.dir.join("bundle.pub"), place.join("bundle.pub")).unwrap();
        let steps: Vec<String> =
            blocks(BY_HAND).into_iter().filter(|b| b.contains("zstd -dc") && !b.contains(WITH_OURS)).collect();
        assert_eq!(steps.len(), 1, "one block has all the steps");
        for ours in ["python", "sentinel", "cargo", "field "] {
            assert!(!steps[0].contains(ours), "the steps need {ours}");
        }
        let done = bash(&self.dir, &steps[0], &[("DIR", place.to_str().unwrap()), ("BUNDLE", &self.bundle)]);
        let text = said(&done);
        if !done.status.success() {
            return Err(text);
        }
        let ids: Vec<&str> =
            text.lines().filter(|l| l.len() == 64 && l.bytes().all(|b| b.is_ascii_hexdigit())).collect();
        assert!(text.contains("Signature Verified Successfully"), "{text}");
        match ids[..] {
            [computed, named] if computed == named => Ok(()),
            _ => Err(format!("the ids differ: {ids:?}")),
        }
    }

    /// An archive of the honest files after `edit`, made with the same programs.
    fn repacked(&self, name: &str, edit: impl FnOnce(&Path)) -> PathBuf {
        let files = self.dir.join(format!("{name}-files"));
        let made = bash(
            &self.dir,
            "mkdir $FILES && zstd -dc $FROM | tar -xf - -C $FILES",
            &[("FILES", files.to_str().unwrap()), ("FROM", self.dir.join("bundle.tar.zst").to_str().unwrap())],
        );
        assert!(made.status.success(), "{}", said(&made));
        edit(&files);
        let archive = self.dir.join(format!("{name}.tar.zst"));
        let script = "cd $FILES && tar -cf - $(find . -type f | sed 's#^./##') | zstd -q > $TO";
        let packed = bash(&self.dir, script, &[("FILES", files.to_str().unwrap()), ("TO", archive.to_str().unwrap())]);
        assert!(packed.status.success(), "{}", said(&packed));
        archive
    }
}

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    // Three quarters in: of the signature's file that is the signature itself.
    let place = bytes.len() * 3 / 4;
    bytes[place] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// As an attacker would: what is not signed is made to fit again.
fn with_fitting_checksums(files: &Path) {
    let script = "cd $FILES && sha256sum $(cut -c67- checksums.txt) > new && mv new checksums.txt";
    let done = bash(files, script, &[("FILES", files.to_str().unwrap())]);
    assert!(done.status.success(), "{}", said(&done));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tour_of_readme_runs_as_written_and_a_third_party_finds_what_was_tampered_with() {
    need(&["curl", "python3", "zstd", "openssl"]);
    let dir = tempfile::tempdir().unwrap();
    let (_server, url) = serve(&dir.path().join("data"));
    let op = Client::new(&url, Some("a-key-for-this-tour"));
    eventually("it serves", async || {
        op.try_raw("GET", "/ready", &[], bytes::Bytes::new()).await.is_ok_and(|a| a.status == 200).then_some(())
    })
    .await;
    let script = format!("{}\necho \"DIR=$DIR\"\necho \"BUNDLE=$BUNDLE\"\n", blocks(TOUR).join("\n"));
    let place = dir.path().to_path_buf();
    let tour = tokio::task::spawn_blocking(move || {
        bash(&place, &script, &[("CP", &url), ("SENTINEL_CP", env!("CARGO_BIN_EXE_sentinel-cp"))])
    });
    let tour = tour.await.unwrap();
    let text = said(&tour);
    assert!(tour.status.success(), "{text}");
    for line in ["completed: ", "True", "manifest.json: OK", "Signature Verified Successfully"] {
        assert!(text.lines().any(|l| l.starts_with(line)), "the tour did not print {line:?}: {text}");
    }

    let third = ThirdParty { dir: variable(&text, "DIR").into(), bundle: variable(&text, "BUNDLE").into() };
    let honest = third.dir.join("bundle.tar.zst");
    third.check(&honest, "honest").unwrap();
    third.check(&third.repacked("same", |_| ()), "repacked").unwrap();
    for file in ["config.kdl", "config.json", "manifest.json", "signature.sig", "SBOM.json", "checksums.txt"] {
        let bad = third.repacked(file, |files| flip(&files.join(file)));
        assert!(third.check(&bad, &format!("flipped-{file}")).is_err(), "a flipped byte of {file} went unnoticed");
    }
    // A line that is no checksum at all is not passed over.
    let bad = third.repacked("no-checksum", |files| {
        let list = files.join("checksums.txt");
        let text = std::fs::read_to_string(&list).unwrap();
        std::fs::write(&list, format!("`{}", &text[1..])).unwrap();
    });
    assert!(third.check(&bad, "no-checksum").is_err(), "a line without a checksum went unnoticed");
    for file in ["config.kdl", "config.json", "manifest.json"] {
        let bad = third.repacked(&format!("fit-{file}"), |files| {
            flip(&files.join(file));
            with_fitting_checksums(files);
        });
        assert!(third.check(&bad, &format!("fitting-{file}")).is_err(), "{file} was replaced, with its checksum");
    }
    let extra = third.repacked("extra", |files| std::fs::write(files.join("evil.kdl"), "").unwrap());
    assert!(third.check(&extra, "extra-file").is_err(), "an extra file went unnoticed");
    let mut cut = std::fs::read(&honest).unwrap();
    cut.truncate(cut.len() / 2);
    let half = third.dir.join("half.tar.zst");
    std::fs::write(&half, cut).unwrap();
    assert!(third.check(&half, "cut-off").is_err());
    // Another key than the one that signed.
    std::fs::write(third.dir.join("bundle.pub"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    assert!(third.check(&honest, "other-key").is_err());
}
