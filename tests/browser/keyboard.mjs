// The main job without a mouse: sign in, open a project and a rollout, start another, pause it, resume it, sign out.
import { client } from "./api.mjs";
import { eventually, expect, launch, open, troubles } from "./browser.mjs";

// More stops than any of these pages has.
const MAX_STOPS = 200;

// What has the focus, and whether a person sees that it has.
const focused = (page) =>
  page.evaluate(() => {
    const e = document.activeElement;
    if (!e || e === document.body) return null;
    const style = getComputedStyle(e);
    const box = e.getBoundingClientRect();
    const inside = box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
    return {
      html: e.outerHTML.slice(0, 160),
      text: (e.innerText || e.value || "").trim(),
      ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
      inside,
      place: [...document.querySelectorAll("*")].indexOf(e),
    };
  });

// Tab until `selector` has the focus; every stop on the way is seen, and follows the order of the document.
async function tabTo(page, selector) {
  let before = -1;
  for (let stop = 0; stop < MAX_STOPS; stop++) {
    await page.keyboard.press("Tab");
    const now = await focused(page);
    if (now === null) { before = -1; continue; } // the browser's own controls, then from the top
    expect(now.ring, `the focus is not visible: ${now.html}`);
    expect(now.inside, `the focus is outside of the screen: ${now.html}`);
    expect(now.place > before, `the focus goes backwards: ${now.html}`);
    before = now.place;
    if (await page.evaluate((s) => document.activeElement.matches(s), selector)) return now;
  }
  throw new Error(`no way to ${selector} by Tab on ${page.url()}`);
}

const press = async (page, selector, key = "Enter") => {
  await tabTo(page, selector);
  await Promise.all([page.waitForNavigation(), page.keyboard.press(key)]);
};

async function heading(page, text) {
  const h1 = (await page.locator("h1").innerText()).trim();
  expect(h1 === text, `the heading is ${h1}, not ${text}`);
}

export default async function keyboard(world) {
  const api = client(world);
  const p = world.project;
  const good = await api.bundle(p, "good", world.config);
  const done = await api.rollOut(p, { bundle_id: good.bundle_id, batch_size: "100%" });
  await api.reaches(done, "completed");
  const next = await api.bundle(p, "next", world.config);

  const browser = await launch(world);
  const page = await open(browser);
  const state = async (id) => (await api.get(`/api/v1/rollouts/${id}`)).rollout.state;

  // Sign in: the first field has the focus already.
  await page.goto(world.url);
  await eventually("the address field has the focus", () => page.evaluate(() => document.activeElement.id === "email"));
  await page.keyboard.type(world.email);
  await page.keyboard.press("Tab");
  await page.keyboard.type(world.password);
  await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
  await heading(page, "Projects");

  // The first stop of a page leads past its head.
  const skip = await tabTo(page, ".skip");
  expect(skip.text === "Skip to content", skip.html);
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  expect(await page.evaluate(() => document.activeElement.closest("main")), "after the skip link, Tab goes into the content");

  await page.reload();
  await press(page, `h2 a[href="/projects/${p}/rollouts"]`);
  await heading(page, "Rollouts");
  await press(page, `td a[href$="${done}"]`);
  await heading(page, "Rollout of good");

  // A new rollout through the form. Its nodes must be healthy for long, so that it can be paused under way.
  await press(page, 'nav a[href$="/rollouts"]');
  await press(page, 'a[href$="/rollouts/new"]');
  await heading(page, "New rollout");
  await tabTo(page, "#bundle");
  await page.keyboard.type("next");
  await tabTo(page, "#min_healthy");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("300");
  await press(page, 'button[value="plan"]', "Space");
  expect((await page.locator("#plan").innerText()).includes("6"), "the plan is shown");
  await press(page, 'button[value="create"]');
  await heading(page, "Rollout of next");
  const id = page.url().split("/").at(-1);
  await api.reaches(id, "running");
  expect((await api.get(`/api/v1/rollouts/${id}`)).rollout.bundle.bundle_id === next.bundle_id, "the chosen bundle");

  // The command appears by itself when the rollout runs; then pause and go on, and say why in the audit log.
  await page.waitForSelector("#cmd-pause button");
  await press(page, "#cmd-pause button", "Space");
  expect((await state(id)) === "paused", "paused");
  await press(page, "#cmd-resume button");
  expect((await state(id)) === "running", "goes on");
  await tabTo(page, "#menu-cancel > summary");
  await page.keyboard.press("Enter");
  await tabTo(page, "#note-cancel");
  await page.keyboard.type("enough seen");
  await Promise.all([page.waitForNavigation(), page.keyboard.press("Enter")]);
  expect((await state(id)) === "cancelled", "cancelled");

  await press(page, 'form[action="/logout"] button');
  await heading(page, "Sign in");
  await page.goto(`${world.url}/projects/${p}/rollouts`);
  await heading(page, "Sign in");
  const wrong = await troubles(page);
  await browser.close();
  expect(wrong.length === 0, wrong.join("\n"));
}
