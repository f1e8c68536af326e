/** Inputs and outputs of the engine. Outputs keep the field names of the engine's JSON (snake_case), the same as in its trace files; inputs are camelCase. */

/** A family of models: Eso-LM, masked diffusion, autoregressive, block diffusion, or set diffusion. */
export type Family = "esolm" | "mdlm" | "ar" | "bd3lm" | "setdlm";
/** What a step does: put given tokens into the cache, draw tokens at any positions at once, or draw the next token. */
export type Phase = "prompt" | "diffusion" | "sequential";
/**
 * Which positions diffusion writes in which step. `"first-hitting"` is for models that write block by block, one token per step. With `"confidence"`, an MDLM or a BD3-LM
 * draws a token at every remaining position, and keeps those in which it is most confident.
 */
export type Schedule = "binomial" | "blocks" | "blocks-shuffled" | "left-to-right" | "block" | "block-autoregressive" | "first-hitting" | "confidence";

/** How tokens are compared if confidence chooses. */
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

/** The device that runs a model. */
export interface DeviceInfo {
  /** `null` on the CPU. */
  adapter: Adapter | null;
  /** The kernel variants in use; `null` on the CPU. */
  variants: { few: string; many: string; attention: string | null; many_attention: string; many_rows: number; many_of_one: number } | null;
  /** Format of the weights. */
  weights: "f32" | "f16" | "q8" | "q4";
  /** Format of activations in products with them. */
  activations: "f32" | "q8";
  /** Format of the KV cache. */
  kv_cache: "f32" | "f16";
  /** Whether the CPU computes because no GPU was found that works. */
  is_fallback: boolean;
  /** The GPUs that `"auto"` tried before, and left. */
  passed_over: PassedOver[];
  /** All of this in one line, for display. */
  text: string;
}

/** What this browser can compute with. */
export interface DeviceFacts {
  /** Whether the browser has WebGPU. */
  webgpu: boolean;
  /** `null` if there is none; `reason` says why. */
  adapter: Adapter | null;
  /** Whether shaders may use f16. The engine does not need it. */
  shader_f16: boolean;
  /** Why there is no adapter. */
  reason: string | null;
}

/** A loaded model. */
export interface ModelInfo {
  family: Family;
  /** Which tokens see which. `"mixed"` means an Eso-LM (A), whose clean tokens see each other during diffusion, so that they cannot be cached then. */
  attention: "causal" | "bidirectional" | "mixed" | "block" | "set";
  /** Width of the network. */
  hidden: number;
  n_blocks: number;
  n_heads: number;
  /** Maximum length of a text in tokens. */
  length: number;
  /** Number of tokens, including the mask token. */
  vocab_size: number;
  mask_index: number;
  /** The fraction of tokens that diffusion writes by default; `null` unless it is an Eso-LM. */
  alpha_0: number | null;
  /** Tokens per block; `null` unless it is a BD3-LM. */
  block_size: number | null;
  /** Number of parameters. */
  parameters: number;
  /** The beginning-of-text token. */
  bos: number | null;
  /** The end-of-text token. */
  eos: number | null;
  has_tokenizer: boolean;
  /** The checkpoint's recommended sampling settings (`esolm` in its generation_config.json), used for whatever a request leaves unset. */
  recommended: { alpha_0?: number; temperature?: number; top_k?: number; top_p?: number; min_p?: number };
  /** Size of the weights file in bytes. */
  file_bytes: number;
  /** `null` if the model has no chat template; `think` says whether the template has an option to think first. */
  chat: { think: boolean } | null;
  device: DeviceInfo;
}

/** One sequence of a plan. `order` lists positions in the order in which they become known; its elements are entries, which for an Eso-LM are also cache slots. */
export interface PlanSequence {
  /** Together with the seed, the key of its random numbers. */
  sequence: number;
  /** Every position once, the given ones first. */
  order: number[];
  /** The given tokens, for the first entries. */
  known: number[];
  /**
   * `[phase, clean, start, end]` as entries (for a BD3-LM, `clean` is a position): reads tokens from `clean` to `start`, and draws those from `start` up to, but not
   * including, `end`. If confidence chooses, a fifth number is the minimum number of tokens to reveal.
   */
  steps: ([Phase, number, number, number] | [Phase, number, number, number, number])[];
}

/** Which positions are computed and drawn in which step, independent of the network. */
export interface Plan {
  esolm_plan: 1;
  family: Family;
  /** For an Eso-LM (A), whose clean tokens see each other during diffusion. */
  attention?: "mixed";
  length: number;
  /** Tokens per block, for a BD3-LM. */
  block_size?: number;
  /** For a decoder that is a BD3-LM. */
  prompt_tail?: PromptTail;
  /** Cache slots, if a BD3-LM writes more than its context. */
  window?: number;
  /** Whether entry 0 is a token before the text (some AR models). */
  lead: boolean;
  mask_index: number;
  vocab_size: number;
  /** How confidence chooses the tokens to reveal, if it does. */
  reveal?: { by?: Confidence; threshold?: number };
  /** How confidence goes through a SetDLM's texts. */
  sets?: { window: number; context: number; joining: "position" | "time" | "order"; sees_right: boolean };
  sequences: PlanSequence[];
}

/** Everything that determines what is written. Sent again when texts are redrawn. */
export interface Header {
  esolm_trace: 1;
  /** Version of the engine. */
  esolm: string;
  /** Name of the model: the option `name` of `load`, otherwise derived from its URL. */
  model: string;
  /** The family as which the text is written. */
  family: Family;
  /** Tokens per text. */
  length: number;
  /** Tokens per block, for a BD3-LM. */
  block_size?: number;
  /** If a BD3-LM writes more than its context: the number of last tokens that each block sees, which is not exact. */
  window?: number;
  alpha_0: number;
  /** The requested steps T, before those that draw nothing were dropped. */
  steps: number;
  schedule: Schedule;
  /** Number of regions of the schedule `block-autoregressive`. */
  sar_steps?: number;
  /** How tokens were compared, with the schedule `confidence`. Absent in traces of earlier versions. */
  confidence?: Confidence;
  /** With the schedule `confidence`, if given. */
  confidence_threshold?: number;
  /** For a decoder that is a BD3-LM. */
  prompt_tail?: PromptTail;
  /** Tokens that were never drawn, if there are any. */
  suppress_tokens?: number[];
  /** Tokens that could be drawn only with confidence 0, if there are any. */
  begin_suppress_tokens?: number[];
  /** `null` keeps all tokens; traces of earlier versions have no `top_k` and `min_p`. */
  top_k?: number | null;
  top_p: number | null;
  min_p?: number | null;
  /** Only if the token at which the total probability reaches `top_p` was excluded. */
  top_p_crossing?: "drop";
  temperature: number;
  /** A string if a number could not represent it exactly. */
  seed: number | string;
  /** Absolute index of the first text. */
  first: number;
  /** Number of texts. */
  batch: number;
  vocab_size: number;
  mask_index: number;
  /** Number of passes through the network, and so of the steps that follow; with a `confidence_threshold`, the maximum. */
  nfe: number;
  /** Counted from 0. An infill in which the model extended a given word is redrawn, up to 32 times. */
  attempt: number;
  /** The texts that this attempt writes, as indices within the batch; the others are unchanged. */
  texts: number[];
  /** The given tokens of every text, as `[position, token]`. */
  known: [number, number][][];
  /** What the tokenizer made of the first prompt that it altered. */
  altered?: Altered;
}

/** A text altered by the tokenizer: one without capital letters turns "Hello" into "hello". */
export interface Altered {
  /** The original, from the first altered word on, shortened. */
  given: string;
  /** What the tokens decode to. */
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
  /** With `logprobs`: the token's log-probability according to the model in this step, before temperature, top-k, top-p and min-p. */
  logprob?: number;
}

/** What a step did. */
export interface Step {
  /** Counted from 0 in each attempt. */
  step: number;
  /** The header's `nfe`. */
  steps: number;
  phase: Phase;
  revealed: Revealed[];
  /** Text and position of each place at which a SetDLM drew by confidence (its window); otherwise absent. */
  window?: [number, number][];
  /** Rows that went through the network, summed over texts. */
  rows: number;
  /** Cache slots that hold known tokens after the step, summed over texts; 0 for an MDLM, which has no cache. */
  cache_length: number;
  /** Seconds since the run began. */
  seconds: number;
  /** The attempt that the step belongs to; its header is `Generation.headers[attempt]`. */
  attempt: number;
}

/** The result of a run. */
export interface Footer {
  /** Every text in natural order; unknown tokens are the mask token. */
  tokens: number[][];
  text: string[];
  /** Whether it was stopped before its last step. */
  interrupted: boolean;
  seconds: number;
  /** The text of every token that occurs, by index; empty without a tokenizer. */
  pieces: { [token: string]: string };
  /** Passes through the network, summed over attempts. */
  nfe: number;
  /** Rows that went through the network, summed over attempts. */
  rows: number;
  /** Texts in which the model extended a given word even in the last attempt, as indices within the batch. */
  run_on: number[];
  /** Texts that a `stop` rule or a stop string ended early, as indices within the batch, if there are any. */
  ended?: number[];
  /** Why each text ended. Absent in traces of earlier versions. */
  finish?: ("length" | "stop" | "eos" | "entropy" | "interrupted")[];
  /** With `logprobs`, for each token of each text; `null` for given tokens. */
  logprobs?: (number | null)[][];
  /** What it cost the GPU; zeros on the CPU. */
  counters: { dispatches: number; submits: number; bytes_read: number; peak_bytes: number };
}

/** A message of a conversation. */
export interface Message {
  /** `"user"`, `"system"`, `"assistant"`, or another role that the model's chat template supports. */
  role: string;
  content: string;
  /** The model's reasoning before the message, if it is not part of the content. */
  reasoning_content?: string;
}

/** The prompt that an answer continues. */
export interface ChatPrompt {
  /** What the chat template made of the messages. */
  text: string;
  tokens: number[];
  /** How many of them, from the first on, were cached from before. */
  cached: number;
  /** Number of messages after the system message that no longer fit the context and were left out. */
  dropped: number;
  /** Maximum tokens of the answer. */
  max_tokens: number;
  /** A string if a number could not represent it exactly. */
  seed: number | string;
}

/** A pass of an answer. The answer's text is the concatenation of the texts of all steps; tokens known after a gap are reported again with each step. */
export interface ChatStep {
  /** From 0. */
  step: number;
  /** Number of steps in the plan. */
  steps: number;
  /** Text added to the answer, up to the first unknown position. */
  text: string;
  /** The positions after it, up to the end of the current block: the text of each known token, `null` for unknown ones. */
  open: (string | null)[];
  /** Tokens of the answer so far, excluding those after a gap. */
  tokens: number;
  /** Rows in the pass. */
  rows: number;
  /** Seconds since the answer began. */
  seconds: number;
}

/** An answer. */
export interface Answer {
  /** Everything that the model wrote, without special tokens. */
  text: string;
  /** Its reasoning, if it thought first. */
  reasoning?: string;
  /** The text without the reasoning. */
  content: string;
  tokens: number[];
  finish: "length" | "stop" | "eos" | "entropy" | "interrupted";
  prompt_tokens: number;
  /** How many of the prompt's tokens were cached. */
  cached: number;
  /** Passes through the network. */
  passes: number;
  /** Rows that went through the network. */
  rows: number;
  seconds: number;
}

/** How likely a text is. */
export interface Score {
  /** Natural logarithm of the probability. */
  logp: number;
  /** Whether `logp` is exact; otherwise it is a lower bound. */
  exact: boolean;
  tokens: number;
  /** Length in UTF-8 bytes. */
  bytes: number;
  nats_per_token: number | null;
  bits_per_byte: number | null;
  /** What the tokenizer made of a text that it altered; this is what was scored. */
  altered?: Altered;
}

/** A replayed generation. */
export interface Replay {
  /** Logits of every entry from when it was drawn, row by row. */
  logits: Float32Array;
  /** The texts in natural order. */
  sample: number[][];
  /** The texts in the order in which their tokens became known. */
  tokensSorted: number[][];
}

/** Progress of loading. */
export interface Progress {
  /** Fetching the wasm module, fetching the model's files, or the engine reading the weights. */
  phase: "wasm" | "download" | "load";
  /** Name of the file. */
  file?: string;
  /** Bytes so far. */
  loaded: number;
  /** Total bytes; `null` if the server does not say. */
  total: number | null;
  /** Whether the file was cached on an earlier visit. */
  fromCache: boolean;
}

/** A file of a model: a string is its URL, an object is taken as JSON. */
export type TextFile = string | URL | Blob | object;
/** The weights: a string is their URL. */
export type WeightsFile = string | URL | Blob | ArrayBuffer | Uint8Array<ArrayBuffer>;

/**
 * Where a model comes from:
 * - the URL of a folder with `config.json`, `model.safetensors`, `tokenizer.json` and, if it recommends settings, `generation_config.json`;
 * - a model on the Hugging Face hub, as `hf:owner/name`, `hf:owner/name@revision` or the URL of its page;
 * - the URL of a `.safetensors` file with the other files next to it, or of a Lightning `.ckpt`, which contains its own;
 * - files, such as those dropped by a visitor: those of a folder, or one `.ckpt`;
 * - each file separately.
 *
 * Weights split into several files come with a `model.safetensors.index.json` that lists them, instead of a single `.safetensors` file. Without a tokenizer, a model works
 * only with token numbers.
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
      /** `tokenizer_config.json`, which may contain the chat template. */
      tokenizerConfig?: TextFile;
      /** `chat_template.jinja`, which takes precedence: a URL or a `Blob`. */
      chatTemplate?: string | URL | Blob;
      weights: WeightsFile;
    };

/** Where the engine runs. */
export interface EngineOptions {
  /** In a worker (the default), or in the caller's thread, which is then blocked while the CPU computes. */
  worker?: boolean;
  /** URL of `esolm_web_bg.wasm`; by default next to this module. */
  wasm?: string | URL;
  signal?: AbortSignal;
}

/** Memory that a model needs, in bytes. */
export interface MemoryNeeded {
  /** Its weights, and temporaries while they are read. */
  model: number;
  /** The cache of a text as long as the context. */
  cache: number;
}

/** Options for loading a model. */
export interface LoadOptions extends EngineOptions {
  /**
   * `"auto"` (the default) takes a GPU if there is one, else the CPU; also where the GPU fails while the model is loaded. `info.device` says
   * which it was, and why.
   */
  device?: "auto" | "gpu" | "cpu";
  /**
   * Format of the weights: f16 takes half the memory of f32, q8 about a quarter, and q4 a fifth. Default: f32; for files with 8-bit or 4-bit weights, the format in which they
   * are stored.
   */
  weights?: "f32" | "f16" | "q8" | "q4";
  /** Format of activations in products with q8 and q4 weights, default f32; q8 is for the CPU only. */
  activations?: "f32" | "q8";
  /** Format of the KV cache, default f32. */
  kvCache?: "f32" | "f16";
  /** Kernel variants to force, for measurements: `"few=rows,many=tile"`. */
  variants?: string;
  /** The raw weights of a `.ckpt` rather than their running average. */
  rawWeights?: boolean;
  /** The family of a model whose configuration does not determine it: `a2d-qwen3`, `a2d-qwen2` and `a2d-llama` are MDLMs or BD3-LMs. */
  as?: "mdlm" | "bd3lm";
  /** Tokens per block of such a BD3-LM, or of an `sdar`, whose default is 4. */
  blockSize?: number;
  /** Name of the model, which headers repeat. */
  name?: string;
  /** `"sha256-"` and 64 hexadecimal digits: the expected hash of the weights file; for weights in several files, an object that maps each file name to its hash. */
  hash?: string | Record<string, string>;
  /**
   * Keep downloaded files in the browser's Cache API (the default), so that the next visit needs no network and an interrupted download resumes where it stopped. If there is
   * no such cache (an insecure origin, some private windows), files are held as Blobs while they are needed.
   */
  cache?: boolean;
  onProgress?: (progress: Progress) => void;
}

/** Options for computing the memory that a model needs. */
export type MemoryOptions = EngineOptions & Pick<LoadOptions, "weights" | "as" | "blockSize" | "cache" | "onProgress">;

/** What to generate. If `alpha0`, `topK`, `topP`, `minP` or `temperature` is omitted, the model's recommended value is used (`ModelInfo.recommended`). */
export interface GenerateOptions {
  /** The beginning of the text, or of each text. */
  prompt?: string | string[];
  /** A text with gaps to fill: `____` is a gap of as many tokens as underscores, `____{12}` a gap of twelve. */
  infill?: string;
  /**
   * Tokens per text, by default the model's length, or for a decoder 128 more than are given. A BD3-LM writes whole blocks; it and a SetDLM can write more than the model's
   * length.
   */
  length?: number;
  /** The fraction of tokens that diffusion writes, 0 to 1. */
  alpha0?: number;
  /**
   * Diffusion steps T, by default the length. For a BD3-LM, steps per block; by default it draws one token per step. With the schedules `block` and `block-autoregressive`,
   * the block size.
   */
  steps?: number;
  schedule?: Schedule;
  /** Number of regions that the schedule `block-autoregressive` writes one after another, default 1. */
  sarSteps?: number;
  /** With the schedule `confidence`: tokens of at least this confidence, 0 to 1, are revealed immediately, so that a text may need fewer passes. */
  confidenceThreshold?: number;
  /**
   * With the schedule `confidence`: how tokens are compared. By the probability at temperature 1 (`"model"`, the default), the probability after the temperature (the default
   * of SDAR), the probability with which a token was drawn (the default of a SetDLM), a random number, or not at all, so that the leftmost come first.
   */
  confidence?: Confidence;
  /**
   * Tokens per block of a BD3-LM, overriding its own; required if another network is decoded as one. For an MDLM with the schedule `confidence`, the number of tokens that it
   * completes before moving on; default: all at once, or 32 for a decoder.
   */
  blockSize?: number;
  /**
   * Where the blocks of a decoder that is a BD3-LM begin, and what the end of its prompt sees of the first one: counted from the end of the prompt (`"own"`), or from the
   * beginning of the text, where both see each other (`"shared"`, the default of SDAR) or the prompt does not see the block until it is complete (`"blind"`).
   */
  promptTail?: PromptTail;
  /** Tokens that are never drawn, by number or name. */
  suppressTokens?: (number | string)[];
  /** With the schedule `confidence`: tokens that may be drawn, but with confidence 0, so that they are revealed last. */
  beginSuppressTokens?: (number | string)[];
  /** Number of masked positions at which a SetDLM draws in a step, starting with the first; default: the largest set size that it was trained with. */
  window?: number;
  /** Lets a SetDLM write its text in an order drawn from its noise, as in training. */
  trainOrder?: boolean;
  /** What a SetDLM sees of a template: both sides of a gap (the default), or only what is left of it. */
  infillContext?: "both" | "left";
  /**
   * What ends a BD3-LM's text early: a second end-of-text token, or 256 tokens with an entropy below 4 nats. For a SetDLM: the first end-of-text token, or 128 such tokens,
   * once there are 32. A decoder's text always ends with the first end-of-text token that it writes.
   */
  stop?: ("eos" | "entropy")[];
  /** A text ends before the first of these strings that the model writes, or at its first end-of-text token if that comes first. */
  stopStrings?: string | string[];
  /** Report each token's log-probability according to the model in the step that drew it. */
  logprobs?: boolean;
  /** Draw only from this many most likely tokens, at least 1, and those as likely as the last of them. */
  topK?: number;
  /** Draw only from the most likely tokens that together have this probability, among those left by `topK`. */
  topP?: number;
  /** Whether the token at which that probability is reached is included (`"keep"`, the default). */
  topPCrossing?: "keep" | "drop";
  /** Draw only from tokens at least this fraction as likely as the most likely one, 0 to 1. */
  minP?: number;
  temperature?: number;
  /** The same seed gives the same text. A `bigint` or a string may use all 64 bits. */
  seed?: number | bigint | string;
  /** Number of texts, default 1. */
  batch?: number;
  /** Absolute index of the first text, default 0: text i of a batch is the same as the single text of `first: i`. */
  first?: number;
  /** Open with the beginning-of-text token. Default: yes; for a decoder, only if its tokenizer adds that token to every text. */
  bos?: boolean;
  /**
   * Run the network of an Eso-LM or an MDLM as a model of another family: as an MDLM it attends in both directions, computes everything in each step and caches nothing; as a
   * BD3-LM it writes blocks of `blockSize` one after another, and caches what is written. It was trained for neither, so this shows what a way of decoding costs, not how well
   * it writes.
   */
  decodeAs?: "mdlm" | "bd3lm";
  signal?: AbortSignal;
}

/** How to answer. What to write, and where it ends, is determined by the conversation and the model. */
export type ChatOptions = Omit<
  GenerateOptions,
  "prompt" | "infill" | "length" | "batch" | "first" | "bos" | "stop" | "stopStrings" | "logprobs" | "decodeAs" | "window" | "trainOrder" | "infillContext"
> & {
  /** Maximum tokens of an answer; default: 1024 for an AR model, 256 for a BD3-LM, 128 for an MDLM, but at most half the context. */
  maxTokens?: number;
  /** Whether the model thinks before it answers, for models whose template has this option (`ModelInfo.chat`). */
  think?: boolean;
};

/** How to score a text. */
export interface ScoreOptions {
  /** The fraction of tokens in random order, 0 to 1. */
  alpha0?: number;
  /** Number of orders to average over; there is only one if `alpha0` is 0, the default. */
  orders?: number;
  /** Number of draws of the bound. */
  draws?: number;
  seed?: number | bigint | string;
  /** Open with the beginning-of-text token, which is not itself scored. Default: as for a generation. */
  bos?: boolean;
  signal?: AbortSignal;
}

/** A text whose middle is scored given the rest. */
export interface Middle {
  prefix: string;
  middle: string;
  suffix: string;
}

/** One pass through the network, for comparison with other implementations. */
export type ForwardOptions = SortedForward | BlockForward | SetForward;

/** A pass over tokens in sorted order. */
export interface SortedForward {
  mode: "causal" | "bidirectional" | "mixed" | "mixed2";
  /** The position of every slot, one row per sequence. */
  sortIdx: number[][];
  /** The token of every slot, masks included. */
  ztSorted: number[][];
  /** The clean tokens of every slot, if the mode reads both. */
  x0Sorted?: number[][];
  signal?: AbortSignal;
}

/** A pass over noised tokens, each of which sees its own noised block and the clean tokens of earlier blocks. */
export interface BlockForward {
  /** Tokens per block, default the model's. */
  blockSize?: number;
  /** The noised tokens in natural order, masks included, one row per sequence. */
  xt: number[][];
  /** The clean tokens. */
  x0: number[][];
  signal?: AbortSignal;
}

/** A pass over a text in generation order. Each token is predicted from a mask that sees itself and the tokens earlier in the order, as in a SetDLM. */
export interface SetForward {
  /** The position of every slot, one row per sequence. */
  sortIdx: number[][];
  /** The clean token of every slot. */
  x0Sorted: number[][];
  signal?: AbortSignal;
}

/** Options for carrying out a plan. */
export interface ReplayOptions {
  /** See `GenerateOptions`. */
  topK?: number;
  topP?: number;
  topPCrossing?: "keep" | "drop";
  minP?: number;
  signal?: AbortSignal;
}
