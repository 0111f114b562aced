// Without scripts every page says what it says, and every form does what it does.
import { furnish } from "./api.mjs";
import { expect, launch, open, signIn } from "./browser.mjs";
import { visits } from "./pages.mjs";

export default async function plain(world) {
  const furniture = await furnish(world);
  const browser = await launch(world);
  const page = await open(browser, { javaScriptEnabled: false });
  await signIn(page, world);
  for (const path of visits(world, furniture)) {
    await page.goto(world.url + path);
    expect(await page.locator("main h1").isVisible(), `${path} has a heading`);
    const words = (await page.locator("main").innerText()).trim().split(/\s+/).length;
    expect(words >= 8, `${path} says something: ${words} words`);
    expect((await page.locator("main [hidden]").count()) === 0, `${path} hides nothing until a script comes`);
  }
  // Commands are forms.
  await page.goto(`${world.url}/projects/${world.project}/rollouts/${furniture.paused}`);
  await page.click("#cmd-resume button");
  expect((await page.locator(".flash").innerText()) === "The rollout goes on.", "a word about what was done");
  await page.click("#menu-cancel > summary");
  await page.fill("#note-cancel", "no need");
  await page.click("#cmd-cancel button");
  await furniture.api.reaches(furniture.paused, "cancelled");
  await page.goto(`${world.url}/projects/${world.project}/tokens`);
  await page.fill("#token-name", "by hand");
  await page.click("main form.stack button[type=submit]");
  expect((await page.locator(".secret").innerText()).startsWith("set_"), "a token is shown once");
  await page.goto(`${world.url}/projects/${world.project}/tokens`);
  expect((await page.locator(".secret").count()) === 0, "and only once");
  await page.goto(`${world.url}/projects/${world.project}/bundles/new`);
  await page.fill("#version", "typed");
  await page.fill("#config", `${world.config}\n// typed\n`);
  await page.click("main form button[type=submit]");
  expect((await page.locator("h1").innerText()) === "typed", "a bundle is compiled from what was typed");
  await page.goto(`${world.url}/projects/${world.project}/bundles/${furniture.bad.id}/diff`);
  expect((await page.locator("h2").first().innerText()) === "From good to bad", "a bundle is compared with the one before it");
  expect((await page.locator("main").innerText()).includes("configure the same things"), "they differ by a comment alone");
  expect((await page.locator(".diff ins").innerText()).trim() === "+ // bad", "and the line is shown");
  await page.selectOption("#f-against", { label: "next" });
  await page.click("main form button[type=submit]");
  expect((await page.locator("h2").first().innerText()) === "From next to bad", "or with another");
  await page.goto(`${world.url}/projects/${world.project}/rollouts/${furniture.back}`);
  const failure = await page.locator("#failures").innerText();
  expect(failure.includes(world.badNode) && failure.includes("simulated activation failure"), `what failed, and why: ${failure}`);
  await page.goto(`${world.url}/projects/${world.project}/settings`);
  await page.fill("#settings-description", "said without scripts");
  await page.check("#settings-strict");
  await page.click("#cmd-settings button");
  const project = (await furniture.api.get(`/api/v1/projects/${world.project}`)).project;
  expect(project.description === "said without scripts" && project.settings.strict_config, "settings are saved");
  expect(project.settings.open_registration, "and what was not touched is kept");
  await page.goto(`${world.url}/projects/${world.project}/policy`);
  await page.click("#menu-hold > summary");
  await page.fill("#hold-reason", "incident");
  await page.click("#cmd-hold button");
  expect((await page.locator("main").innerText()).includes("Held: nothing is assigned"), "the red button holds");
  await page.click("button[aria-label='End hold']");
  expect((await page.locator(".flash").innerText()).startsWith("The freeze window is gone"), "and is let go");
  await page.goto(`${world.url}/projects/${world.project}/keys`);
  await page.fill("#key-name", "made by hand");
  await page.check('[id="scope-nodes:read"]');
  await page.click("main form.stack button[type=submit]");
  const key = await page.locator(".secret").innerText();
  const nodes = () => furniture.api.call("GET", `/api/v1/projects/${world.project}/nodes`, null, { authorization: `Bearer ${key}` });
  expect((await nodes()).status === 200, "the key that was shown opens what it was made for");
  await page.goto(`${world.url}/projects/${world.project}/keys`);
  await page.click('button[aria-label="Revoke made by hand"]');
  expect((await nodes()).status === 401, "and nothing once it is revoked");
  const wrong = page.troubles;
  await browser.close();
  expect(wrong.length === 0, wrong.join("\n"));
}
