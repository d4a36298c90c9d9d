// A new job: files are chosen, sent and handed over. They are never shown here: what is seen is what was masked.

import { all, call, message, newKey } from "./api.js";
import { bytes, element, field, options, say, words } from "./elements.js";
import { may, purpose } from "./session.js";
import { MASKS } from "./targets.js";
import { discard, upload } from "./uploads.js";

const KINDS = "image/jpeg,image/png,image/webp,video/mp4,video/webm,video/quicktime,video/x-matroska,.mkv,.mov";
const TARGETS = { face: true, licence_plate: true, person: false, vehicle: false, text: false }; // and whether at first
const HERE = ""; // the choice of targets made here, beside the names of policies
const UNNAMED = /[\u0000-\u001f\u007f-\u009f\/\\:*?"<>|]|^\./g; // what schemas/job.py refuses in names

export class JobForm {
  // created(job): after each.
  constructor(form, created) {
    this.form = form;
    this.created = created;
    this.rows = [];
    this.picker = element("input", { type: "file", multiple: true, accept: KINDS, id: "files", "aria-describedby": "files-hint", onchange: () => this.choose(this.picker.files) });
    this.list = element("ul", { class: "files", "aria-label": "Chosen files" });
    this.targets = Object.entries(TARGETS).map(([value, checked]) => element("input", { type: "checkbox", value, checked }));
    this.mask = element("select", {}, ...options(MASKS, "solid"));
    this.here = element("div", { class: "chosen", role: "group", "aria-label": "What is masked" },
      element("div", { class: "checks" }, ...this.targets.map((box) => element("label", {}, box, ` ${words(box.value)}`))),
      field("Mask", this.mask, "mask"));
    this.policy = element("select", { onchange: () => { this.here.hidden = this.policy.value !== HERE; } },
      element("option", { value: HERE }, "what I choose here"));
    this.how = field("Mask by", this.policy, "policy");
    this.named = element("input", { type: "checkbox" });
    this.sound = element("input", { type: "checkbox" });
    this.purpose = element("input", { value: purpose(), maxlength: 500, required: true });
    this.start = element("button", { class: "primary" }, "Upload and mask");
    this.stop = element("button", { type: "button", hidden: true, onclick: () => this.abort.abort() }, "Stop");
    this.said = element("p", { class: "said", role: "status" });
    this.fault = element("p", { class: "fault", role: "alert" });
    this.drop = element("div", { class: "drop" },
      element("label", { for: "files" }, "Pictures and films"), this.picker,
      element("span", { class: "hint", id: "files-hint" }, "Choose them, or drop them here. JPEG, PNG, WebP, MP4, WebM, MKV, MOV."));
    form.replaceChildren(element("fieldset", {}, element("legend", {}, "New job"), this.drop, this.list,
      element("div", { class: "fields" }, this.how, field("Purpose, for the record", this.purpose, "purpose")), this.here,
      element("div", { class: "checks" }, element("label", {}, this.named, " Name results after the files (names may tell who is in them)"),
        element("label", {}, this.sound, " Keep the sound")),
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
      await Promise.all(sent.map(discard));
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
    const nothing = this.policy.value === HERE && !this.targets.some((box) => box.checked);
    const [text, control] = !this.rows.length ? ["Choose a file.", this.picker] :
      nothing ? ["Choose one thing to mask at least.", this.targets[0]] :
      !this.purpose.value.trim() ? ["Say what it is for.", this.purpose] : ["", null];
    this.fault.textContent = text;
    control?.focus();
    return control === null;
  }

  // As the API wants it; `uploads`: their addresses.
  job(uploads) {
    const targets = this.targets.filter((box) => box.checked).map((box) => box.value);
    return {
      files: uploads.map((address, i) => ({ upload: address.split("/").at(-1), ...(this.named.checked ? { name: stem(this.rows[i].file.name) } : {}) })),
      policy: this.policy.value === HERE ? { targets, mask: this.mask.value } : { name: this.policy.value },
      options: { keep_audio: this.sound.checked },
      purpose: this.purpose.value.trim(),
    };
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

// Without the ending, and without what a result's name may not have.
function stem(name) {
  return name.replace(/\.[^.]*$/, "").replace(UNNAMED, "_").slice(0, 200) || "_";
}
