// node main.mjs CHECK: does one check on the world that standard input describes as JSON. Exits with 1 and says why.
import { readFileSync } from "node:fs";

const CHECKS = { pages: "./pages.mjs", keyboard: "./keyboard.mjs", live: "./live.mjs", plain: "./plain.mjs", probes: "./probes.mjs", trust: "./trust.mjs" };
const check = CHECKS[process.argv[2]];
if (!check) throw new Error(`one of ${Object.keys(CHECKS)}`);
const world = JSON.parse(readFileSync(0, "utf8"));
try {
  await (await import(check)).default(world);
} catch (e) {
  console.error(e.stack ?? e);
  process.exit(1);
}
process.exit(0);
