// Policies: those in force, and the editor of one.

import { all, call, message, Problem, request } from "./api.js";
import { byId, element, field, options, say, setFault } from "./elements.js";
import { may } from "./session.js";
import { Targets } from "./targets.js";
import { Zones } from "./zones.js";

const BASES = ["consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests"];
const TEXTS = { controller: "Controller", purpose: "Purpose", dpia: "Impact assessment (DPIA)" };
const SHOWN = new Set(["camera", "version", ...Object.keys(TEXTS), "lawful_basis", "retention_hours", "targets", "zones", "hold", "lookahead"]);
const AGAIN = 3000; // ms until a list that could not be had is asked for again
const IN_FORCE = 15_000, LOOK = 1000; // ms: how long frames under the new version are waited for, and between two looks

let editor = null;
let visit = 0; // counts, so that an answer that comes late changes nothing

export async function enter(camera) {
  const mine = ++visit;
  if (!(await showList(mine))) return void setTimeout(() => mine === visit && enter(camera), AGAIN);
  const links = [...byId("policy-list").querySelectorAll("a")];
  const chosen = links.find((link) => link.dataset.camera === camera) ?? (camera ? null : links[0]);
  for (const link of links) link.ariaCurrent = link === chosen ? "true" : null;
  if (chosen) await open(chosen.dataset.camera, mine);
  else byId("policy").replaceChildren(element("p", {}, camera ? `No policy is named ${camera}.` :
    "No policy yet. Without one, every frame is fully masked."));
}

export function leave() {
  visit += 1;
  editor?.close();
  editor = null;
  byId("policy").replaceChildren();
  byId("policy-list").replaceChildren();
  say(byId("policies-status"), "");
}

async function showList(mine) {
  try {
    const policies = await all("/v1/policies");
    if (mine !== visit) return false;
    say(byId("policies-status"), "");
    byId("policy-list").replaceChildren(...policies.map(({ camera, version }) =>
      element("a", { href: `#policies/${encodeURIComponent(camera)}`, "data-camera": camera },
        element("span", {}, camera), element("span", { class: "hint" }, version === null ? "not valid" : `version ${version}`))));
    return true;
  } catch (error) {
    if (mine === visit) say(byId("policies-status"), message(error));
    return false;
  }
}

async function open(camera, mine) {
  try {
    const { body, etag } = await call(`/v1/policies/${encodeURIComponent(camera)}`);
    if (mine !== visit) return;
    editor?.close();
    editor = new Editor(body, etag);
    byId("policy").replaceChildren(editor.root);
    await editor.showPicture();
  } catch (error) {
    if (mine === visit) say(byId("policies-status"), message(error));
  }
}

class Editor {
  constructor(policy, etag) {
    this.policy = policy;
    this.etag = etag;
    this.writable = may("policies:write");
    const touched = () => this.touch();
    this.targets = new Targets(policy.targets, this.writable, touched);
    this.zones = new Zones(policy.zones, this.writable, touched);
    this.controls = this.fields();
    this.fault = element("p", { class: "fault", role: "alert", tabindex: -1 });
    this.said = element("p", { class: "said", role: "status" });
    this.unwise = element("ul", { class: "unwise", "aria-label": "Allowed, and yet unwise", hidden: true });
    this.heading = element("h3", {}, policy.camera, " ", this.version = element("span", { class: "hint" }, `version ${policy.version}`));
    this.root = element("form", { novalidate: true, onsubmit: (event) => this.save(event), oninput: touched },
      this.heading,
      this.writable ? null : element("p", { class: "hint" }, "You may read this policy. Changing it wants the scope policies:write."),
      this.targets.root,
      element("fieldset", {}, element("legend", {}, "Zones"), this.pictures(), this.zones.root),
      element("fieldset", {}, element("legend", {}, "Time"), element("div", { class: "fields" }, ...this.of("hold", "lookahead"))),
      element("fieldset", {}, element("legend", {}, "Lawfulness"),
        element("div", { class: "fields" }, ...this.of(...Object.keys(TEXTS), "lawful_basis", "retention_hours"))),
      this.rest(), this.fault, this.unwise,
      this.writable ? element("p", { class: "buttons sticky" },
        this.submit = element("button", { class: "primary" }, "Save"),
        this.reload = element("button", { type: "button", hidden: true, onclick: () => enter(policy.camera) }, "Load their version"),
        this.said) : this.said);
  }

  fields() {
    const common = { disabled: !this.writable };
    const number = (name, max) => element("input", { type: "number", min: 0, max, step: "any", value: this.policy[name], ...common });
    return {
      ...Object.fromEntries(Object.keys(TEXTS).map((name) =>
        [name, element("input", { value: this.policy[name], maxlength: 500, required: true, ...common })])),
      lawful_basis: element("select", common, ...options(BASES, this.policy.lawful_basis)),
      retention_hours: element("input", { type: "number", min: 1, step: 1, value: this.policy.retention_hours, required: true, ...common }),
      hold: number("hold", 10),
      lookahead: number("lookahead", 2),
    };
  }

  of(...names) {
    const labels = { ...TEXTS, lawful_basis: "Lawful basis (GDPR 6(1))", retention_hours: "Kept at most (hours)",
      hold: "Hold a lost mask (seconds)", lookahead: "Wait for later frames (seconds)" };
    return names.map((name) => field(labels[name], this.controls[name], name));
  }

  // What this page does not edit stays as it is.
  rest() {
    const kept = Object.entries(this.policy).filter(([name]) => !SHOWN.has(name));
    return element("details", {}, element("summary", {}, "Everything else, kept as it is"),
      element("pre", { tabindex: 0, role: "region", "aria-label": "Everything else" }, JSON.stringify(Object.fromEntries(kept), null, 2)));
  }

  pictures() {
    this.camera = element("select", { onchange: () => this.showPicture() });
    this.newer = element("button", { type: "button", onclick: () => this.showPicture() }, "Newer picture");
    return this.chooser = element("div", { class: "buttons", hidden: true }, field("Drawn on the picture of", this.camera, "picture"), this.newer);
  }

  // The newest anonymized picture of a camera that the policy is for.
  async showPicture() {
    if (!may("cameras:read")) return say(this.zones.status, "Your key shows no camera: zones are drawn on a blank picture.");
    try {
      if (!this.camera.options.length) await this.findCameras();
      if (!this.camera.value) return say(this.zones.status, "No camera of this policy has sent a picture: zones are drawn on a blank one.");
      const response = await request(`/v1/cameras/${encodeURIComponent(this.camera.value)}/snapshot.jpg`);
      if (this.closed || !response.ok) return;
      this.zones.show(URL.createObjectURL(await response.blob()), `Newest anonymized picture of ${this.camera.value}`);
    } catch {
      say(this.zones.status, "The camera's picture cannot be had now.");
    }
  }

  async findCameras() {
    const pattern = matcher(this.policy.camera);
    const seen = (await cameras()).map(({ id }) => id).filter((id) => pattern.test(id));
    this.camera.replaceChildren(...seen.map((id) => element("option", { value: id }, id)));
    this.chooser.hidden = seen.length === 0;
  }

  touch() {
    this.changed = true;
    say(this.said, "Not saved yet.");
  }

  get value() {
    const own = Object.fromEntries(Object.entries(this.controls).map(([name, control]) =>
      [name, control.type === "number" ? (control.value === "" ? null : Number(control.value)) : control.value]));
    return { ...this.policy, ...own, targets: this.targets.value, zones: this.zones.zones, version: this.policy.version + 1 };
  }

  async save(event) {
    event.preventDefault();
    if (this.saving || !this.check()) return;
    this.saving = true;
    this.submit.disabled = true;
    say(this.said, "Saving…");
    try {
      const json = this.value, path = `/v1/policies/${encodeURIComponent(this.policy.camera)}`;
      const { body, etag } = await call(path, { method: "PUT", json, headers: { "If-Match": this.etag } });
      Object.assign(this, { policy: body, etag, changed: false });
      this.version.textContent = `version ${body.version}`;
      const link = [...byId("policy-list").querySelectorAll("a")].find(({ dataset }) => dataset.camera === body.camera);
      if (link) link.lastChild.textContent = `version ${body.version}`;
      say(this.said, `Version ${body.version} is saved.`);
      this.watch(body.version);
      await this.warn(json);
    } catch (error) {
      this.refused(error);
    } finally {
      this.saving = false;
      this.submit.disabled = false;
    }
  }

  // What is allowed and yet unwise.
  async warn(policy) {
    const check = await call("/v1/policies:validate", { method: "POST", json: policy }).catch(() => null);
    const warnings = check?.body.warnings ?? [];
    this.unwise.replaceChildren(...warnings.map((text) => element("li", {}, text)));
    this.unwise.hidden = warnings.length === 0;
  }

  // What the page can tell by itself; the API tells the rest.
  check() {
    this.clear();
    if (!this.targets.check()) {
      this.targets.focus();
      return false;
    }
    const zone = this.zones.faulty;
    if (zone >= 0) this.zones.focus(zone);
    if (zone >= 0) say(this.said, `Not saved: zone ${zone + 1} is not right yet.`);
    return zone < 0;
  }

  clear() {
    this.fault.textContent = "";
    for (const control of this.root.querySelectorAll("[aria-invalid]")) setFault(control, "");
  }

  refused(error) {
    say(this.said, "Not saved.");
    if (error instanceof Problem && error.status === 412) {
      this.reload.hidden = false;
      this.fault.textContent = "Somebody else has changed this policy in the meantime. Load their version; what you changed here is then lost.";
      return this.reload.focus();
    }
    const unplaced = error instanceof Problem ? error.faults.filter((fault) => !this.place(...fault)) : [];
    const placed = error instanceof Problem && error.faults.length > unplaced.length;
    this.fault.textContent = unplaced.length ? unplaced.map(([name, text]) => name ? `${name}: ${text}` : text).join("\n") :
      placed ? "" : message(error);
    (this.root.querySelector("[aria-invalid]") ?? this.fault).focus();
  }

  // Show a fault at its field: the one of that path, or the part that holds it.
  place(path, text) {
    const control = [...this.root.querySelectorAll("[data-path]")]
      .filter(({ dataset }) => path === dataset.path || path.startsWith(`${dataset.path}.`))
      .sort((a, b) => b.dataset.path.length - a.dataset.path.length)[0];
    if (!control) return false;
    if (control.matches("input, select")) setFault(control, text);
    else control.textContent = text;
    return true;
  }

  // Until frames come out under the new version: then it is in force, and the picture shows it.
  async watch(version) {
    const camera = this.camera.value;
    if (!camera) return;
    const until = performance.now() + IN_FORCE;
    while (!this.closed && !this.changed && this.policy.version === version && performance.now() < until) {
      const newest = (await cameras().catch(() => [])).find(({ id }) => id === camera);
      if (newest?.policy_version === version) {
        say(this.said, `Version ${version} is in force: ${camera}'s newest frame was masked by it.`);
        return this.showPicture();
      }
      await new Promise((wake) => setTimeout(wake, LOOK));
    }
    if (!this.closed && !this.changed && this.policy.version === version) {
      say(this.said, `Version ${version} is saved. No frame of ${camera} has come out under it yet.`);
    }
  }

  close() {
    this.closed = true;
    this.zones.show(null, "");
  }
}

async function cameras() {
  return await all("/v1/cameras");
}

// Patterns of cameras: * stands for any characters, ? for one.
function matcher(pattern) {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
  return new RegExp(`^${escaped}$`);
}
