// Every page: no error, no violation of the policy, nothing that failed to load, accessible, and as wide as the screen.
import axe from "axe-core";
import { mkdirSync } from "node:fs";
import { furnish } from "./api.mjs";
import { expect, launch, open, signIn, troubles } from "./browser.mjs";

// The addresses of the page table (src/web/ui/pages.rs), and what to look at for each.
const VISITS = {
  "/login": () => [],
  "/": () => ["/"],
  "/projects": () => ["/projects"],
  "/audit": () => ["/audit", "/audit?verify=1"],
  "/instances": () => ["/instances"],
  "/people": () => ["/people"],
  "/users": () => ["/users"],
  "/account": () => ["/account"],
  "/projects/:project": (w) => [`/projects/${w.project}`],
  "/projects/:project/nodes": (w) => [`/projects/${w.project}/nodes`, `/projects/${w.project}/nodes?q=nothing`],
  "/projects/:project/nodes/:id": (w, f) => [`/projects/${w.project}/nodes/${f.failed.id}`],
  "/projects/:project/bundles": (w) => [`/projects/${w.project}/bundles`],
  "/projects/:project/bundles/new": (w) => [`/projects/${w.project}/bundles/new`],
  "/projects/:project/bundles/:id": (w, f) => [f.bad, f.revoked].map((b) => `/projects/${w.project}/bundles/${b.id}`),
  "/projects/:project/bundles/:id/diff": (w, f) =>
    ["", "&view=text"].flatMap((v) => ["parent", "fleet"].map((a) => `/projects/${w.project}/bundles/${f.other.id}/diff?against=${a}${v}`)),
  "/projects/:project/resources": (w) => [`/projects/${w.project}/resources`],
  "/projects/:project/policy": (w) => [`/projects/${w.project}/policy`],
  "/projects/:project/retention": (w) => [`/projects/${w.project}/retention`],
  "/projects/:project/trust": (w) => [`/projects/${w.project}/trust`],
  "/projects/:project/rollouts": (w) => [`/projects/${w.project}/rollouts`],
  "/projects/:project/rollouts/new": (w, f) => [`/projects/${w.project}/rollouts/new?bundle=${f.good.id}`],
  "/projects/:project/rollouts/:id": (w, f) => [f.done, f.back, f.paused].map((r) => `/projects/${w.project}/rollouts/${r}`),
  "/projects/:project/rollouts/:id/events": (w, f) => [`/projects/${w.project}/rollouts/${f.back}/events`],
  "/projects/:project/rules": (w) => [`/projects/${w.project}/rules`],
  "/projects/:project/drift": (w) => [`/projects/${w.project}/drift`, `/projects/${w.project}/drift?status=resolved`],
  "/projects/:project/audit": (w) => [`/projects/${w.project}/audit?verify=1`],
  "/projects/:project/tokens": (w) => [`/projects/${w.project}/tokens`],
  "/projects/:project/keys": (w) => [`/projects/${w.project}/keys`],
  "/projects/:project/settings": (w) => [`/projects/${w.project}/settings`],
};

// All paths worth a visit. A page of the table that is not listed here fails the test, and so does one that is gone.
export function visits(world, furniture) {
  const unknown = world.pages.filter((p) => !VISITS[p]);
  expect(unknown.length === 0, `tests/browser/pages.mjs does not list the pages ${unknown}`);
  const gone = Object.keys(VISITS).filter((p) => !world.pages.includes(p));
  expect(gone.length === 0, `tests/browser/pages.mjs lists pages that do not exist: ${gone}`);
  return world.pages.flatMap((p) => VISITS[p](world, furniture));
}

// A name for the file of a screenshot.
const named = (path) => path.replace(/[0-9a-f-]{36}/g, (id) => id.slice(-6)).replace(/[^a-z0-9-]+/gi, "_").replace(/^_/, "") || "overview";

const SERIOUS = ["serious", "critical"];

async function accessible(page) {
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return found.violations
    .filter((v) => SERIOUS.includes(v.impact))
    .map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.html).slice(0, 3).join(" ")}`);
}

const LOOKS = [
  { name: "light", colorScheme: "light", viewport: { width: 1280, height: 900 } },
  { name: "dark", colorScheme: "dark", viewport: { width: 1280, height: 900 } },
  { name: "narrow", colorScheme: "light", viewport: { width: 360, height: 740 } },
];

async function look(page, path, name, shots) {
  await page.waitForLoadState("load");
  // The narrow look has the markup and the colours of the light one.
  const wrong = name === "narrow" ? [] : (await accessible(page)).map((v) => `accessibility: ${v}`);
  const over = await page.evaluate(() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return null;
    const boxes = [...document.body.querySelectorAll("*")].filter((e) => !e.closest(".scroll, .listing, pre, .tabs"));
    return boxes.filter((e) => e.getBoundingClientRect().right > wide + 1).map((e) => e.outerHTML.slice(0, 120)).slice(0, 3).join(" ");
  });
  if (over !== null) wrong.push(`wider than the screen: ${over}`);
  await page.screenshot({ path: `${shots}/${named(path)}.png`, fullPage: true });
  wrong.push(...(await troubles(page)));
  return wrong.map((what) => `${name} ${path}: ${what}`);
}

export default async function pages(world) {
  const furniture = await furnish(world);
  const browser = await launch(world);
  const wrong = [];
  for (const { name, ...options } of LOOKS) {
    const shots = `${world.shots}/${name}`;
    mkdirSync(shots, { recursive: true });
    const page = await open(browser, options);
    for (const path of ["/login", "/api/docs"]) {
      await page.goto(world.url + path);
      wrong.push(...(await look(page, path, name, shots)));
    }
    await signIn(page, world);
    for (const path of visits(world, furniture)) {
      await page.goto(world.url + path);
      wrong.push(...(await look(page, path, name, shots)));
    }
    await page.context().close();
  }
  await browser.close();
  expect(wrong.length === 0, wrong.join("\n"));
}
