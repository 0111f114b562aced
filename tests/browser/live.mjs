// What moves is seen moving: two pages are open, neither is loaded again.
import { client } from "./api.mjs";
import { eventually, expect, launch, open, signIn, troubles } from "./browser.mjs";

// Collects what an element says, from within the page, whenever it says something else.
const listen = (page, selector, attribute) =>
  page.evaluate(([selector, attribute]) => {
    window.__said = [];
    const look = () => {
      const e = document.querySelector(selector);
      const now = e && (attribute ? e.getAttribute(attribute) : e.textContent);
      if (now && window.__said.at(-1) !== now) window.__said.push(now);
    };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
    look();
  }, [selector, attribute]);

const said = (page) => page.evaluate(() => window.__said);

export default async function live(world) {
  const api = client(world);
  const p = world.project;
  const good = await api.bundle(p, "good", world.config);
  const id = await api.rollOut(p, { bundle_id: good.bundle_id, batch_size: 1, min_healthy_seconds: 1, start: false });

  const browser = await launch(world);
  const one = await open(browser);
  await signIn(one, world);
  const overview = await one.context().newPage();
  await one.goto(`${world.url}/projects/${p}/rollouts/${id}`);
  await overview.goto(world.url);
  for (const page of [one, overview]) await page.waitForSelector("#live-status.on");
  await listen(one, "#live-progress .progress", "aria-label");
  await listen(overview, ".card .progress", "aria-label");
  // What is being typed, and what is open, stays.
  await one.click("#menu-cancel > summary");
  await one.fill("#note-cancel", "half a sentence");

  await api.post(`/api/v1/rollouts/${id}/start`);
  await api.reaches(id, "running");
  const half = await eventually("half of the nodes are seen verified", async () => (await said(one)).some((t) => parseInt(t, 10) >= 3));
  expect(half, "half");
  expect((await one.inputValue("#note-cancel")) === "half a sentence", "what was typed is kept while the page moves");
  await api.reaches(id, "completed");
  await eventually("the page shows the end", async () => (await one.locator("#live-progress .badge").first().innerText()) === "completed");

  const steps = [...new Set((await said(one)).map((t) => parseInt(t, 10)))];
  expect(steps.length >= 4 && steps.at(-1) === 6, `the bar of the rollout moved: ${steps}`);
  expect(steps.every((n, i) => i === 0 || n > steps[i - 1]), `never backwards: ${steps}`);
  const seen = [...new Set((await said(overview)).map((t) => parseInt(t, 10)))];
  expect(seen.length >= 3, `the bar of the overview moved: ${seen}`);
  await eventually("the overview has no active rollout any more", async () => (await overview.locator(".card .progress").count()) === 0);
  const wrong = await troubles(one);
  await browser.close();
  expect(wrong.length === 0, wrong.join("\n"));
}
