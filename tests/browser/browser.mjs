// A browser that notices: whatever goes wrong on a page is kept in `page.troubles`.
import { chromium } from "playwright-core";

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
// The machine is shared; only failures wait so long.
export const PATIENCE_MS = 60000;

export const launch = (world) => chromium.launch({ executablePath: world.chromium, args: FLAGS, timeout: PATIENCE_MS });

// Dropped by the browser itself on leaving a page: its stream, its picture, the region it was fetching.
const dropped = (request) => request.failure()?.errorText === "net::ERR_ABORTED";

export async function open(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  await context.addInitScript(() => {
    window.__violations = [];
    document.addEventListener("securitypolicyviolation", (e) => window.__violations.push(`${e.violatedDirective} ${e.blockedURI}`));
  });
  const page = await context.newPage();
  page.troubles = [];
  const trouble = (what) => page.troubles.push(`${new URL(page.url()).pathname}: ${what}`);
  page.on("console", (m) => ["error", "warning"].includes(m.type()) && trouble(`console: ${m.text()}`));
  page.on("pageerror", (e) => trouble(`script: ${e.message}`));
  page.on("dialog", (d) => { trouble(`dialog: ${d.message()}`); d.dismiss(); });
  page.on("requestfailed", (r) => dropped(r) || trouble(`request: ${r.url()} ${r.failure()?.errorText}`));
  page.on("response", (r) => r.status() >= 400 && trouble(`status ${r.status()}: ${r.url()}`));
  return page;
}

// Everything that went wrong since the last time it was asked for.
export async function troubles(page) {
  const violations = await page.evaluate(() => window.__violations ?? []).catch(() => []);
  return page.troubles.splice(0).concat(violations.map((v) => `policy: ${v}`));
}

export async function signIn(page, world) {
  await page.goto(`${world.url}/login`);
  await page.fill("#email", world.email);
  await page.fill("#password", world.password);
  await page.click("main button[type=submit]");
  await page.waitForURL((u) => u.pathname !== "/login");
}

export async function eventually(what, look) {
  const until = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > until) throw new Error(`did not happen within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((r) => setTimeout(r, 50));
  }
}

export function expect(truth, what) {
  if (!truth) throw new Error(what);
}
