// Subject requests: a clip of one person is asked for, approved by others, and fetched by who asked.

import { call, message } from "./api.js";
import { byId, say } from "./elements.js";
import { SubjectRequest } from "./request.js";
import { RequestForm } from "./request_form.js";
import { may } from "./session.js";

const LOOK = 3000; // ms between two looks at the list
const MOST = 50; // newest requests on the page
const ASKING = ["subjects:request", "cameras:read", "audit:read"]; // what a new request wants

const list = byId("request-list");
const shown = new Map();
let form = null;
let timer = null;

export function enter() {
  byId("request-form").hidden = !ASKING.every(may);
  byId("request-scopes").hidden = !may("subjects:request") || ASKING.every(may);
  if (form === null && !byId("request-form").hidden) form = new RequestForm(byId("request-form"), look);
  if (timer === null) {
    timer = setInterval(look, LOOK);
    look();
  }
}

export function leave() {
  clearInterval(timer);
  timer = null;
  shown.clear();
  list.replaceChildren();
}

// At the session's end.
export function forget() {
  form?.close();
  form = null;
}

async function look() {
  try {
    const { body } = await call(`/v1/subject-requests?limit=${MOST}`, { signal: AbortSignal.timeout(10_000) });
    if (timer === null) return; // left in the meantime
    show(body.items);
  } catch (error) {
    if (timer !== null) say(byId("requests-status"), message(error));
  }
}

// The newest first. What is there stays where it is, so that nobody loses the place.
function show(requests) {
  const ids = new Set(requests.map(({ id }) => id));
  for (const [id, { root }] of shown) {
    if (ids.has(id)) continue;
    root.remove();
    shown.delete(id);
  }
  requests.forEach((request, place) => {
    if (!shown.has(request.id)) {
      shown.set(request.id, new SubjectRequest(request, look));
      list.insertBefore(shown.get(request.id).root, list.children[place] ?? null);
    }
    shown.get(request.id).take(request);
  });
  const waiting = requests.filter(({ state }) => state === "pending").length;
  say(byId("requests-status"), waiting ? `${waiting} waiting for approval` : "None waits for approval");
  byId("no-requests").hidden = requests.length > 0;
}
