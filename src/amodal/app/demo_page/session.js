// The session in the browser's storage: the image and all states of the document, so that a reload loses nothing.

const STORE = "session";

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("amodal", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

export class Session {
  constructor(onFailure) {
    this.onFailure = onFailure;
    this.database = opened().catch(() => null);
    this.waiting = null; // the latest content that is not written yet
    this.writing = null;
  }

  /** Write `image` (only when it has changed) and `work`; while a write runs, only the latest content waits. */
  save(content) {
    this.waiting = { ...this.waiting, ...content };
    this.writing ||= this.write().finally(() => { this.writing = null; });
    return this.writing;
  }

  async write() {
    while (this.waiting) {
      const content = this.waiting;
      this.waiting = null;
      try {
        const database = await this.database;
        if (!database) throw new Error("no storage");
        await new Promise((resolve, reject) => {
          const transaction = database.transaction(STORE, "readwrite");
          for (const [key, value] of Object.entries(content)) transaction.objectStore(STORE).put(value, key);
          transaction.oncomplete = resolve;
          transaction.onerror = () => reject(transaction.error);
          transaction.onabort = () => reject(transaction.error);
        });
      } catch {
        this.onFailure();
        return;
      }
    }
  }

  /** What was written, { image, work, previous }, or null. */
  async load() {
    const database = await this.database;
    if (!database) return null;
    return new Promise((resolve) => {
      const store = database.transaction(STORE).objectStore(STORE);
      const [image, work, previous] = ["image", "work", "previous"].map((key) => store.get(key));
      previous.onsuccess = () => resolve(image.result && work.result ? { image: image.result, work: work.result, previous: previous.result } : null);
      previous.onerror = () => resolve(null);
    });
  }
}
