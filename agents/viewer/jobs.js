// Jobs: made, watched, cancelled; their masked results shown and fetched.

import { call, message } from "./api.js";
import { byId, say } from "./elements.js";
import { Job } from "./job.js";
import { JobForm } from "./job_form.js";
import { may } from "./session.js";

const LOOK = 3000; // ms between two looks at the list
const MOST = 50; // newest jobs on the page

const list = byId("job-list");
const shown = new Map();
let form = null;
let timer = null;

export function enter() {
  byId("job-form").hidden = !(may("jobs:write") && may("uploads:write"));
  if (form === null && !byId("job-form").hidden) form = new JobForm(byId("job-form"), () => look());
  if (timer === null) {
    timer = setInterval(look, LOOK);
    look();
  }
}

// A file that is being sent goes on.
export function leave() {
  clearInterval(timer);
  timer = null;
  for (const job of shown.values()) job.close();
  shown.clear();
  list.replaceChildren();
}

// At the session's end.
export function forget() {
  form?.close();
  form = null;
  byId("job-form").replaceChildren();
}

async function look() {
  try {
    const { body } = await call(`/v1/jobs?limit=${MOST}`, { signal: AbortSignal.timeout(10_000) });
    if (timer === null) return; // left in the meantime
    show(body.items);
    summarize();
  } catch (error) {
    if (timer !== null) say(byId("jobs-status"), message(error));
  }
}

// The newest first. What is there stays where it is, so that nobody loses the place.
function show(jobs) {
  const ids = new Set(jobs.map(({ id }) => id));
  for (const [id, job] of shown) {
    if (ids.has(id)) continue;
    job.close();
    job.root.remove();
    shown.delete(id);
  }
  jobs.forEach((job, place) => {
    if (!shown.has(job.id)) {
      shown.set(job.id, new Job(job, summarize));
      list.insertBefore(shown.get(job.id).root, list.children[place] ?? null);
    }
    shown.get(job.id).take(job);
  });
  [...shown.values()].filter((job) => job.running).forEach((job, i) => job.watch(i < Job.MOST_STREAMS));
  byId("no-jobs").hidden = jobs.length > 0;
}

function summarize() {
  const states = [...shown.values()].map(({ job }) => job.state);
  const counts = ["running", "queued"].map((state) => [states.filter((other) => other === state).length, state]);
  const parts = counts.filter(([count]) => count).map(([count, state]) => `${count} ${state}`);
  say(byId("jobs-status"), parts.join(" · ") || "None is running");
}
