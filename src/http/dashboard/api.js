// The reports, as the service answers them.

/** What came instead of a report: a problem document (RFC 9457), or no answer at all. */
export class Problem extends Error {
  constructor(title, detail = "", errors = [], status = 0) {
    super(title);
    this.title = title;
    this.detail = detail;
    this.errors = errors;
    this.status = status;
  }
}

const KEY = "traffic-api-key";

/** The key that goes with every question; it stays in this tab and is gone when the tab is closed. */
export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setKey(text) {
  if (text === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, text);
}

function headers() {
  const text = key();
  return text === "" ? { accept: "application/json" } : { accept: "application/json", authorization: `Bearer ${text}` };
}

/**
 * Reads `api/traffic/<path>`; parameters without a value are left out.
 * Returns the report, how fresh it is, or throws a Problem.
 */
export async function read(path, parameters, signal) {
  const url = new URL(`api/traffic/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  let response;
  try {
    response = await fetch(url, { signal, headers: headers() });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service can't be reached", "Is it running, and are you online?");
  }
  let body;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The answer can't be read", `It has status ${response.status} and is not JSON.`);
  }
  if (!response.ok) {
    const errors = Array.isArray(body?.errors) ? body.errors : [];
    throw new Problem(body?.title ?? `The service answered with status ${response.status}`, body?.detail, errors, response.status);
  }
  const freshness = {
    completeThrough: response.headers.get("data-complete-through"),
    rowsSpooled: Number(response.headers.get("rows-spooled") ?? 0),
  };
  return { report: body, freshness };
}
