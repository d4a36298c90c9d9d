// One subject request on the page: what is asked, who approved it, and what the caller may do about it.

import { call, message, newKey } from "./api.js";
import { confirmed } from "./confirm.js";
import { element, field, moment, say, setFault } from "./elements.js";
import { caller, may } from "./session.js";

const ENDED = ["refused", "withdrawn", "failed", "gone", "expired"];

export class SubjectRequest {
  // changed(): to be called where it may have changed.
  constructor(request, changed) {
    this.path = `/v1/subject-requests/${request.id}`;
    this.changed = changed;
    const title = this.title = `Request ${request.id.slice(0, 8)}`;
    this.heading = element("h3", { tabindex: -1 }, title);
    this.state = element("span", { class: "badge" });
    this.given = element("ul", { class: "given", "aria-label": `${title}, decisions` });
    this.said = element("p", { class: "hint", role: "status" });
    this.fault = element("p", { class: "fault", role: "alert" });
    this.note = element("input", { maxlength: 500, required: true, oninput: () => setFault(this.note, "") });
    const button = (text, onclick) => element("button", { type: "button", "aria-label": `${text} ${title.toLowerCase()}`, onclick }, text);
    this.decision = element("div", { class: "buttons", role: "group", "aria-label": `${title}, your decision` },
      field("What you checked, for the record", this.note, "note"),
      button("Approve", () => this.decide("approve")), button("Refuse", () => this.decide("refuse")));
    this.withdrawal = button("Withdraw", () => this.withdraw());
    this.clip = element("span", {});
    this.root = element("li", { class: "job", "aria-label": title },
      element("div", { class: "heading" }, this.heading, this.state, element("span", { class: "hint" }, asked(request))),
      element("p", {}, `Reason: ${request.reason} · Case: ${request.case} · Asked by ${mine(request) ? "you" : request.requested_by}`),
      this.said, this.given, this.fault, this.decision,
      element("p", { class: "buttons" }, this.clip, this.withdrawal));
  }

  // What GET tells. What was known already changes nothing.
  take(request) {
    if (this.request?.version === request.version && this.request.state === request.state) return;
    this.request = request;
    const { state, approvals, needed, error, gone_at: gone, clip, footage_until: kept } = request;
    const focused = this.root.contains(document.activeElement);
    this.state.textContent = this.state.dataset.state = state;
    const agreed = approvals.filter(({ verdict }) => verdict === "approve").length;
    say(this.said, [`${agreed} of ${needed} approvals`, state === "approved" ? "the clip is being made" : "",
      kept && ["pending", "approved"].includes(state) ? `the footage may be deleted from ${moment(kept)} on` : "",
      ENDED.includes(state) ? "" : `ends ${moment(request.expires_at)}`].filter(Boolean).join(" · "));
    this.given.replaceChildren(...approvals.map(({ by, verdict, note, at }) =>
      element("li", {}, `${by === caller() ? "You" : by}: ${verdict}, ${moment(at)}: ${note}`)));
    say(this.fault, [error, gone ? `Gone since ${moment(gone, "medium")}` : ""].filter(Boolean).join("\n"));
    const decided = approvals.some(({ by }) => by === caller());
    this.decision.hidden = state !== "pending" || mine(request) || decided || !may("subjects:approve");
    this.withdrawal.hidden = ENDED.includes(state) || !mine(request) || !may("subjects:request");
    this.clip.replaceChildren(...(clip && mine(request) && may("subjects:request") ? [
      element("a", { href: clip.href, download: `${request.id}.mp4`, "aria-label": `Download the clip of ${this.title.toLowerCase()}` }, "Download the clip"),
      ` ${clip.frames} pictures: ${clip.shown} certain, ${clip.doubtful} doubtful, ${clip.grey} grey. Look at it before you hand it out.`] : []));
    this.clip.hidden = !this.clip.hasChildNodes();
    if (focused && !document.activeElement?.checkVisibility()) this.heading.focus(); // what had the focus is gone
  }

  async decide(verdict) {
    const note = this.note.value.trim();
    setFault(this.note, note ? "" : "Say what you checked, or why not.");
    if (!note) return this.note.focus();
    await this.act(async () => {
      const { body } = await call(`${this.path}/approvals`, { method: "POST", json: { verdict, note }, headers: { "Idempotency-Key": newKey() } });
      this.take(body);
    });
  }

  async withdraw() {
    if (!(await confirmed(`Withdraw ${this.title.toLowerCase()}? Its clip is deleted.`, "Keep it", "Withdraw the request"))) return;
    await this.act(async () => {
      await call(this.path, { method: "DELETE" });
      this.take((await call(this.path)).body);
    });
  }

  async act(done) {
    if (this.acting) return;
    this.acting = true;
    try {
      say(this.fault, "");
      await done();
    } catch (error) {
      say(this.fault, message(error));
    } finally {
      this.acting = false;
      this.changed();
    }
  }
}

function mine({ requested_by: by }) {
  return by === caller();
}

function asked({ kind, camera, target, box, captured_at: at, since, until }) {
  const size = [box.right - box.left, box.bottom - box.top].map(Math.round).join("×");
  const seconds = Math.round((Date.parse(until) - Date.parse(since)) / 100) / 10;
  return `${kind} · ${target ?? "box"} of ${size} pixels, ${camera}, ${moment(at, "medium")} · ${seconds} s`;
}
