// One job on the page: its progress, its files before and after, and what was made of them.

import { call, message } from "./api.js";
import { confirmed } from "./confirm.js";
import { bytes, element, moment, say } from "./elements.js";
import { show } from "./preview.js";
import { may } from "./session.js";

const ENDED = ["succeeded", "failed", "cancelled", "expired"];

export class Job {
  // Event streams at once: a browser opens six connections to one host, and the rest of the page wants some.
  static MOST_STREAMS = 2;

  // changed(): called after each change of it.
  constructor(job, changed) {
    this.job = job;
    this.changed = changed;
    this.state = element("span", { class: "badge" });
    this.bar = element("progress", { max: 1 });
    this.said = element("p", { class: "hint", role: "status" });
    this.fault = element("p", { class: "fault" });
    this.cancel = element("button", { type: "button", onclick: () => this.ask() }, "Cancel");
    this.rows = element("tbody", { role: "rowgroup" }); // roles: the phone's layout would take them away
    const title = `Job ${job.id.slice(0, 8)}`;
    this.bar.ariaLabel = `${title}, pictures masked`;
    this.cancel.ariaLabel = `Cancel ${title.toLowerCase()}`;
    this.root = element("li", { class: "job", "aria-label": title },
      element("div", { class: "heading" }, element("h3", {}, title), this.state,
        element("span", { class: "hint" }, `${moment(job.created_at)} · ${job.purpose} · policy ${job.policy.camera}, version ${job.policy.version}`)),
      this.bar, this.said, this.fault,
      element("table", { role: "table" },
        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...["File", "State", "Before", "After", "Frames masked", "Result"].map((text) => element("th", { role: "columnheader" }, text)))),
        this.rows),
      element("p", { class: "buttons" }, this.cancel));
  }

  get running() {
    return !ENDED.includes(this.job.state);
  }

  // What GET tells of the job. What was known already changes nothing.
  take(job) {
    if (this.drawn && job.version <= this.job.version) return;
    this.drawn = true;
    this.job = job;
    this.rows.replaceChildren(...job.files.map((file) => this.row(file)));
    if (!this.running) this.close();
    this.refresh();
    this.changed();
  }

  // Follow its events where `stream` allows it; the list's looks tell the rest.
  watch(stream) {
    if (!stream || this.events || this.deaf) return;
    this.events = new EventSource(`/v1/jobs/${this.job.id}/events`);
    const told = ({ data }) => this.progress(JSON.parse(data));
    for (const name of ["progress", "ended"]) this.events.addEventListener(name, told);
    this.events.onerror = () => {
      if (this.events?.readyState !== EventSource.CLOSED) return; // it connects again by itself
      this.deaf = true;
      this.close();
    };
  }

  progress(progress) {
    if (progress.version <= this.job.version) return;
    const { state, version } = progress;
    if (ENDED.includes(state)) return this.look();
    const files = this.job.files.map((file) => ({ ...file, ...progress.files.find(({ number }) => number === file.number) }));
    const ended = progress.files.some((file) => ENDED.includes(file.state) && !ENDED.includes(this.job.files.find(({ number }) => number === file.number)?.state));
    this.take({ ...this.job, state, version, files });
    if (ended) this.look(); // its result is in the job alone
  }

  async look() {
    try {
      const { body } = await call(`/v1/jobs/${this.job.id}`);
      this.drawn = false;
      this.take(body);
    } catch (error) {
      say(this.fault, message(error));
    }
  }

  refresh() {
    const { state, files, error, expires_at: expires } = this.job;
    this.state.textContent = state;
    this.state.dataset.state = state;
    const done = sum(files, "frames_done"), known = files.every((file) => file.frames_total !== null);
    this.bar.hidden = !this.running;
    if (known) this.bar.value = files.length ? done / Math.max(1, sum(files, "frames_total")) : 0;
    else this.bar.removeAttribute("value");
    const ended = files.filter((file) => ENDED.includes(file.state)).length;
    // Said aloud by file, not by frame.
    say(this.said, this.running ? `${ended} of ${files.length} files done` : expires && state !== "expired" ? `Results are deleted ${moment(expires)}` : "");
    say(this.fault, error ?? "");
    this.cancel.hidden = !this.running || !may("jobs:write");
  }

  row(file) {
    const { result } = file;
    const progress = file.frames_total === null || file.frames_total === undefined ? `${file.frames_done}` : `${file.frames_done} of ${file.frames_total}`;
    const trouble = [file.error, file.remedy].filter(Boolean).join("; ") || (file.cut_short ? `Cut short: ${file.cut_short}` : "");
    return element("tr", { role: "row" },
      element("th", { role: "rowheader", "data-label": "File" }, file.name),
      element("td", { role: "cell", "data-label": "State" }, file.state, trouble ? element("span", { class: "fault" }, trouble) : null),
      element("td", { role: "cell", "data-label": "Before" }, file.bytes_before ? bytes(file.bytes_before) : "–"),
      element("td", { role: "cell", "data-label": "After" }, result ? bytes(result.bytes) : "–"),
      element("td", { role: "cell", "data-label": "Frames masked" }, result ? accounted(result.account) : progress),
      element("td", { role: "cell", "data-label": "Result" }, ...(result && this.job.state !== "expired" ? [
        element("button", { type: "button", "aria-label": `Show ${result.name}`, onclick: () => show(result) }, "Show"), " ",
        element("a", { href: result.href, download: result.name, "aria-label": `Download ${result.name}` }, "Download")] : ["–"])));
  }

  async ask() {
    const text = `Cancel job ${this.job.id.slice(0, 8)}? Files that are not masked yet will not be.`;
    if (!(await confirmed(text, "Keep it running", "Cancel the job"))) return;
    this.cancel.disabled = true;
    try {
      await call(`/v1/jobs/${this.job.id}:cancel`, { method: "POST" });
      await this.look();
    } catch (error) {
      say(this.fault, message(error));
    } finally {
      this.cancel.disabled = false;
    }
  }

  close() {
    this.events?.close();
    this.events = null;
  }
}

function sum(files, name) {
  return files.reduce((total, file) => total + file[name], 0);
}

// Fully masked frames are masked, too; the rest is said.
function accounted({ frames, masked, fully_masked: fully, dropped }) {
  const rest = [fully ? `${fully} fully` : "", dropped ? `${dropped} dropped` : ""].filter(Boolean).join(", ");
  return `${masked + fully} of ${frames}${rest ? ` (${rest})` : ""}`;
}
