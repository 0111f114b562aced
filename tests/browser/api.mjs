// The API as scripts use it, to furnish what the pages show.
import { eventually } from "./browser.mjs";

export const client = (world) => {
  // `null` in place of headers: nobody; a node's key in them: that node.
  const call = async (method, path, body, headers = { authorization: `Bearer ${world.key}` }) => {
    const answer = await fetch(world.url + path, {
      method,
      headers: { ...(body && { "content-type": "application/json" }), ...headers },
      body: body && JSON.stringify(body),
    });
    const text = await answer.text();
    return { status: answer.status, body: text.startsWith("{") ? JSON.parse(text) : text };
  };
  const must = async (method, path, body, headers) => {
    const { status, body: answer } = await call(method, path, body, headers);
    if (status >= 300) throw new Error(`${method} ${path}: ${status} ${JSON.stringify(answer)}`);
    return answer;
  };
  return {
    call,
    get: (path) => must("GET", path),
    post: (path, body = {}, headers) => must("POST", path, body, headers),
    bundle: async (project, version, config, more = {}) =>
      (await must("POST", `/api/v1/projects/${project}/bundles?wait=30`, { version, config_source: `${config}\n// ${version}\n`, ...more })).bundle,
    rollOut: async (project, body) => (await must("POST", `/api/v1/projects/${project}/rollouts`, body)).rollout.id,
    reaches: (id, state) =>
      eventually(`rollout ${id} is ${state}`, async () => (await must("GET", `/api/v1/rollouts/${id}`)).rollout.state === state),
  };
};

// One of everything that a page can show, in the project of the fleet. `world.bad` fails on one node.
export async function furnish(world) {
  const api = client(world);
  const p = world.project;
  const good = await api.bundle(p, "good", world.config);
  const done = await api.rollOut(p, { bundle_id: good.bundle_id, batch_size: "50%" });
  await api.reaches(done, "completed");
  const bad = await api.bundle(p, world.bad, world.config);
  const back = await api.rollOut(p, { bundle_id: bad.bundle_id, batch_size: "50%", on_failure: "rollback" });
  await api.reaches(back, "rolled_back");
  const next = await api.bundle(p, "next", world.config);
  const paused = await api.rollOut(p, { bundle_id: next.bundle_id, batch_size: 1, min_healthy_seconds: 300 });
  await api.reaches(paused, "running");
  await api.post(`/api/v1/rollouts/${paused}/pause`, { note: "lunch" });
  await api.reaches(paused, "paused");
  const revoked = await api.bundle(p, "revoked", world.config);
  await api.post(`/api/v1/projects/${p}/bundles/${revoked.bundle_id}/revoke`, { reason: "leaks" });
  const other = await api.bundle(p, "other", world.other);
  await api.post(`/api/v1/projects/${p}/resources`, { path: "certs/site.pem", text: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n" });
  const rules = { required: ["/listeners/*/address"], forbidden: ["/debug"], schema: { properties: { routes: { maxItems: 2000 } } } };
  await api.call("PATCH", `/api/v1/projects/${p}`, { settings: { rules, secrets: ["site-key"], retention_keep: 2 } });
  await api.post(`/api/v1/projects/${p}/enrolment-tokens`, { name: "first nodes", max_uses: 20, expires_in_seconds: 3600, labels: { site: "ams" } });
  const project = (await api.get(`/api/v1/projects/${p}`)).project.id;
  await api.post("/api/v1/api-keys", { name: "pipeline", scopes: ["bundles:write", "rollouts:write"], project_id: project });
  const org = (await api.get("/api/v1/orgs")).orgs[0].id;
  await api.post(`/api/v1/orgs/${org}/members`, { email: "invited@example.org", role: "operator" });
  const password = "a password of some length";
  const { token } = await api.post(`/api/v1/orgs/${org}/members`, { email: "reader@example.org", role: "reader" });
  await api.post("/api/v1/invitations/accept", { token, password }, {});
  const windows = `/api/v1/projects/${p}/freeze-windows`;
  await api.post(windows, { name: "year's end", reason: "nobody is here", starts_at: "2090-12-24T12:00:00Z", ends_at: "2091-01-02T06:00:00Z" });
  await api.post(`/api/v1/projects/${p}/environments`, { name: "Staging", selector: { type: "labels", labels: { env: "staging" } }, settings: { approval_required: true, approvals_needed: 1 } });
  await api.post(`/api/v1/projects/${p}/rollout-templates`, { name: "careful", settings: { batch_size: "5%", min_healthy_seconds: 60 } });
  const nodes = (await api.get(`/api/v1/projects/${p}/nodes`)).nodes;
  const failed = (await api.get(`/api/v1/projects/${p}/nodes?q=${world.badNode}`)).nodes[0];
  return { api, good, bad, next, other, revoked, done, back, paused, nodes, failed };
}
