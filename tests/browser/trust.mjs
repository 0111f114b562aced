// What is shipped, what is asked of it, what is compared, collected and believed: done by a person on its pages.
import { furnish } from "./api.mjs";
import { expect, launch, open, signIn, troubles } from "./browser.mjs";

const PEM = "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n";

export default async function trust(world) {
  const { api, other } = await furnish(world);
  const browser = await launch(world);
  const page = await open(browser);
  await signIn(page, world);
  const at = `${world.url}/projects/${world.project}`;
  const flash = async (word) => {
    const said = await page.locator(".flash").innerText();
    expect(said.includes(word), `${said}: does not say ${word}`);
  };
  const refused = async (word) => {
    const said = await page.locator(".alert.bad").innerText();
    expect(said.includes(word), `${said}: does not say ${word}`);
    // A refusal has its status; nothing else went wrong.
    const wrong = (await troubles(page)).filter((t) => !/status 4(09|22)/.test(t) && !/console: Failed to load resource.*4(09|22)/.test(t));
    expect(wrong.length === 0, wrong.join("\n"));
  };

  // Comparison: both values of a field beside each other, and the same as text.
  await page.goto(`${at}/bundles/${other.id}/diff?against=parent`);
  const row = page.locator("table.sides tr", { hasText: "timeout" }).first();
  expect((await row.locator(".was").innerText()) === "30" && (await row.locator(".is").innerText()) === "20", "a field with both its values");
  expect(await page.locator("table.sides th[colspan]", { hasText: "added route reports" }).isVisible(), "what came is told as a whole");
  await page.selectOption("#f-view", "text");
  await page.selectOption("#f-against", "fleet");
  await page.click("main form button[type=submit]");
  const text = await page.locator("pre.code").first().innerText();
  expect(text.includes("+ route reports") && text.includes("30 -> 20") && text.includes("risk: "), `as text: ${text}`);

  // Resources.
  await page.goto(`${at}/resources`);
  const put = async (path) => {
    await page.fill("#resource-path", path);
    await page.fill("#resource-text", PEM);
    await page.click("#cmd-resource button");
  };
  await put("etc/passwd");
  await refused("path");
  expect((await page.inputValue("#resource-text")).trim() === PEM.trim(), "what was typed is kept");
  await put("certs/by-hand.pem");
  await flash("in every bundle");
  await page.click('button[aria-label="Delete certs/by-hand.pem"]');
  await flash("deleted");
  const left = (await api.get(`/api/v1/projects/${world.project}/resources`)).resources.map((r) => r.path);
  expect(left.join() === "certs/site.pem", `left: ${left}`);

  // Rules.
  await page.goto(`${at}/rules`);
  await page.fill("#schema", "{");
  await page.click("#cmd-rules button");
  await refused("not JSON");
  await page.fill("#schema", "");
  await page.fill("#forbidden", "/debug\n/listeners/*/nothing");
  await page.click("#cmd-rules button");
  await flash("rules are saved");
  const { rules, secrets } = (await api.get(`/api/v1/projects/${world.project}`)).project.settings;
  expect(rules.forbidden.join() === "/debug,/listeners/*/nothing" && !rules.schema && secrets.join() === "site-key", JSON.stringify(rules));

  // Retention: what it says is what it does.
  await page.goto(`${at}/retention`);
  const rows = await page.locator("tbody tr").count();
  expect(rows >= 1, "somebody is needed by nobody");
  await page.click("#cmd-collect button");
  await flash("collected");
  const collected = await api.get(`/api/v1/projects/${world.project}/audit_logs?action=bundle.collected`);
  expect(collected.total === rows, `${collected.total} collected, ${rows} announced`);
  await page.fill("#keep", "many");
  await page.click("#cmd-keep button");
  await refused("whole number");
  await page.fill("#keep", "7");
  await page.click("#cmd-keep button");
  await flash("saved");

  // Trust: another bundle key takes the place of the first; then the root leaves the server.
  const org = (await api.get("/api/v1/orgs")).orgs[0].id;
  const listed = async () => (await api.get(`/api/v1/orgs/${org}/trust`)).trust;
  const [old] = (await listed()).roles.bundle.keys;
  await page.goto(`${at}/trust`);
  await page.click("#cmd-key button");
  await flash("known");
  const known = (await api.get(`/api/v1/orgs/${org}/keys`)).keys;
  const made = known.find((k) => k.role === "bundle" && !k.listed).key_id;
  await page.check(`input[name="key[${made}]"]`);
  await page.uncheck(`input[name="key[${old}]"]`);
  await page.click("#trust-next button[type=submit]");
  await flash("next version");
  const next = await listed();
  expect(next.version === 2 && next.roles.bundle.keys.join() === made, JSON.stringify(next.roles));
  await page.fill("#threshold_bundle", "3");
  await page.click("#trust-next button[type=submit]");
  await refused("bundle.threshold");
  await page.click('button[aria-label^="Export root key"]');
  expect((await page.locator(".secret").innerText()).length === 44, "the private half is shown once");
  await page.goto(`${at}/trust`);
  expect((await page.locator(".secret").count()) === 0, "and only once");
  await page.click('button[aria-label^="Remove from server root key"]');
  await flash("gone from the server");
  await page.check(`input[name="key[${old}]"]`);
  await page.click("#trust-next button[type=submit]");
  await refused("root");
  expect((await listed()).version === 2, "the server alone changes nothing any more");
  const wrong = await troubles(page);
  await browser.close();
  expect(wrong.length === 0, wrong.join("\n"));
}
