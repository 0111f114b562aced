// Keeps regions of a page fresh. Without it every page works, it only stands still.
//
// The stream says {kind, id, version} and nothing else. A region names the kinds and perhaps the id it shows, and the version
// it has; it is fetched again when something newer is said, never more often than its own pace allows.
"use strict";
(() => {
  const url = document.body.dataset.stream;
  const regions = () => document.querySelectorAll("[data-live]");
  if (!url || !window.EventSource || regions().length === 0) return;

  const STALE_MS = 30000; // relative times grow old even when nothing happens
  const state = new Map(); // id of a region -> {busy, dirty, last, timer, fails}
  const status = document.getElementById("live-status");
  let source = null;
  let opened = false;
  let asleep = false;
  let backoff = 1000;

  function say(text, on) {
    if (!status) return;
    status.hidden = false;
    status.classList.toggle("on", on);
    if (status.textContent !== text) status.textContent = text;
  }

  // Makes `from` what `to` is, touching only what differs: focus, open details and what is being typed stay.
  function morph(from, to) {
    if (from.nodeType !== to.nodeType || from.nodeName !== to.nodeName || (from.id || "") !== (to.id || "")) {
      from.replaceWith(to);
      return;
    }
    if (from.nodeType !== 1) {
      if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
      return;
    }
    for (const a of Array.from(from.attributes)) {
      if (!to.hasAttribute(a.name) && !(a.name === "open" && from.nodeName === "DETAILS")) from.removeAttribute(a.name);
    }
    for (const a of Array.from(to.attributes)) {
      if (from.getAttribute(a.name) !== a.value) from.setAttribute(a.name, a.value);
    }
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(from.nodeName)) return;
    let a = from.firstChild;
    let b = to.firstChild;
    while (b) {
      const next = b.nextSibling;
      if (b.nodeType === 1 && b.id && (!a || a.id !== b.id)) {
        const same = Array.from(from.children).find((c) => c.id === b.id);
        if (same) {
          from.insertBefore(same, a);
          a = same;
        } else if (a && a.nodeType === 1 && a.id) {
          // New here: what stands at this place has a name of its own and may still be wanted.
          from.insertBefore(b, a);
          b = next;
          continue;
        }
      }
      if (a) {
        const after = a.nextSibling;
        morph(a, b);
        a = after;
      } else {
        from.appendChild(b);
      }
      b = next;
    }
    while (a) {
      const after = a.nextSibling;
      a.remove();
      a = after;
    }
  }

  function of(region) {
    let s = state.get(region.id);
    if (!s) state.set(region.id, (s = { busy: false, dirty: false, last: 0, timer: 0, fails: 0 }));
    return s;
  }

  function want(region) {
    const s = of(region);
    s.dirty = true;
    if (s.busy || s.timer || document.hidden) return;
    const pace = Number(region.dataset.every) || 500;
    const wait = Math.max(0, s.last + pace * Math.pow(2, Math.min(s.fails, 6)) - Date.now());
    s.timer = setTimeout(() => {
      s.timer = 0;
      load(region.id, s);
    }, wait);
  }

  async function load(id, s) {
    const region = document.getElementById(id);
    if (!region) return;
    s.busy = true;
    s.dirty = false;
    s.last = Date.now();
    try {
      const answer = await fetch(region.dataset.src, { credentials: "same-origin", cache: "no-store" });
      if (answer.status === 401) {
        stop("Signed out");
        return;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById(id);
      // An answer that was overtaken by a newer one is not shown.
      if (fresh && Number(fresh.dataset.version) >= Number(region.dataset.version)) morph(region, fresh);
      s.fails = 0;
    } catch (e) {
      s.fails += 1;
      s.dirty = true;
    } finally {
      s.busy = false;
    }
    const again = document.getElementById(id);
    if (s.dirty && again && source) want(again);
  }

  function heard(kind, id, version) {
    regions().forEach((r) => {
      const mine =
        kind === "resync" ||
        (r.dataset.live.split(" ").includes(kind) &&
          (!r.dataset.id || r.dataset.id === id) &&
          (!r.dataset.id || !version || version > Number(r.dataset.version)));
      if (mine) want(r);
    });
  }

  function onEvent(e) {
    let said = {};
    try {
      said = JSON.parse(e.data) || {};
    } catch (x) {
      return;
    }
    heard(said.kind, said.id, said.version);
  }

  function connect() {
    source = new EventSource(url);
    source.onopen = () => {
      backoff = 1000;
      say("Live", true);
      // Whatever was said while nobody listened is fetched.
      if (opened) heard("resync");
      opened = true;
    };
    source.onmessage = onEvent;
    source.onerror = () => {
      say("Reconnecting…", false);
      // The browser tries again by itself, except after a refusal.
      if (source && source.readyState === EventSource.CLOSED) {
        const failed = source;
        setTimeout(() => source === failed && connect(), backoff);
        backoff = Math.min(backoff * 2, 30000);
      }
    };
  }

  function stop(text) {
    if (source) source.close();
    source = null;
    say(text, false);
  }

  // A tab that nobody sees holds no connection: browsers have few of them for one site.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && source) {
      source.close();
      source = null;
      asleep = true;
    } else if (!document.hidden && asleep) {
      asleep = false;
      connect();
    }
  });
  setInterval(() => {
    if (source && !document.hidden) regions().forEach((r) => Date.now() - of(r).last > STALE_MS && want(r));
  }, STALE_MS / 3);
  // One menu at a time, and Escape closes it.
  document.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    document.querySelectorAll("details.menu[open]").forEach((d) => {
      d.open = false;
      d.querySelector("summary").focus();
    });
  });
  regions().forEach((r) => (of(r).last = Date.now()));
  if (document.hidden) asleep = opened = true;
  else connect();
  window.addEventListener("pagehide", () => source && source.close());
  window.addEventListener("pageshow", (e) => e.persisted && connect());
})();
