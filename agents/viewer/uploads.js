// Resumable uploads: a client of tus 1.0 (https://tus.io/protocols/resumable-upload), core and creation.

import { problem, request } from "./api.js";

const VERSION = { "Tus-Resumable": "1.0.0" };
const CHUNK = 8 * 1024 * 1024; // bytes of one PATCH: what is sent again at most
const SHORTEST_PAUSE = 500, LONGEST_PAUSE = 15_000; // ms between two attempts
const AGAIN = [408, 409, 423, 429, 500, 502, 503, 504]; // slow, another offset, locked, too many, or out of order for now

// Sends a file; resolves with the upload's address. After a lost connection it asks how much has arrived and goes on
// from there, until `signal` ends it; what has arrived is then deleted. progress(bytes that have arrived, whether it
// waits for the network).
export async function upload(file, { signal, progress }) {
  const address = await persist(signal, () => progress(0, true), () => create(file, signal));
  let offset = 0, sure = true;
  try {
    while (offset < file.size) {
      await persist(signal, () => progress(offset, true), async () => {
        if (!sure) offset = await arrived(address, signal);
        sure = false;
        if (offset < file.size) offset = await send(address, file, offset, signal);
        sure = true;
      });
      progress(offset, false);
    }
  } catch (error) {
    await discard(address);
    throw error;
  }
  return address;
}

// What has arrived is deleted.
export async function discard(address) {
  await request(address, { method: "DELETE", headers: VERSION }).catch(() => {});
}

async function create(file, signal) {
  const metadata = [`filename ${base64(file.name)}`, ...(file.type ? [`filetype ${base64(file.type)}`] : [])];
  const response = await request("/v1/uploads", {
    method: "POST",
    headers: { ...VERSION, "Upload-Length": file.size, "Upload-Metadata": metadata.join(",") },
    signal,
  });
  if (response.status !== 201) throw await refusal(response);
  const address = new URL(response.headers.get("Location"), location.origin + "/v1/uploads");
  return address.pathname; // always of this bridge
}

async function arrived(address, signal) {
  const response = await request(address, { method: "HEAD", headers: VERSION, signal });
  if (!response.ok) throw await refusal(response);
  return Number(response.headers.get("Upload-Offset"));
}

async function send(address, file, offset, signal) {
  const response = await request(address, {
    method: "PATCH",
    headers: { ...VERSION, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" },
    body: file.slice(offset, offset + CHUNK),
    signal,
  });
  if (response.status !== 204) throw await refusal(response);
  return Number(response.headers.get("Upload-Offset"));
}

async function refusal(response) {
  const error = await problem(response);
  error.pause = Number(response.headers.get("Retry-After")) * 1000;
  return error;
}

// Try until it works; what the bridge refuses for good is thrown.
async function persist(signal, waits, attempt) {
  for (let pause = SHORTEST_PAUSE; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      return await attempt();
    } catch (error) {
      const lost = error instanceof TypeError; // what fetch throws where nothing answers
      if (signal.aborted || !(lost || AGAIN.includes(error.status))) throw error;
      waits();
      await rest(Math.max(pause, error.pause || 0), signal);
    }
  }
}

// Until the time is over, the network is back or the signal ends it.
function rest(time, signal) {
  return new Promise((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(done, time);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
