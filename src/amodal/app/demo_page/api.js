// Requests to the server. The image is uploaded once; a server that has forgotten it gets it again.

const TRIES_WHILE_BUSY = 3;

/** An error whose message says what to do. */
export class ServerError extends Error {
  constructor(status, line) {
    super(line);
    this.status = status;
  }
}

const ADVICE = {
  401: "Open the link that the command printed again; it contains the access token.",
  408: "The connection is too slow; try a smaller image.",
  413: "The image is too large for this server; make it smaller and open it again.",
  503: "The server has too much to do; try again in a moment.",
};

/** A request: GET without a body, otherwise POST. */
async function send(path, body) {
  const options = { method: body === undefined ? "GET" : "POST" };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) Object.assign(options, { headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  for (let tries = 1; ; tries += 1) {
    let response;
    try {
      response = await fetch(path, options);
    } catch {
      throw new ServerError(0, "The server cannot be reached. Your work is kept in this browser: start the server again, and repeat the last step.");
    }
    if (response.ok) return response;
    if (response.status === 503 && tries < TRIES_WHILE_BUSY) {
      await new Promise((resolve) => { setTimeout(resolve, 1000 * Number(response.headers.get("retry-after") || 1)); });
      continue;
    }
    const text = await response.text();
    let line = text;
    try {
      line = JSON.parse(text).error || text;
    } catch { // the text itself is the line, unless it is a page of a proxy
      if (text.trimStart().startsWith("<")) line = "";
    }
    throw new ServerError(response.status, ADVICE[response.status] || line || `The server answered ${response.status}. Your work is kept in this browser; try again in a moment.`);
  }
}

export class Server {
  constructor() {
    this.key = null;
    this.image = null; // { blob, name }
  }

  async about() { return (await send("api/about")).json(); }

  /** Upload an image; returns its name and its size [H, W]. The image in use stays if this fails. */
  async open(blob, name) {
    const form = new FormData();
    form.append("image", blob, name);
    const opened = await (await send("api/images", form)).json();
    Object.assign(this, { key: opened.key, image: { blob, name } });
    return opened;
  }

  /** Send a request about the image. */
  async request(path, body) {
    const key = this.key;
    try {
      if (key === null) throw new ServerError(404, "");
      return await send(`api/images/${key}/${path}`, body);
    } catch (error) {
      if (error.status !== 404 || !this.image) throw error;
      if (this.key === key) await this.open(this.image.blob, this.image.name); // the server has forgotten the image
      return send(`api/images/${this.key}/${path}`, body);
    }
  }

  async ask(path, body) { return (await this.request(path, body)).json(); }

  async download(form, body) { return (await this.request(`export/${form}`, body)).blob(); }

  /** The image as the server decodes it, for formats that the browser does not know. */
  async view() { return (await this.request("view")).blob(); }
}
