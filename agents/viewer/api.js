// Calls of the API, under the session's cookie.

const PAGE = 1000; // items asked for at once

const listeners = [];

// What the API refused. `detail` says what to do; `faults`: [[field, text], …] where it names fields.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.title ?? `The bridge answered ${status}.`);
    this.status = status;
    this.faults = (body.errors ?? []).map(({ field, detail, remedy }) => [field, remedy === detail ? detail : `${detail}; ${remedy}`]);
  }
}

// The session has ended, or never began.
export function whenUnauthorized(listener) {
  listeners.push(listener);
}

// The response, whatever it says but 401; TypeError where the bridge does not answer.
export async function request(path, options = {}) {
  const response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  if (response.status === 401) listeners.forEach((listener) => listener());
  return response;
}

// Its JSON, and its entity tag; Problem where it is refused.
export async function call(path, { method = "GET", json, headers = {}, ...options } = {}) {
  const response = await request(path, {
    method,
    headers: { Accept: "application/json", ...(json === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
    body: json === undefined ? undefined : JSON.stringify(json),
    ...options,
  });
  if (!response.ok) throw await problem(response);
  const body = response.status === 204 ? null : await response.json();
  return { body, etag: response.headers.get("ETag"), response };
}

// Every item of a resource that comes in pages; `query`: its filters.
export async function all(path, query = {}) {
  const items = [];
  let next = null;
  do {
    const { body } = await call(`${path}?${new URLSearchParams({ ...query, limit: PAGE, ...(next === null ? {} : { cursor: next }) })}`);
    items.push(...body.items);
    next = body.next ?? null;
  } while (next !== null);
  return items;
}

export async function problem(response) {
  return new Problem(response.status, await response.json().catch(() => ({})));
}

export function message(error) {
  return error instanceof Problem ? error.message : "The bridge does not answer. Try again.";
}

// A new Idempotency-Key. (randomUUID exists in secure contexts only.)
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
