// A new subject request: a person is chosen on an anonymized picture, and a clip of them asked for.

import { all, call, message, newKey, Problem } from "./api.js";
import { element, field, say, setFault } from "./elements.js";
import { People } from "./people.js";

const KINDS = { access: "shows this person alone", removal: "masks this person, besides what is masked anyway" };

export class RequestForm {
  // created(request): after each.
  constructor(form, created) {
    this.form = form;
    this.created = created;
    this.people = new People();
    this.camera = element("select", { "data-path": "camera", onchange: () => this.picture() });
    this.newer = element("button", { type: "button", onclick: () => this.picture() }, "Newer picture");
    this.kind = element("select", {}, ...Object.entries(KINDS).map(([value, text]) => element("option", { value }, `${value}: ${text}`)));
    const seconds = () => element("input", { type: "number", min: 0, step: 1, value: 5, required: true });
    Object.assign(this, { before: seconds(), after: seconds() });
    this.reason = element("input", { maxlength: 500, required: true });
    this.case = element("input", { maxlength: 500, required: true });
    this.fault = element("p", { class: "fault", role: "alert", tabindex: -1 });
    this.said = element("p", { class: "said", role: "status" });
    form.replaceChildren(element("fieldset", {}, element("legend", {}, "New request"),
      element("div", { class: "buttons" }, field("Camera", this.camera, "camera"), this.newer),
      this.people.root,
      element("div", { class: "buttons" }, field("The clip", this.kind, "kind")),
      element("div", { class: "fields" },
        field("Seconds before the picture", this.before, "since"), field("Seconds after it", this.after, "until"),
        field("Reason, for the record", this.reason, "reason"), field("Case number (no names)", this.case, "case")),
      this.fault, element("p", { class: "buttons" }, element("button", { class: "primary" }, "Send the request"), this.said)));
    form.oninput = ({ target }) => { if (target.dataset.path) setFault(target, ""); };
    form.onsubmit = (event) => this.submit(event);
    this.listCameras();
  }

  async listCameras() {
    try {
      const cameras = await all("/v1/cameras");
      this.camera.replaceChildren(...cameras.map(({ id }) => element("option", { value: id }, id)));
      if (cameras.length) await this.picture();
      else say(this.people.status, "No camera has sent a picture yet.");
    } catch (error) {
      say(this.people.status, message(error));
    }
  }

  async picture() {
    if (!this.camera.value) return await this.listCameras();
    await this.people.show(this.camera.value);
  }

  async submit(event) {
    event.preventDefault();
    this.clear();
    if (this.sending || !this.check()) return;
    this.sending = true;
    say(this.said, "Sending…");
    try {
      const { body } = await call("/v1/subject-requests", { method: "POST", json: this.value, headers: { "Idempotency-Key": newKey() } });
      say(this.said, `Sent. Approvals wanted: ${body.needed}.`);
      for (const control of [this.reason, this.case]) control.value = "";
      this.created(body);
    } catch (error) {
      this.refused(error);
    } finally {
      this.sending = false;
    }
  }

  // As the API wants it.
  get value() {
    const { frame, point } = this.people;
    return {
      ...frame, point, kind: this.kind.value, reason: this.reason.value.trim(), case: this.case.value.trim(),
      since: moved(frame.captured_at, -this.before.value), until: moved(frame.captured_at, Number(this.after.value)),
    };
  }

  // What the page can tell by itself; the API tells the rest.
  check() {
    if (this.people.point === null) setFault(this.people.list, "Choose a person.");
    for (const control of [this.before, this.after]) if (!control.checkValidity()) setFault(control, "Give a number of seconds, 0 or more.");
    for (const control of [this.reason, this.case]) if (!control.value.trim()) setFault(control, "Fill this in.");
    return !this.focusFault();
  }

  refused(error) {
    say(this.said, "Not sent.");
    const faults = error instanceof Problem ? error.faults : [];
    const unplaced = faults.filter((fault) => !this.place(...fault));
    this.fault.textContent = unplaced.map(([name, text]) => name ? `${name}: ${text}` : text).join("\n") || (faults.length ? "" : message(error));
    if (!this.focusFault()) this.fault.focus();
  }

  place(path, text) {
    const control = [...this.form.querySelectorAll("[data-path]")].find(({ dataset }) => dataset.path === path);
    if (control) setFault(control, text);
    return control !== undefined;
  }

  focusFault() {
    const control = this.form.querySelector("[aria-invalid]");
    if (control === this.people.list) this.people.focus();
    else control?.focus();
    return control !== null;
  }

  clear() {
    this.fault.textContent = "";
    for (const control of this.form.querySelectorAll("[aria-invalid]")) setFault(control, "");
  }

  close() {
    this.people.clear();
    this.form.replaceChildren();
  }
}

// The moment so many seconds later. (A Date has milliseconds, the frame's moment microseconds.)
function moved(moment, seconds) {
  return seconds ? new Date(Date.parse(moment) + 1000 * seconds).toISOString() : moment;
}
