/**
 * What goes into the engine and what comes out of it. What comes out keeps the field names of the engine's JSON (snake_case), the
 * same as in its trace files; what goes in is camelCase.
 */

/** A model's architecture: an Eso-LM, a masked diffusion model, an autoregressive one, or one that writes block by block. */
export type Family = "esolm" | "mdlm" | "ar" | "bd3lm" | "setdlm";
/** What a step does: put given tokens into the cache, draw tokens at any positions at once, or draw the next one. */
export type Phase = "prompt" | "diffusion" | "sequential";
/**
 * Which positions diffusion writes in which step. `"first-hitting"` is for models that write block by block: one token a step. With `"confidence"` an MDLM or
 * a BD3-LM draws a token for every place that is left, and keeps those that it is most sure of.
 */
export type Schedule = "binomial" | "blocks" | "blocks-shuffled" | "left-to-right" | "block" | "block-autoregressive" | "first-hitting" | "confidence";

/** What tokens are compared by, where confidence chooses. */
export type Confidence = "model" | "tempered" | "drawn" | "random" | "leftmost";
/** Where the blocks of a decoder begin, and what the end of its prompt sees of the first one. */
export type PromptTail = "own" | "shared" | "blind";

/** A GPU as WebGPU describes it. */
export interface Adapter {
  name: string;
  backend: string;
  driver: string;
  kind: "discrete" | "integrated" | "virtual" | "software" | "unknown";
  limits: { [name: string]: number };
}

/** A GPU that `"auto"` tried, and left for the next device. */
export interface PassedOver {
  adapter: Adapter;
  /**
   * What it failed at: its driver gave no device, it was lost, it had too little memory, its driver refused a kernel, or the kernels do not
   * take a shape of the model on it.
   */
  fault: "refused" | "lost" | "memory" | "kernel" | "shape";
  /** The same in words, beside the name of the GPU. */
  reason: string;
}

/** What computes a model. */
export interface DeviceInfo {
  /** `null` on the CPU. */
  adapter: Adapter | null;
  /** The kernels in use, `null` on the CPU. */
  variants: { few: string; many: string; attention: string | null; many_attention: string; many_rows: number; many_of_one: number } | null;
  /** How weights are held. */
  weights: "f32" | "f16" | "q8" | "q4";
  /** How activations enter products with them. */
  activations: "f32" | "q8";
  /** How the KV cache is stored. */
  kv_cache: "f32" | "f16";
  /** Whether the CPU computes because no GPU was found that works. */
  is_fallback: boolean;
  /** The GPUs that `"auto"` tried before, and left. */
  passed_over: PassedOver[];
  /** All of this in one line for people. */
  text: string;
}

/** What this browser has to compute with. */
export interface DeviceFacts {
  /** Whether the browser has WebGPU. */
  webgpu: boolean;
  /** `null` without one; `reason` says why. */
  adapter: Adapter | null;
  /** Whether the GPU computes in f16. The engine does not need it. */
  shader_f16: boolean;
  /** Why there is no adapter. */
  reason: string | null;
}

/** A loaded model. */
export interface ModelInfo {
  family: Family;
  /** Which tokens see which; `"mixed"` for an Eso-LM (A), whose clean tokens see each other while diffusion writes, so that it caches none of them then. */
  attention: "causal" | "bidirectional" | "mixed" | "block" | "set";
  /** Width of the network. */
  hidden: number;
  n_blocks: number;
  n_heads: number;
  /** Longest text, in tokens. */
  length: number;
  /** Number of tokens, the mask token included. */
  vocab_size: number;
  mask_index: number;
  /** The share of tokens that diffusion writes by default; `null` unless it is an Eso-LM. */
  alpha_0: number | null;
  /** Tokens of a block; `null` unless it is a BD3-LM. */
  block_size: number | null;
  /** Number of parameters. */
  parameters: number;
  /** The beginning-of-text token. */
  bos: number | null;
  /** The end-of-text token. */
  eos: number | null;
  has_tokenizer: boolean;
  /** How the checkpoint recommends to sample (`esolm` in its generation_config.json): what is used where a request does not say. */
  recommended: { alpha_0?: number; temperature?: number; top_k?: number; top_p?: number; min_p?: number };
  /** Size of the weights file, bytes. */
  file_bytes: number;
  /** Of a model that can be talked to; `think` says whether its chat template asks if it is to think first. */
  chat: { think: boolean } | null;
  device: DeviceInfo;
}

/** One sequence of a plan. `order` lists positions as they become known; a place in it is an entry, for an Eso-LM also the cache slot. */
export interface PlanSequence {
  /** With the seed the key of its random numbers. */
  sequence: number;
  /** Every position once, the given ones first. */
  order: number[];
  /** The given tokens, those of the first entries. */
  known: number[];
  /** `[phase, clean, start, end]` in entries (of a BD3-LM `clean` is a position): reads tokens from `clean` to `start`, draws those from `start` up to, not including, `end`. A fifth number, where confidence chooses: at least so many of them become known. */
  steps: ([Phase, number, number, number] | [Phase, number, number, number, number])[];
}

/** Which positions are computed and drawn in which step. It does not depend on the network. */
export interface Plan {
  esolm_plan: 1;
  family: Family;
  /** Of an Eso-LM (A), whose clean tokens see each other while diffusion writes. */
  attention?: "mixed";
  length: number;
  /** Tokens of a block, of a BD3-LM. */
  block_size?: number;
  /** Of a decoder that is a BD3-LM. */
  prompt_tail?: PromptTail;
  /** Slots of the cache, where a BD3-LM writes more than its context. */
  window?: number;
  /** Whether entry 0 is a token before the text (some AR models). */
  lead: boolean;
  mask_index: number;
  vocab_size: number;
  /** How confidence chooses what becomes known, where it does. */
  reveal?: { by?: Confidence; threshold?: number };
  /** How confidence goes through the texts of a SetDLM. */
  sets?: { window: number; context: number; joining: "position" | "time" | "order"; sees_right: boolean };
  sequences: PlanSequence[];
}

/** What decides what is written. A further one comes where texts are drawn again. */
export interface Header {
  esolm_trace: 1;
  /** Version of the engine. */
  esolm: string;
  /** Name of the model: the option `name` of `load`, or else what its address says. */
  model: string;
  /** The family that the text is written as. */
  family: Family;
  /** Tokens of a text. */
  length: number;
  /** Tokens of a block, of a BD3-LM. */
  block_size?: number;
  /** Where a BD3-LM writes more than its context: each block sees the last so many tokens, which is not exact. */
  window?: number;
  alpha_0: number;
  /** The steps T that were asked for, before those that draw nothing were dropped. */
  steps: number;
  schedule: Schedule;
  /** Stretches of the schedule `block-autoregressive`. */
  sar_steps?: number;
  /** Of the schedule `confidence`: what tokens were compared by. Traces of earlier versions do not have it. */
  confidence?: Confidence;
  /** Of the schedule `confidence`, where it was given. */
  confidence_threshold?: number;
  /** Of a decoder that is a BD3-LM. */
  prompt_tail?: PromptTail;
  /** Tokens that were never drawn; only where there are any. */
  suppress_tokens?: number[];
  /** Tokens that could be drawn, but only ever with confidence 0; only where there are any. */
  begin_suppress_tokens?: number[];
  /** `null` keeps all tokens; traces of earlier versions have no `top_k` and `min_p`. */
  top_k?: number | null;
  top_p: number | null;
  min_p?: number | null;
  /** Only where the token at which the mass reaches `top_p` was left out. */
  top_p_crossing?: "drop";
  temperature: number;
  /** A string where a number could not hold it exactly. */
  seed: number | string;
  /** Absolute index of the first text. */
  first: number;
  /** Number of texts. */
  batch: number;
  vocab_size: number;
  mask_index: number;
  /** Passes through the network, so steps that follow; with a `confidence_threshold` at most. */
  nfe: number;
  /** From 0. An infill in which the model ran on at a given word is drawn again, up to 32 times. */
  attempt: number;
  /** The texts that this attempt writes, as indices within the batch; the others stay as they are. */
  texts: number[];
  /** The given tokens of every text, as `[position, token]`. */
  known: [number, number][][];
  /** What the tokenizer made of the first prompt whose words it does not keep. */
  altered?: Altered;
}

/** A tokenizer without capital letters turns "Hello" into "hello". */
export interface Altered {
  /** What was given, from the first word on that is not kept, shortened. */
  given: string;
  /** What the tokens say in its place. */
  kept: string;
}

/** A token that a step drew. */
export interface Revealed {
  /** Index of the text within the batch. */
  sequence: number;
  position: number;
  token: number;
  /** Empty without a tokenizer. */
  text: string;
  /** With `logprobs`: what the model gave the token in this step, before temperature, top-k, top-p and min-p. */
  logprob?: number;
}

/** What one step did. */
export interface Step {
  /** From 0 in each attempt. */
  step: number;
  /** The header's `nfe`. */
  steps: number;
  phase: Phase;
  revealed: Revealed[];
  /** Text and position of each place at which a SetDLM drew by confidence, its window; left out otherwise. */
  window?: [number, number][];
  /** Rows that went through the network, over all texts. */
  rows: number;
  /** Cache slots that hold known tokens after the step, over all texts; 0 for an MDLM, which has no cache. */
  cache_length: number;
  /** Since the run began. */
  seconds: number;
  /** The attempt that it belongs to; `Generation.headers[attempt]` is its header. */
  attempt: number;
}

/** What a run came to. */
export interface Footer {
  /** Every text in natural order; what is not known yet is the mask token. */
  tokens: number[][];
  text: string[];
  /** Whether it was stopped before its last step. */
  interrupted: boolean;
  seconds: number;
  /** The text of every token that occurs, by its number; empty without a tokenizer. */
  pieces: { [token: string]: string };
  /** Passes through the network, over all attempts. */
  nfe: number;
  /** Rows that went through the network, over all attempts. */
  rows: number;
  /** Texts in which the model ran on at a given word even in the last attempt, as indices within the batch. */
  run_on: number[];
  /** Texts that a rule of `stop` or a stop string ended before their length, as indices within the batch; only where there are any. */
  ended?: number[];
  /** Why each text is as long as it is. Not in traces of earlier versions. */
  finish?: ("length" | "stop" | "eos" | "entropy" | "interrupted")[];
  /** With `logprobs`, for each text and token; `null` for what was given. */
  logprobs?: (number | null)[][];
  /** What it cost the GPU; zeros on the CPU. */
  counters: { dispatches: number; submits: number; bytes_read: number; peak_bytes: number };
}

/** What somebody says in a conversation. */
export interface Message {
  /** `"user"`, `"system"`, `"assistant"`, or another role that the model's chat template knows. */
  role: string;
  content: string;
  /** What a model thought before it, where that is not in the content itself. */
  reasoning_content?: string;
}

/** What an answer goes on from. */
export interface ChatPrompt {
  /** What the chat template made of the messages. */
  text: string;
  tokens: number[];
  /** How many of them, from the first on, stand in the cache from before. */
  cached: number;
  /** Messages after the system's that no longer fit the context and were left out. */
  dropped: number;
  /** Tokens of the answer at most. */
  max_tokens: number;
  /** A string where a number could not hold it exactly. */
  seed: number | string;
}

/** A pass of an answer. The answer's text is that of all its steps, one after the other; what is known behind a gap is told anew with each step. */
export interface ChatStep {
  /** From 0. */
  step: number;
  /** Steps that the plan has. */
  steps: number;
  /** Text that joined the answer, up to the first place that is not known. */
  text: string;
  /** The places behind it up to the end of the block under way: the text of each token that is known, `null` where none is. */
  open: (string | null)[];
  /** Tokens of the answer so far, without those behind a gap. */
  tokens: number;
  /** Rows of the pass. */
  rows: number;
  /** Since the answer began. */
  seconds: number;
}

/** An answer. */
export interface Answer {
  /** All that the model wrote, without special tokens. */
  text: string;
  /** What it thought first, where it did. */
  reasoning?: string;
  /** The text without those thoughts. */
  content: string;
  tokens: number[];
  finish: "length" | "stop" | "eos" | "entropy" | "interrupted";
  prompt_tokens: number;
  /** How many of those stood in the cache. */
  cached: number;
  /** Passes of the network. */
  passes: number;
  /** Rows that went through it. */
  rows: number;
  seconds: number;
}

/** How likely a text is. */
export interface Score {
  /** Natural logarithm of the probability. */
  logp: number;
  /** Whether that is exact; otherwise it is a lower bound. */
  exact: boolean;
  tokens: number;
  /** Length in UTF-8. */
  bytes: number;
  nats_per_token: number | null;
  bits_per_byte: number | null;
  /** What the tokenizer made of a text whose words it does not keep; that is what was scored. */
  altered?: Altered;
}

/** A replayed generation. */
export interface Replay {
  /** Of every entry when it was drawn, row by row. */
  logits: Float32Array;
  /** The texts in natural order. */
  sample: number[][];
  /** The texts in the order in which they became known. */
  tokensSorted: number[][];
}

/** How far loading is. */
export interface Progress {
  /** Fetching the wasm module, fetching the model's files, or the engine reading the weights. */
  phase: "wasm" | "download" | "load";
  /** Name of the file. */
  file?: string;
  /** Bytes so far. */
  loaded: number;
  /** Bytes in all; `null` where the server does not say. */
  total: number | null;
  /** Whether the file was kept from an earlier visit. */
  fromCache: boolean;
}

/** A file of a model: a string is its address, an object is taken as JSON. */
export type TextFile = string | URL | Blob | object;
/** The weights: a string is their address. */
export type WeightsFile = string | URL | Blob | ArrayBuffer | Uint8Array<ArrayBuffer>;

/**
 * Where a model comes from:
 * - the address of a folder with `config.json`, `model.safetensors`, `tokenizer.json` and, if it recommends settings, `generation_config.json`;
 * - a model of the Hugging Face hub, as `hf:owner/name`, `hf:owner/name@revision` or the address of its page;
 * - the address of a `.safetensors` file with the other two beside it, or of a Lightning `.ckpt`, which carries its own;
 * - files, such as a visitor drops: those of a folder, or one `.ckpt`;
 * - each file on its own.
 *
 * Weights in several files come with a `model.safetensors.index.json` that names them, in the place of the one `.safetensors` file.
 * Without a tokenizer a model works in token numbers only.
 */
export type Source =
  | string
  | URL
  | FileList
  | File[]
  | {
      config?: TextFile;
      tokenizer?: TextFile;
      generation?: TextFile;
      /** `tokenizer_config.json`, which may hold the chat template. */
      tokenizerConfig?: TextFile;
      /** `chat_template.jinja`, which counts before it: an address or a `Blob`. */
      chatTemplate?: string | URL | Blob;
      weights: WeightsFile;
    };

/** Where the engine runs. */
export interface EngineOptions {
  /** In a worker (the default) or in the caller's thread, which then stands still while the CPU computes. */
  worker?: boolean;
  /** Address of `esolm_web_bg.wasm`; by default beside this module. */
  wasm?: string | URL;
  signal?: AbortSignal;
}

/** Bytes that a model takes. */
export interface MemoryNeeded {
  /** Its weights, and what is computed with while they are read. */
  model: number;
  /** The cache of a text as long as the context. */
  cache: number;
}

/** How to load a model. */
export interface LoadOptions extends EngineOptions {
  /**
   * `"auto"` (the default) takes a GPU if there is one, else the CPU; also where the GPU fails while the model is loaded. `info.device` says
   * which it was, and why.
   */
  device?: "auto" | "gpu" | "cpu";
  /**
   * How weights are held: f16 takes half the memory of f32, q8 about a quarter and q4 a fifth. Default: f32, and of files with 8 or 4 bits the form in which they
   * are stored.
   */
  weights?: "f32" | "f16" | "q8" | "q4";
  /** How activations enter products with q8 and q4 weights, default f32; q8 is for the CPU. */
  activations?: "f32" | "q8";
  /** How the KV cache is stored, default f32. */
  kvCache?: "f32" | "f16";
  /** Kernels to use, for measurements: `"few=rows,many=tile"`. */
  variants?: string;
  /** The raw weights of a `.ckpt` rather than their running average. */
  rawWeights?: boolean;
  /** What a model is whose configuration does not say it: `a2d-qwen3`, `a2d-qwen2` and `a2d-llama` are MDLMs or BD3-LMs. */
  as?: "mdlm" | "bd3lm";
  /** Tokens of a block of such a BD3-LM, or of an `sdar`, whose own are 4. */
  blockSize?: number;
  /** Name of the model, which headers repeat. */
  name?: string;
  /** `"sha256-"` and 64 hexadecimal digits: what the weights file must be; of weights in several files an object with that of each, by its name. */
  hash?: string | Record<string, string>;
  /**
   * Keep downloaded files in the browser's Cache API (the default), so that the next visit needs no network and an interrupted download
   * resumes where it stopped. Where there is no such cache (an insecure address, some private windows) files are held as Blobs while they are needed.
   */
  cache?: boolean;
  onProgress?: (progress: Progress) => void;
}

/** What to write. Where `alpha0`, `topK`, `topP`, `minP` or `temperature` is left out, what the model recommends is used (`ModelInfo.recommended`). */
export interface GenerateOptions {
  /** The beginning of the text, or of each text. */
  prompt?: string | string[];
  /** A text with gaps to fill: `____` for as many tokens as fit, `____{12}` for twelve. */
  infill?: string;
  /** Tokens, default the model's length, of a decoder 128 more than are given. A BD3-LM writes whole blocks; it and a SetDLM can write more than its length. */
  length?: number;
  /** The share of tokens that diffusion writes, 0 to 1. */
  alpha0?: number;
  /**
   * Diffusion steps T, default the length; of a BD3-LM those of each block, without which it draws one token a step; with the schedules `block` and
   * `block-autoregressive` the tokens of a block.
   */
  steps?: number;
  schedule?: Schedule;
  /** Stretches that the schedule `block-autoregressive` writes one after the other, default 1. */
  sarSteps?: number;
  /** Of the schedule `confidence`: tokens that the network is at least this sure of, 0 to 1, become known at once, so that a text may take fewer passes. */
  confidenceThreshold?: number;
  /**
   * Of the schedule `confidence`: what tokens are compared by. The probability at temperature 1 (`"model"`, the default), that after the temperature (the default of
   * SDAR), that with which a token was drawn (the default of a SetDLM), a random number, or nothing, so that the leftmost come first.
   */
  confidence?: Confidence;
  /**
   * Tokens of a block of a BD3-LM, in the place of its own; a network that is decoded as one has none of its own. With the schedule `confidence` an MDLM writes so
   * many before any behind them; default: all at once, of a decoder 32.
   */
  blockSize?: number;
  /**
   * Where the blocks of a decoder that is a BD3-LM begin, and what the end of its prompt sees of the first one: counted from the end of the prompt (`"own"`), or from
   * the beginning of the text, where both see each other (`"shared"`, the default of SDAR) or the prompt sees nothing of it until it is whole (`"blind"`).
   */
  promptTail?: PromptTail;
  /** Tokens that are never drawn, by their numbers or names. */
  suppressTokens?: (number | string)[];
  /** Of the schedule `confidence`: tokens that may be drawn, but with confidence 0, so that they become known last. */
  beginSuppressTokens?: (number | string)[];
  /** Masked places that a SetDLM draws at in a step, from the first one on; default: the most tokens of a set that it was trained for. */
  window?: number;
  /** Lets a SetDLM go through the text in an order that its noise draws, as in training. */
  trainOrder?: boolean;
  /** What a SetDLM sees of a template: both sides of a gap (the default), or what stands left of it. */
  infillContext?: "both" | "left";
  /**
   * What ends a text of a BD3-LM early: a second end-of-text token, or 256 tokens with an entropy below 4 nats. Of a SetDLM the first end-of-text token, or
   * 128 such tokens, once 32 are written. A decoder's text ends with the first end-of-text token that it writes in any case.
   */
  stop?: ("eos" | "entropy")[];
  /** A text ends before the first of these that the model writes, or at its first end-of-text token where that comes before. */
  stopStrings?: string | string[];
  /** Tell with each token the log-probability that the model gave it in the step that drew it. */
  logprobs?: boolean;
  /** Draw from so many of the likeliest tokens, at least 1; those as likely as the last of them stay too. */
  topK?: number;
  /** Draw from the likeliest tokens that together have this probability, of those that `topK` leaves. */
  topP?: number;
  /** Whether the token at which that probability is reached is drawn from too (`"keep"`, the default). */
  topPCrossing?: "keep" | "drop";
  /** Draw from the tokens that are at least this fraction as likely as the likeliest one, 0 to 1. */
  minP?: number;
  temperature?: number;
  /** The same seed gives the same text. A `bigint` or a string may use all 64 bits. */
  seed?: number | bigint | string;
  /** Number of texts, default 1. */
  batch?: number;
  /** Absolute index of the first text, default 0: text i of a batch is what `first: i` gives alone. */
  first?: number;
  /** Open with the beginning-of-text token. Default: yes; with a decoder only where its tokenizer puts the token before every text. */
  bos?: boolean;
  /**
   * Run the network of an Eso-LM or an MDLM as another family would: as an MDLM it attends both ways, computes everything in each step and caches nothing; as
   * a BD3-LM it writes blocks of `blockSize` one after the other, and keeps what is written. It was not trained for either, so this shows what a way of
   * writing costs, not how well it writes.
   */
  decodeAs?: "mdlm" | "bd3lm";
  signal?: AbortSignal;
}

/** How to answer. What says what to write, and where it ends, comes from the conversation and from the model. */
export type ChatOptions = Omit<
  GenerateOptions,
  "prompt" | "infill" | "length" | "batch" | "first" | "bos" | "stop" | "stopStrings" | "logprobs" | "decodeAs" | "window" | "trainOrder" | "infillContext"
> & {
  /** Tokens of an answer at most; default: 1024 of an AR model, 256 of a BD3-LM, 128 of an MDLM, and no more than half the context. */
  maxTokens?: number;
  /** Whether the model thinks before it answers, of models whose template asks (`ModelInfo.chat`). */
  think?: boolean;
};

/** How to score a text. */
export interface ScoreOptions {
  /** The share of tokens in random order, 0 to 1. */
  alpha0?: number;
  /** Number of orders to average over. */
  orders?: number;
  /** Number of draws of the bound. */
  draws?: number;
  seed?: number | bigint | string;
  /** Open with the beginning-of-text token, which is given. Default: as of a generation. */
  bos?: boolean;
  signal?: AbortSignal;
}

/** A text whose middle is scored given the rest. */
export interface Middle {
  prefix: string;
  middle: string;
  suffix: string;
}

/** One pass through the network, for comparisons with other implementations. */
export type ForwardOptions = SortedForward | BlockForward | SetForward;

/** A pass over tokens in sorted order. */
export interface SortedForward {
  mode: "causal" | "bidirectional" | "mixed" | "mixed2";
  /** The position of every slot, a row a sequence. */
  sortIdx: number[][];
  /** The token of every slot, masks included. */
  ztSorted: number[][];
  /** The clean tokens of every slot, where the mode reads both. */
  x0Sorted?: number[][];
  signal?: AbortSignal;
}

/** A pass over noised tokens, each of which sees its own block of them and the clean tokens of earlier blocks. */
export interface BlockForward {
  /** Tokens of a block, default the model's. */
  blockSize?: number;
  /** The noised tokens in natural order, masks included, a row a sequence. */
  xt: number[][];
  /** The clean ones. */
  x0: number[][];
  signal?: AbortSignal;
}

/**
 * A pass over a text in the order in which its tokens are written. Each is predicted from a mask that sees the tokens before it in the order and itself: as a
 * SetDLM reads its texts.
 */
export interface SetForward {
  /** The position of every slot, a row a sequence. */
  sortIdx: number[][];
  /** The clean token of every slot. */
  x0Sorted: number[][];
  signal?: AbortSignal;
}

/** How to carry out a plan. */
export interface ReplayOptions {
  /** These as in `GenerateOptions`. */
  topK?: number;
  topP?: number;
  topPCrossing?: "keep" | "drop";
  minP?: number;
  signal?: AbortSignal;
}
