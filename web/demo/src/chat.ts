// A conversation with a chat model: the messages so far, and the answer in progress with its blanks.

import type { Answering, ChatStep, EsoLM, Message, ModelInfo } from "esolm";
import { alertProblem, announce } from "./announce";
import { button, element, setText } from "./dom";
import { count, figure, plural } from "./words";

/** What the page provides. */
export interface ChatHooks {
  /** Runs a task with the model, after ending any other task. */
  withModel(task: (model: EsoLM, signal: AbortSignal) => Promise<void>): Promise<void>;
  stop(): void;
}

export class Chat {
  private readonly log = element("chat-log", HTMLElement);
  private readonly field = element("chat-text", HTMLTextAreaElement);
  private readonly messages: Message[] = [];

  constructor(private readonly hooks: ChatHooks) {
    element("chat-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      void this.send();
    });
    this.field.addEventListener("keydown", (event) => {
      // Shift+Enter inserts a line break, as in other chat programs.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void this.send();
    });
    button("chat-stop").addEventListener("click", () => this.hooks.stop());
    button("chat-new").addEventListener("click", () => this.restart());
  }

  /** Shows the tab for chat models and hides it for others. If the model is lost, a conversation stays: the next question loads the model again. */
  show(info: ModelInfo | null): void {
    if (info === null && this.log.childElementCount > 0) return;
    const can = info?.chat ?? null;
    element("chat", HTMLElement).hidden = can === null;
    element("chat-link", HTMLElement).hidden = can === null;
    element("chat-thinking-field", HTMLElement).hidden = !can?.think;
  }

  /** Starts a new conversation. */
  restart(): void {
    if (!button("chat-stop").hidden) this.hooks.stop();
    this.messages.length = 0;
    this.log.replaceChildren();
    setText("chat-status", "");
  }

  private async send(): Promise<void> {
    const content = this.field.value.trim();
    if (content === "" || !button("chat-stop").hidden) return;
    const asked: Message = { role: "user", content };
    this.messages.push(asked);
    this.field.value = "";
    const question = this.bubble("user");
    question.body.textContent = content;
    const answer = new Answer(this.bubble("assistant").body);
    button("chat-stop").hidden = false;
    setText("chat-status", "The conversation is read.");
    let isAnswered = false;
    await this.hooks.withModel(async (model, signal) => {
      const run = model.chat(this.withSystem(), this.options());
      // Stopping keeps what has been written, so the run is ended rather than cancelled.
      signal.addEventListener("abort", () => void run.stop(), { once: true });
      if (signal.aborted) void run.stop();
      const content = await this.follow(run, answer);
      answer.root.parentElement!.dataset.answer = content;
      // The visitor may have started another conversation meanwhile.
      if (this.messages.at(-1) === asked) this.messages.push({ role: "assistant", content });
      isAnswered = true;
    });
    button("chat-stop").hidden = true;
    if (isAnswered) return;
    if (this.messages.at(-1) === asked) {
      this.messages.pop();
      answer.root.parentElement?.remove();
      question.root.remove();
      // The question is put back into the input, unless the next one is being typed there.
      if (this.field.value === "") this.field.value = content;
    }
    setText("chat-status", "");
  }

  private async follow(run: Answering, answer: Answer): Promise<string> {
    const { dropped, cached, tokens } = await run.prompt;
    const left = dropped > 0 ? ` The oldest ${plural(dropped, "message")} no longer fit and were left out.` : "";
    setText("chat-status", `${plural(tokens.length, "token")} of conversation, ${count(cached)} of them in the cache.${left}`);
    for await (const step of run) {
      answer.grow(step);
      setText("chat-status", `${plural(step.tokens, "token")}${rate(step.tokens, step.seconds)}.${left}`);
    }
    const { content, reasoning, tokens: written, seconds, finish } = await run.result;
    answer.end(content, reasoning);
    const how = finish === "interrupted" ? "; stopped" : finish === "length" ? "; cut off at its longest" : "";
    setText("chat-status", `${plural(written.length, "token")}${rate(written.length, seconds)}${how}.${left}`);
    announce(finish === "interrupted" ? "The answer was stopped." : `The answer: ${content}`);
    return content;
  }

  private withSystem(): Message[] {
    const system = element("chat-system", HTMLTextAreaElement).value.trim();
    return system === "" ? [...this.messages] : [{ role: "system", content: system }, ...this.messages];
  }

  private options(): { think?: boolean } {
    return element("chat-thinking-field", HTMLElement).hidden ? {} : { think: element("chat-thinking", HTMLInputElement).checked };
  }

  private bubble(role: "user" | "assistant"): { root: HTMLElement; body: HTMLElement } {
    const root = document.createElement("li");
    const name = document.createElement("p");
    const body = document.createElement("div");
    root.className = `said ${role}`;
    name.className = "who";
    name.textContent = role === "user" ? "You" : "The model";
    body.className = "body cells";
    root.append(name, body);
    if (role === "assistant") {
      const copy = document.createElement("button");
      copy.type = "button";
      copy.className = "quiet";
      copy.textContent = "Copy";
      copy.addEventListener("click", () => void copyAnswer(root.dataset.answer ?? body.textContent));
      root.append(copy);
    }
    this.log.append(root);
    intoView(root);
    return { root, body };
  }
}

async function copyAnswer(text: string): Promise<void> {
  try {
    // There is no clipboard on insecure origins.
    await navigator.clipboard.writeText(text);
    announce("The answer is copied.");
  } catch {
    alertProblem("The browser did not let the page copy. Select the answer and copy it.");
  }
}

/** Scrolls at once: while the page were still moving, the next step would find the text out of view. */
function intoView(target: HTMLElement): void {
  target.scrollIntoView({ block: "nearest", behavior: "instant" });
}

const rate = (tokens: number, seconds: number): string => (seconds > 0 ? `, ${figure(tokens / seconds)} a second` : "");

/** An answer in progress: the text so far, followed by the block that fills in any order. */
class Answer {
  private readonly written = document.createElement("span");
  private readonly open = document.createElement("span");

  constructor(readonly root: HTMLElement) {
    root.append(this.written, this.open);
  }

  grow({ text, open }: Pick<ChatStep, "text" | "open">): void {
    const isFollowed = this.isEndInView();
    if (text !== "") {
      const fresh = cell("known diffusion fresh", text);
      this.written.querySelector(".fresh")?.classList.remove("fresh", "known", "diffusion");
      this.written.append(fresh);
    }
    this.open.replaceChildren(...open.map((token) => (token === null ? cell("masked") : cell("known diffusion", token))));
    if (isFollowed) intoView(this.open);
  }

  /** Whether the end of the answer can be seen. If the visitor has scrolled away from it, the page stays where it is. */
  private isEndInView(): boolean {
    // There is none if a new conversation was started meanwhile.
    const log = this.root.closest(".chat-log")?.getBoundingClientRect();
    if (!log) return false;
    const { bottom } = this.open.getBoundingClientRect();
    // Scroll positions are rounded.
    return bottom >= Math.max(0, log.top) && bottom <= Math.min(innerHeight, log.bottom) + 1;
  }

  end(content: string, thoughts: string | undefined): void {
    const parts: Node[] = [document.createTextNode(content)];
    if (thoughts !== undefined && thoughts !== "") {
      const details = document.createElement("details");
      const summary = document.createElement("summary");
      summary.textContent = "What it thought first";
      details.append(summary, thoughts);
      parts.unshift(details);
    }
    this.root.replaceChildren(...parts);
  }
}

function cell(kind: string, text?: string): HTMLElement {
  const outer = document.createElement("span");
  const token = document.createElement("span");
  outer.className = `cell ${kind}`;
  token.className = "token";
  if (text === undefined) token.dataset.width = "\u2007\u2007\u2007";
  else token.textContent = text;
  outer.append(token);
  return outer;
}
