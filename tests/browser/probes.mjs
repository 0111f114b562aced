// What people and nodes type comes out as text: one probe in every field that takes a string, then every page.
import { client } from "./api.mjs";
import { eventually, expect, launch, open, signIn, troubles } from "./browser.mjs";
import { visits } from "./pages.mjs";

// The end names the field, so that it can be found again.
const probe = (field) => `"><script>window.__xss=1</script><img src=x onerror=window.__xss=1>${field}`;
// For fields of at most 64 characters.
const short = (field) => `"><img src=x onerror=window.__xss=1>${field}`;

// Fields that no page shows. Everything else that was accepted must be seen.
const UNSEEN = ["node.instance", "node.health"];

export default async function probes(world) {
  const api = client(world);
  const accepted = new Set();
  const refused = new Map(); // and why
  // As `api.call`; fields that were taken are kept by their names.
  const put = async (fields, method, path, body, headers) => {
    const { status, body: answer } = await api.call(method, path, body, headers);
    fields.forEach((f) => (status < 300 ? accepted.add(f) : refused.set(f, answer.detail)));
    expect(status < 300 || (status >= 400 && status < 500), `${path}: ${status} ${JSON.stringify(answer)}`);
    return status < 300 ? answer : null;
  };
  const must = (value, what) => (expect(value, `the ${what} was refused: ${[...refused.values()].at(-1)}`), value);

  const settings = { open_registration: true, adopt_on_registration: true };
  const project = must(await put(["project.name", "project.description"], "POST", "/api/v1/projects",
    { name: probe("project.name"), description: probe("project.description"), slug: "probed", settings }), "project").project;
  const at = "/api/v1/projects/probed";
  await put(["project.slug"], "POST", "/api/v1/projects", { name: "s", slug: probe("project.slug") });
  await put(["token.name", "token.label"], "POST", `${at}/enrolment-tokens`, { name: probe("token.name"), labels: { at: probe("token.label") } });
  await put(["key.name"], "POST", "/api/v1/api-keys", { name: probe("key.name"), scopes: ["nodes:read"], project_id: project.id });

  // Nodes.
  await put(["node.name"], "POST", `${at}/nodes/register`, { name: probe("node.name") }, null);
  await put(["node.label_key"], "POST", `${at}/nodes/register`, { name: "keyed", labels: { [probe("node.label_key")]: "x" } }, null);
  const placed = await put(["node.ip"], "POST", `${at}/nodes/register`, { name: "placed", ip: probe("node.ip") }, null);
  const made = must(await put(["node.label", "node.version", "node.hostname", "node.capability", "node.metadata"], "POST", `${at}/nodes/register`, {
    name: "victim", labels: { at: probe("node.label") }, version: probe("node.version"), hostname: probe("node.hostname"),
    capabilities: [short("node.capability")], metadata: { note: probe("node.metadata"), [probe("node.metadata_key")]: 1 },
  }, null), "node");
  const node = { "x-sentinel-node-key": made.node_key };
  const on = `/api/v1/nodes/${made.node_id}`;
  const beat = (fields, body) => put(fields, "POST", `${on}/heartbeat`, body, node);
  await beat(["node.health"], { health: { status: "degraded", message: probe("node.health"), checks: { [probe("node.check")]: probe("node.check") } } });
  await beat(["node.instance"], { instance: probe("node.instance") });
  await put(["node.label_patch"], "PATCH", `${at}/nodes/${made.node_id}`, { labels: { patched: probe("node.label_patch") } });

  await put(["node.event", "node.event_metadata"], "POST", `${on}/events`,
    { events: [{ event_type: "warning", message: probe("node.event"), metadata: { [probe("node.event_key")]: probe("node.event_metadata") } }] }, node);

  // People, and what stands around rollouts.
  const org = must(await put(["org.name"], "POST", "/api/v1/orgs", { name: probe("org.name") }), "organisation").org;
  await put(["org.slug"], "POST", "/api/v1/orgs", { name: "s", slug: probe("org.slug") });
  await put(["user.email"], "POST", "/api/v1/users", { email: `${short("user.email")}@example.org` });
  await put(["member.email"], "POST", `/api/v1/orgs/${org.id}/members`, { email: `${short("member.email")}@example.org`, role: "reader" });
  await put(["group.name"], "POST", `${at}/node-groups`, { name: probe("group.name"), node_ids: [] });
  await put(["freeze.name", "freeze.reason"], "POST", `${at}/freeze-windows`,
    { name: probe("freeze.name"), reason: probe("freeze.reason"), starts_at: "2099-01-01T00:00:00Z", ends_at: "2099-01-02T00:00:00Z" });
  await put(["environment.name"], "POST", `${at}/environments`, { name: probe("environment.name"), selector: { labels: { env: "x" } } });
  await put(["template.name"], "POST", `${at}/rollout-templates`, { name: probe("template.name"), settings: { batch_size: 2 } });
  await put(["resource.path"], "POST", `${at}/resources`,
    { path: `certs/${probe("resource.path")}`, text: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" });

  // Configurations and bundles.
  const config = (field) => `${world.config}\n// ${probe(field)}\n`;
  const bundle = async (fields, version, text, more) =>
    (await put(fields, "POST", `${at}/bundles?wait=30`, { version, config_source: text, ...more }))?.bundle;
  const first = must(await bundle(["bundle.version", "bundle.config", "bundle.source"], probe("bundle.version"), config("bundle.config"),
    { source: { type: "api", ref: probe("bundle.source") } }), "bundle");
  await bundle(["bundle.source_type"], "typed", config("typed"), { source: { type: probe("bundle.source_type") } });
  const second = must(await bundle([], "second", config("second")), "bundle");
  await bundle(["bundle.broken"], "broken", `routes { ${probe("bundle.broken")}`);
  await bundle(["bundle.unknown"], "unknown", `${world.config}\n"${probe("bundle.unknown").replaceAll('"', "'")}" 1\n`);
  await put(["bundle.file"], "POST", `${at}/desired_config`, { files: { "config.kdl": world.config, [probe("bundle.file")]: "" } });

  // A rollout that fails on the node, with words and logs of the node's, and reasons of people's.
  const rollOut = (body) => api.post(`${at}/rollouts`, { bundle_id: first.bundle_id, ...body });
  const rollout = (await rollOut({ target_selector: { labels: { at: probe("node.label") } } })).rollout.id;
  const told = await eventually("the node is told", async () => {
    const answer = (await api.call("GET", `${on}/bundles/latest?wait=5`, null, node)).body;
    return answer.bundle_id && answer;
  });
  must(await put(["failure.error", "failure.logs"], "POST", `${on}/bundles/${told.bundle_id}/failed`,
    { generation: told.generation, rollout_id: rollout, error: probe("failure.error"), logs: `line\n${probe("failure.logs")}` }, node), "failure");
  await api.reaches(rollout, "paused");
  await put(["rollout.rollback"], "POST", `/api/v1/rollouts/${rollout}/rollback`, { reason: probe("rollout.rollback") });
  await api.call("POST", `${at}/nodes/register`, { name: "bystander", labels: { at: "rest" } }, null);
  const other = (await rollOut({ bundle_id: second.bundle_id, target_selector: { labels: { at: "rest" } }, min_healthy_seconds: 300 })).rollout.id;
  await put(["rollout.pause"], "POST", `/api/v1/rollouts/${other}/pause`, { note: probe("rollout.pause") });
  await put(["rollout.cancel"], "POST", `/api/v1/rollouts/${other}/cancel`, { note: probe("rollout.cancel") });
  await put(["bundle.revoked"], "POST", `${at}/bundles/${second.bundle_id}/revoke`, { reason: probe("bundle.revoked") });

  // Every page of it, and every place where an address is spoken back.
  const browser = await launch(world);
  const page = await open(browser);
  const wrong = [];
  let seen = "";
  const check = async (path) => {
    const done = await page.evaluate(() => ({
      ran: window.__xss, images: document.querySelectorAll("img").length,
      scripts: [...document.scripts].filter((s) => !s.src).length,
      handlers: [...document.querySelectorAll("*")].filter((e) => [...e.attributes].some((a) => a.name.startsWith("on"))).length,
    }));
    if (done.ran || done.images || done.scripts || done.handlers) wrong.push(`${path}: ${JSON.stringify(done)}`);
    seen += await page.evaluate(() => document.body.textContent + [...document.querySelectorAll("[title], [value]")].map((e) => e.title + e.getAttribute("value")).join("\n"));
  };
  const said = encodeURIComponent(probe("asked"));
  await page.goto(`${world.url}/login?next=${said}`);
  await page.fill("#email", "a@b.c");
  await page.$eval("#email", (e, v) => { e.type = "text"; e.value = v; }, probe("email"));
  await page.fill("#password", probe("password"));
  await page.click("main button[type=submit]");
  await check("/login");
  page.troubles = page.troubles.filter((t) => !t.includes("401")); // a wrong password is one
  await signIn(page, world);

  const furniture = { good: first, bad: first, revoked: second, other: second, done: rollout, back: rollout, paused: other, failed: { id: made.node_id } };
  const lists = ["nodes", "bundles", "rollouts", "audit"].map((l) => `/projects/probed/${l}`);
  const odd = ["q", "label", "status", "standing", "state", "step", "action", "actor", "since", "resource", "bundle"].map((f) => `${f}=${said}`).join("&");
  const paths = visits({ ...world, project: "probed" }, furniture).concat(lists.map((l) => `${l}?${odd}`), [`/projects/probed/nodes/${placed?.node_id}`, `/projects/probed/rollouts/${rollout}?${odd}`]);
  for (const path of paths) {
    await page.goto(world.url + path);
    await check(path);
    // The same by way of the script that refreshes regions.
    await page.evaluate(() => document.querySelectorAll("details").forEach((d) => (d.open = true)));
    wrong.push(...(await troubles(page)));
  }
  // Refusals: addresses that are nothing, forms that are refused.
  for (const path of [`/${said}`, `/projects/${said}`, `/projects/probed/nodes/${said}`, `/projects/probed/nodes?cursor=${said}`, `/projects/probed/bundles/${said}`]) {
    await page.goto(world.url + path);
    await check(path);
    wrong.push(...(await troubles(page)).filter((t) => !/status 4\d\d|console: Failed to load resource/.test(t)));
  }
  await page.goto(`${world.url}/projects/probed/bundles/new`);
  await page.fill("#version", probe("typed.version"));
  await page.fill("#config", `routes { ${probe("typed.config")}`);
  await page.click("main form button[type=submit]");
  await check("a refused configuration");
  await page.goto(`${world.url}/projects/probed/rollouts/new`);
  for (const f of ["labels", "batch_size", "deadline", "scheduled_at"]) await page.fill(`#${f}`, probe(`typed.${f}`));
  await page.click('button[value="create"]');
  await check("a refused rollout");
  await page.goto(`${world.url}/people`);
  await page.$eval("input[name=email]", (e, v) => { e.type = "text"; e.value = v; }, probe("typed.member"));
  await page.click("main form.stack button[type=submit]");
  await check("a refused member");
  await page.goto(`${world.url}/projects/probed/tokens`);
  await page.fill("#token-name", probe("typed.token"));
  await page.fill("#token-labels", probe("typed.labels"));
  await page.click("main form.stack button[type=submit]");
  await check("a refused token");
  wrong.push(...(await troubles(page)).filter((t) => !/status 422|console: Failed to load resource/.test(t)));
  await browser.close();

  const missing = [...accepted].filter((f) => !UNSEEN.includes(f) && !seen.includes(probe(f)) && !seen.includes(short(f)));
  if (missing.length) wrong.push(`accepted, and shown on no page as it was typed: ${missing.join(", ")}`);
  console.log(`accepted and shown: ${[...accepted].join(", ")}\nrefused: ${[...refused].map(([f, why]) => `${f} (${why})`).join(", ")}`);
  expect(wrong.length === 0, wrong.join("\n"));
}
