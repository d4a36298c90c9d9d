// A new job: files are chosen, sent and handed over. They are never shown here: what is seen is what was masked.

import { all, call, message, newKey } from "./api.js";
import { bytes, element, field, say } from "./elements.js";
import { may } from "./session.js";
import { Targets } from "./targets.js";
import { discard, upload } from "./uploads.js";

const KINDS = "image/jpeg,image/png,image/webp,video/mp4,video/webm,video/quicktime,video/x-matroska,.mkv,.mov";
const HERE = ""; // the choice of targets made here, beside the names of policies

export class JobForm {
  // created(job): after each.
  constructor(form, created) {
    this.form = form;
    this.created = created;
    this.rows = [];
    this.picker = element("input", { type: "file", multiple: true, accept: KINDS, id: "files", "aria-describedby": "files-hint", onchange: () => this.choose(this.picker.files) });
    this.list = element("ul", { class: "files", "aria-label": "Chosen files" });
    this.targets = new Targets({ face: {}, licence_plate: {} }, true, { left: ["motion"] });
    this.policy = element("select", { onchange: () => { this.targets.root.hidden = this.policy.value !== HERE; } },
      element("option", { value: HERE }, "what I choose below"));
    this.how = field("Mask by", this.policy, "policy");
    this.start = element("button", { class: "primary" }, "Upload and mask");
    this.stop = element("button", { type: "button", hidden: true, onclick: () => this.abort.abort() }, "Stop");
    this.said = element("p", { class: "said", role: "status" });
    this.fault = element("p", { class: "fault", role: "alert" });
    this.drop = element("div", { class: "drop" },
      element("label", { for: "files" }, "Pictures and films"), this.picker,
      element("span", { class: "hint", id: "files-hint" }, "Choose them, or drop them here. JPEG, PNG, WebP, MP4, WebM, MKV, MOV."));
    form.replaceChildren(element("fieldset", {}, element("legend", {}, "New job"), this.drop, this.list, this.how, this.targets.root,
      this.fault, element("p", { class: "buttons" }, this.start, this.stop, this.said)));
    form.onsubmit = (event) => this.submit(event);
    this.listen();
    this.listPolicies();
  }

  listen() {
    this.drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.drop.classList.add("over");
    });
    this.drop.addEventListener("dragleave", () => this.drop.classList.remove("over"));
    this.drop.addEventListener("drop", (event) => {
      event.preventDefault();
      this.drop.classList.remove("over");
      this.choose(event.dataTransfer.files);
    });
  }

  async listPolicies() {
    this.how.hidden = !may("policies:read");
    if (this.how.hidden) return;
    const policies = await all("/v1/policies").catch(() => []);
    this.policy.append(...policies.map(({ camera }) => element("option", { value: camera }, `the policy ${camera}`)));
  }

  choose(files) {
    if (this.abort) return;
    this.fault.textContent = "";
    for (const file of files) {
      const row = new Row(file, () => {
        this.rows = this.rows.filter((other) => other !== row);
        row.root.remove();
        this.picker.focus();
      });
      this.rows.push(row);
      this.list.append(row.root);
    }
    this.picker.value = ""; // so that the same file can be chosen again
  }

  async submit(event) {
    event.preventDefault();
    if (this.abort || !this.check()) return;
    this.abort = new AbortController();
    this.lock(true);
    const sent = [];
    try {
      for (const [i, row] of this.rows.entries()) {
        say(this.said, `Sending file ${i + 1} of ${this.rows.length}.`);
        sent.push(await row.send(this.abort.signal));
      }
      const { body } = await call("/v1/jobs", { method: "POST", json: this.job(sent), headers: { "Idempotency-Key": newKey() } });
      say(this.said, "The job is made.");
      this.clear();
      this.created(body);
    } catch (error) {
      sent.forEach(discard);
      this.rows.forEach((row) => row.reset());
      const stopped = this.abort.signal.aborted;
      say(this.said, stopped ? "Stopped. Nothing is kept." : "");
      this.fault.textContent = stopped ? "" : message(error);
    } finally {
      this.abort = null;
      this.lock(false);
    }
  }

  check() {
    this.fault.textContent = this.rows.length ? "" : "Choose a file.";
    if (!this.rows.length) this.picker.focus();
    else if (this.policy.value === HERE && !this.targets.check()) this.targets.focus();
    else return true;
    return false;
  }

  // As the API wants it; `uploads`: their addresses.
  job(uploads) {
    const policy = this.policy.value === HERE ? { targets: this.targets.value } : this.policy.value;
    return { inputs: uploads.map((address) => ({ upload: address.split("/").at(-1) })), policy };
  }

  lock(busy) {
    this.stop.hidden = !busy;
    for (const control of [this.start, this.picker, this.policy]) control.disabled = busy;
    if (busy) this.stop.focus();
  }

  clear() {
    this.rows = [];
    this.list.replaceChildren();
  }

  close() {
    this.abort?.abort();
    this.clear();
  }
}

class Row {
  constructor(file, removed) {
    this.file = file;
    this.bar = element("progress", { max: file.size || 1, value: 0, "aria-label": `${file.name}, sent`, hidden: true });
    this.said = element("span", { class: "hint" }, bytes(file.size));
    this.remove = element("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick: removed }, "Remove");
    this.root = element("li", {}, element("span", { class: "file" }, file.name), this.bar, this.said, this.remove);
  }

  // Resolves with the upload's address.
  async send(signal) {
    this.bar.hidden = false;
    this.remove.hidden = true;
    return await upload(this.file, { signal, progress: (arrived, waiting) => {
      this.bar.value = arrived;
      say(this.said, `${bytes(arrived)} of ${bytes(this.file.size)}${waiting ? ", waiting for the network" : ""}`);
    } });
  }

  reset() {
    this.bar.hidden = true;
    this.remove.hidden = false;
    say(this.said, bytes(this.file.size));
  }
}
