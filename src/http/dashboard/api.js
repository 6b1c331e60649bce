// The reports, as the service answers them.

/** What came instead of a report: a problem document (RFC 9457), or no answer at all. */
export class Problem extends Error {
  constructor(title, detail = "", errors = []) {
    super(title);
    this.title = title;
    this.detail = detail;
    this.errors = errors;
  }
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
    response = await fetch(url, { signal, headers: { accept: "application/json" } });
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
    throw new Problem(body?.title ?? `The service answered with status ${response.status}`, body?.detail, errors);
  }
  const freshness = {
    completeThrough: response.headers.get("data-complete-through"),
    rowsSpooled: Number(response.headers.get("rows-spooled") ?? 0),
  };
  return { report: body, freshness };
}
