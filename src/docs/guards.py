#!/usr/bin/env python3
"""Removes the engine's guards one at a time and tells which test notices.

All removals are built into one copy of `src/domain` (never into the real one): each guard there asks whether the environment names
it, and then does not hold. One build, one run of the tests for each guard. `python3 src/docs/guards.py [WORK_DIR]` writes
`src/docs/guards.md`; it exits with 1 when a removal goes unnoticed. Names after the directory try only those, and leave the other
rows as they are.
"""
import os, re, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
WORK = sys.argv[1] if len(sys.argv) > 1 else "/tmp/sentinel-guards"

# name, what it guards, file, the guard as it stands, the same with the guard gone when OFF.
GUARDS = [
    ("generation", "a report of another generation changes nothing", "judge.rs",
     "        if !current {\n            return;", "        if !current && !OFF {\n            return;"),
    ("gate-generation", "a gate window of another generation changes nothing", "judge.rs",
     "if m.generation != w.generation || !self.is_judged(m) {", "if (m.generation != w.generation && !OFF) || !self.is_judged(m) {"),
    ("after-activation", "evidence is from after the activation", "judge.rs",
     "if !after || !fresh {", "if (!after && !OFF) || !fresh {"),
    ("soak", "nobody verifies before the soak is over", "judge.rs",
     "if w.soaked < judge.soak {", "if w.soaked < judge.soak && !OFF {"),
    ("threshold", "more failures than tolerated stop the rollout", "advance.rs",
     "let over = self.head.failures > self.threshold();", "let over = self.head.failures > self.threshold() && !OFF;"),
    ("no-evidence", "no second step while nobody has verified", "advance.rs",
     "if step.handed_over && self.head.counts.verified == 0 {", "if step.handed_over && self.head.counts.verified == 0 && !OFF {"),
    ("max-unavailable", "serving nodes are assigned within max_unavailable", "advance.rs",
     "self.unavailable_limit().is_none_or(|limit| self.head.unavailable < limit)",
     "self.unavailable_limit().is_none_or(|limit| self.head.unavailable < limit || OFF)"),
    ("budget", "no more members are updating than the project's budget grants", "advance.rs",
     "if self.head.budget.is_full() {", "if self.head.budget.is_full() && !OFF {"),
    ("lane-room", "the catch-up lane serves a batch at once", "advance.rs",
     "if limited && (frozen || room == 0 || !self.has_slot(m)) {", "if limited && (frozen || (room == 0 && !OFF) || !self.has_slot(m)) {"),
    ("lane-freeze", "the lane of a completed rollout respects freezes", "decide.rs",
     "let room = !frozen && self.head.lane_open < self.lane_limit();", "let room = (!frozen || OFF) && self.head.lane_open < self.lane_limit();"),
    ("lane-first-step", "nobody is caught up before the first step has ended", "advance.rs",
     "self.is_free() && (self.head.step > 0 ||", "self.is_free() && (OFF || self.head.step > 0 ||"),
    ("waits", "while something outside holds it up nothing is assigned", "draft.rs",
     "self.head.causes.is_empty() && self.head.waits.is_empty()\n", "self.head.causes.is_empty() && (self.head.waits.is_empty() || OFF)\n"),
    ("lost", "handed over and silent is lost, never owed", "judge.rs",
     "            if m.handed_over {\n                self.fail_member(node, FailReason::Lost", "            if m.handed_over && !OFF {\n                self.fail_member(node, FailReason::Lost"),
    ("presence", "too many silent together pause the rollout", "judge.rs",
     "if n > limit && !self.head.causes", "if n > limit && !OFF && !self.head.causes"),
    ("presence-judged", "after that none of them is judged until resumed", "judge.rs",
     "Phase::Running | Phase::Paused => !self.head.causes.contains(&PauseCause::Presence),",
     "Phase::Running | Phase::Paused => OFF || !self.head.causes.contains(&PauseCause::Presence),"),
    ("fleet-wide", "an outage of all does not take the change back", "untouched.rs",
     "if let Some(why) = tally.fleet_wide() {", "if let Some(why) = tally.fleet_wide().filter(|_| !OFF) {"),
    ("untouched", "an outage that only gates show does not take the change back", "untouched.rs",
     "tally.untouched > 0 && !asked {", "tally.untouched > 0 && !asked && !OFF {"),
    ("revoked-back", "nobody goes back to a revoked bundle", "draft.rs",
     ".find(|b| !revoked.contains(b))", ".find(|b| OFF || !revoked.contains(b))"),
    ("rollback-deadline", "a rollback ends without an operator", "judge.rs",
     "self.now >= t + self.spec().rollback_deadline);", "self.now >= t + self.spec().rollback_deadline) && !OFF;"),
    ("resume-gate", "after failures resume needs a decision", "decide.rs",
     "if causes.contains(&PauseCause::Gate) && failed {", "if causes.contains(&PauseCause::Gate) && failed && !OFF {"),
    ("withdraw", "what is not verified is taken back at the end", "advance.rs",
     "            if told == Told::Target {\n                let to = self.back_target(node, revoked);", "            if told == Told::Target && !OFF {\n                let to = self.back_target(node, revoked);"),
    ("complete-unverified", "nothing completes while nobody has verified", "advance.rs",
     "if c.verified == 0 {", "if c.verified == 0 && !OFF {"),
    ("compared", "a canary's step waits for its comparison", "advance.rs",
     "if !self.is_compared(k) ||", "if (!self.is_compared(k) && !OFF) ||"),
    ("worse", "a worse canary stops the rollout", "compare.rs",
     "if found.outcome == Outcome::Worse {", "if found.outcome == Outcome::Worse && !OFF {"),
    ("shifted", "the live half is touched only when traffic has left it", "advance.rs",
     "|| !self.is_shifted(k) {", "|| (!self.is_shifted(k) && !OFF) {"),
    ("full-weights", "nobody is left at a part of its traffic", "shift.rs",
     "if self.spec().strategy != StrategyKind::BlueGreen {\n            return;", "if OFF || self.spec().strategy != StrategyKind::BlueGreen {\n            return;"),
    ("clock", "deadlines stand still while the rollout does", "draft.rs",
     "let on = self.is_free() || (self.head.phase == Phase::Completed && self.head.waits.is_empty());",
     "let on = OFF || self.is_free() || (self.head.phase == Phase::Completed && self.head.waits.is_empty());"),
    ("lane-waits", "the lane of a completed rollout waits for what is away", "draft.rs",
     "&& !h.revoked && h.waits.is_empty()", "&& !h.revoked && (h.waits.is_empty() || OFF)"),
    ("soak-moves", "passing now and then does not put the deadline off", "judge.rs",
     "GateVerdict::Unknown => self.soaks_until(w.node, activated, None),",
     "GateVerdict::Unknown => if !OFF { self.soaks_until(w.node, activated, None) },"),
    ("start-again", "who is a target again at the start is taken in", "decide.rs",
     "            if was_out {\n", "            if was_out && !OFF {\n"),
    ("restore-dropped", "a restore that a newer commit covers is owed no more", "decide.rs",
     "NodeState::RollingBack { owed, .. } => owed && ended,", "NodeState::RollingBack { owed, .. } => owed && ended && !OFF,"),
    ("down", "no clock counts the time in which nobody listened", "decide.rs",
     "self.head.clock.ticking_since = Some((t + down).min(self.now));", "self.head.clock.ticking_since = Some((t + if OFF { Span::ZERO } else { down }).min(self.now));"),
    ("gone", "rollback leaves alone what others have moved on", "back.rs",
     "let left_alone = gone.contains(&node) ||", "let left_alone = (gone.contains(&node) && !OFF) ||"),
    ("turns", "where proxies restart, who serves does not go back at once", "back.rs",
     "self.spec().restarts && runs_it &&", "self.spec().restarts && !OFF && runs_it &&"),
    ("turns-limit", "those that serve go back within max_unavailable", "back.rs",
     "let room = limit.saturating_sub(self.head.unavailable);", "let room = if OFF { u32::MAX } else { limit.saturating_sub(self.head.unavailable) };"),
    ("turns-go-on", "what does not get well does not keep the others on the target", "back.rs",
     "if self.head.budget.updating == 0 {", "if self.head.budget.updating == 0 && !OFF {"),
    ("turns-ill", "who falls ill while it waits goes back now", "back.rs",
     "waits_back(m) && !serves(m)", "waits_back(m) && !serves(m) && !OFF"),
    ("turns-deadline", "the deadline of a rollback fails nobody that waits", "judge.rs",
     "is_restoring(m) && !waits_back(m))", "is_restoring(m) && (OFF || !waits_back(m)))"),
    ("turns-reserve", "nobody waits for its turn while holding a reservation", "mod.rs",
     "(is_restoring(m) && !waits_back(m))", "(is_restoring(m) && (OFF || !waits_back(m)))"),
    ("turns-revoked", "whoever waits goes to nothing that was revoked meanwhile", "decide.rs",
     "                if waits {\n                    self.edit(node, None, |m| m.state = NodeState::RollingBack { to, activated: None, owed });\n                    continue;",
     "                if waits {\n                    if !OFF { self.edit(node, None, |m| m.state = NodeState::RollingBack { to, activated: None, owed }); }\n                    continue;"),
    ("late-timer", "a late report does not bring about what only time may", "shift.rs",
     "(self.time_passed && self.clock()", "((self.time_passed || OFF) && self.clock()"),
    ("small-steps", "at most a thousand assignments in one commit", "advance.rs",
     "if self.assigned + settled >= MAX_ASSIGN_PER_COMMIT {", "if self.assigned + settled >= MAX_ASSIGN_PER_COMMIT && !OFF {"),
    ("failed-is-told", "a failed node counts once, and its history says so", "judge.rs",
     "        self.mark_handed_over(node);\n        self.change(Change::HistoryEnded {", "        self.mark_handed_over(node);\n        if !OFF { self.change(Change::HistoryEnded {"),
]

def patched():
    files = {}
    base = os.path.join(WORK, "src", "domain", "rollout")
    for name, _, file, old, new in GUARDS:
        path = os.path.join(base, file)
        text = files.get(path) or open(path).read()
        if name == "failed-is-told":
            i = text.index(old)
            end = text.index("});", i) + 3
            body = text[i:end].replace(old, new)
            text = text[:i] + body.replace("OFF", f'crate::guards::off("{name}")') + " }" + text[end:]
        else:
            assert text.count(old) == 1, f"{name}: {file} has {text.count(old)} of its guard"
            text = text.replace(old, new.replace("OFF", f'crate::guards::off("{name}")'))
        files[path] = text
    for path, text in files.items():
        open(path, "w").write(text)
    lib = os.path.join(WORK, "src", "domain", "lib.rs")
    text = open(lib).read() + '''
/// Is this guard taken away? Only in the copy that is tried.
pub mod guards {
    static GONE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| std::env::var("GUARD").unwrap_or_default());
    pub fn off(name: &str) -> bool {
        *GONE == name
    }
}
'''
    open(lib, "w").write(text)

def copy():
    subprocess.run(f"rm -rf {WORK}/src {WORK}/Cargo.* && mkdir -p {WORK}/src && cp -r {ROOT}/src/domain {ROOT}/src/docs {WORK}/src/ && cp {ROOT}/Cargo.toml {ROOT}/Cargo.lock {WORK}/", shell=True, check=True)
    path = os.path.join(WORK, "Cargo.toml")
    text = open(path).read()
    text = re.sub(r"members = \[.*?\]", 'members = ["src/domain"]', text, count=1, flags=re.S)
    text = re.sub(r"^(domain|api|store|bundle|artifacts|egress|web|actors|sim|agent|ctl) = \{ path.*\n", "", text, flags=re.M)
    start = text.find("\n[package]")
    if start >= 0:
        # The root package needs everything; lints and profiles are kept.
        keep = re.search(r"\n\[(workspace\.lints|profile)", text[start:])
        text = text[:start] + (text[start:][keep.start():] if keep else "")
    open(path, "w").write(text)

def build():
    out = subprocess.run(["cargo", "test", "-p", "domain", "--lib", "--no-run"], cwd=WORK, capture_output=True, text=True)
    found = re.search(r"\((.*?/deps/domain-\w+)\)", out.stderr)
    if out.returncode or not found:
        sys.exit(out.stderr[-4000:])
    return os.path.join(WORK, found.group(1)) if not found.group(1).startswith("/") else found.group(1)

def run(binary, guard):
    env = dict(os.environ, GUARD=guard, RUST_BACKTRACE="0", MODEL_STATES=os.environ.get("MODEL_STATES", "4000"))
    args = [binary, "rollout", "--skip", "simulation", "--skip", "the_table_in_the_documentation"]
    out = subprocess.run(args, cwd=os.path.join(WORK, "src", "domain"), env=env, capture_output=True, text=True)
    return sorted(set(re.findall(r"^test (\S+) \.\.\. FAILED", out.stdout, re.M)))

def kept_rows():
    """The rows that the document has, by the name of the guard."""
    path = os.path.join(HERE, "guards.md")
    lines = open(path).read().splitlines() if os.path.exists(path) else []
    found = [re.match(r"\| ([a-z-]+) \|", line) for line in lines]
    return {m.group(1): m.string for m in found if m and m.group(1) != "guard"}

def main():
    copy(); patched()
    binary = build()
    begun = time.time()
    untouched = run(binary, "")
    if untouched:
        sys.exit(f"with every guard in place these fail: {untouched}")
    rows, unnoticed = kept_rows(), []
    only, tried = sys.argv[2:], 0
    for name, what, file, _, _ in GUARDS:
        if only and name not in only:
            continue
        failed = run(binary, name)
        tried += 1
        print(name, len(failed), failed[:3], flush=True)
        if not failed:
            unnoticed.append(name)
        short = [f.replace("rollout::", "", 1).replace("tests::", "", 1) for f in failed]
        # Tests of one rule before those of everything.
        short.sort(key=lambda f: (f.startswith(("model", "property", "invariants")), f))
        shown = ", ".join(f"`{s}`" for s in short[:3]) or "**nothing**"
        rows[name] = f"| {name} | {what} | `{file}` | {len(failed)} | {shown} |"
    lines = [rows[name] for name, *_ in GUARDS if name in rows]
    untried = [name for name, *_ in GUARDS if name not in rows]
    text = ("# What notices when a guard is gone\n\n"
            "Written by `python3 src/docs/guards.py`; do not edit. Each guard of the engine was taken away alone, in a copy, and the tests of "
            "`src/domain/rollout` were run: rule by rule, random histories, and the model check (4,000 states a fleet)." + (f" Not tried yet: {', '.join(untried)}." if untried else "") + "\n\n"
            "| guard | what it keeps | where | tests that fail | the first of them |\n|---|---|---|---|---|\n" + "\n".join(lines) + "\n")
    open(os.path.join(HERE, "guards.md"), "w").write(text)
    print(f"{tried} guards in {time.time() - begun:.0f} s, unnoticed: {unnoticed}")
    sys.exit(1 if unnoticed else 0)

main()
