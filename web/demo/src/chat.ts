// A conversation with a chat model: what was said, and the answer under way with its blanks.

import type { EsoLM, Generation, Header, Message, ModelInfo } from "esolm";
import { announce } from "./announce";
import { button, element, setText } from "./dom";
import { figure, plural } from "./words";

/** What the page does for it: it loads the model, and lets one thing run at a time. */
export interface ChatHooks {
  ready(signal: AbortSignal): Promise<EsoLM>;
  alone(task: (signal: AbortSignal) => Promise<void>): Promise<void>;
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
      // A line break takes Shift, as in other programs for chats.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void this.send();
    });
    button("chat-stop").addEventListener("click", () => this.hooks.stop());
    button("chat-new").addEventListener("click", () => this.restart());
  }

  /** Shows the tab for a model that answers, and hides it for any other. A new model knows nothing of what was said before. */
  show(info: ModelInfo | null): void {
    const can = info?.chat ?? null;
    element("chat", HTMLElement).hidden = can === null;
    element("chat-link", HTMLElement).hidden = can === null;
    element("chat-thinking-field", HTMLElement).hidden = !can?.thinking;
    if (info !== null) this.restart();
  }

  private restart(): void {
    this.hooks.stop();
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
    await this.hooks.alone(async (signal) => {
      const model = await this.hooks.ready(signal);
      const run = model.chat(this.withSystem(), this.options());
      // Stopping keeps what was written, so the run is ended rather than thrown away.
      signal.addEventListener("abort", () => void run.stop(), { once: true });
      if (signal.aborted) void run.stop();
      const text = await this.follow(run, answer);
      this.messages.push({ role: "assistant", content: text });
      isAnswered = true;
    });
    button("chat-stop").hidden = true;
    if (isAnswered) return;
    // The question is put back, so that nothing that was typed is lost.
    if (this.messages.at(-1) === asked) {
      this.messages.pop();
      answer.root.parentElement?.remove();
      question.root.remove();
      this.field.value = content;
    }
    setText("chat-status", "");
  }

  private async follow(run: Generation, answer: Answer): Promise<string> {
    answer.begin(await run.header);
    let written = 0;
    for await (const step of run) {
      written += step.revealed.length;
      answer.reveal(step.revealed);
      setText("chat-status", `${plural(written, "token")}${step.seconds > 0 ? `, ${figure(written / step.seconds)} a second` : ""}`);
    }
    const { text, seconds, interrupted } = await run.result;
    const said = text[0] ?? "";
    answer.end(said);
    const rate = seconds > 0 ? `, ${figure(written / seconds)} a second` : "";
    setText("chat-status", `${plural(written, "token")}${rate}${interrupted ? "; stopped" : ""}.`);
    announce(interrupted ? "The answer was stopped." : `The answer: ${said}`);
    return said;
  }

  private withSystem(): Message[] {
    const system = element("chat-system", HTMLTextAreaElement).value.trim();
    return system === "" ? [...this.messages] : [{ role: "system", content: system }, ...this.messages];
  }

  private options(): { thinking?: boolean } {
    return element("chat-thinking-field", HTMLElement).hidden ? {} : { thinking: element("chat-thinking", HTMLInputElement).checked };
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
      copy.addEventListener("click", () => {
        navigator.clipboard.writeText(body.textContent).then(
          () => announce("The answer is copied."),
          () => announce("The browser did not let the page copy."),
        );
      });
      root.append(copy);
    }
    this.log.append(root);
    root.scrollIntoView({ block: "nearest" });
    return { root, body };
  }
}

/** An answer under way: the tokens that are known, with a blank for each that is still to come up to the end of the block that is written. */
class Answer {
  private first = 0;
  private length = 0;
  private block = 0;
  private readonly cells: HTMLElement[] = [];

  constructor(readonly root: HTMLElement) {}

  begin({ known, length, block_size }: Header): void {
    // The conversation so far comes first.
    this.first = known[0]?.length ?? 0;
    this.length = length - this.first;
    this.block = block_size ?? this.length;
    this.grow(1);
  }

  reveal(revealed: { position: number; text: string }[]): void {
    for (const cell of this.root.querySelectorAll(".fresh")) cell.classList.remove("fresh");
    for (const { position, text } of revealed) {
      const place = position - this.first;
      if (place < 0) continue;
      this.grow(place + 1);
      const cell = this.cells[place]!;
      cell.className = "cell known diffusion fresh";
      cell.firstElementChild!.textContent = text;
    }
    this.root.scrollIntoView({ block: "nearest" });
  }

  end(text: string): void {
    this.root.textContent = text;
  }

  /** Blanks up to the end of the block of the last of so many tokens. */
  private grow(tokens: number): void {
    const end = Math.min(Math.ceil(tokens / this.block) * this.block, this.length);
    while (this.cells.length < end) {
      const cell = document.createElement("span");
      const token = document.createElement("span");
      cell.className = "cell masked";
      token.className = "token";
      token.dataset.width = "\u2007\u2007\u2007";
      cell.append(token);
      this.cells.push(cell);
      this.root.append(cell);
    }
  }
}
