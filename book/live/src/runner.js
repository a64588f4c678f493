// Asks the worker; one promise per question.

export class Runner {
  constructor(url) {
    this.waiting = new Map();
    this.next = 0;
    this.worker = new Worker(url, { type: "module" });
    this.worker.onmessage = ({ data }) => this.answer(data);
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message || "the worker stopped"));
      this.waiting.clear();
    };
  }

  answer({ id, result, error, progress }) {
    const asked = this.waiting.get(id);
    if (!asked) return;
    if (progress !== undefined) return asked.progress?.(progress);
    this.waiting.delete(id);
    if (error) asked.reject(new Error(error));
    else asked.resolve(result);
  }

  ask(task, value, progress) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, progress });
      this.worker.postMessage({ id, task, value });
    });
  }
}
