//! Options of `esolm train`.

use std::path::PathBuf;

use clap::Args;

/// Trains an Eso-LM, MDLM, BD3-LM, SetDLM or AR model on text files, from a recipe in TOML.
#[derive(Debug, Args)]
#[command(
    after_help = "A recipe, with every key and its default but for data.train, which has none:

  [model]
  family = \"esolm\"        # or mdlm, ar, bd3lm, setdlm
  hidden = 256            # width
  blocks = 6
  heads = 8
  cond_dim = 64           # width of the conditioning vector; AR and SetDLM have none
  length = 128            # context in tokens
  dropout = 0.0
  # block_size = 16       # tokens of a block of a BD3-LM, a divisor of the length
  # set_size = 4          # tokens of a set that the noise of a SetDLM aims at ...
  # max_set_size = 8      # ... and at most; twice as many unless it is given
  # init = \"hf:owner/name\"   # the checkpoint to start from, as --init says it
  [data]
  train = [\"stories.txt\"]
  holdout = []            # validated on
  separator = \"<|endoftext|>\"   # between documents of a file; also the name of the token that opens each
  ascii_only = false      # true leaves out documents with other characters
  vocab_size = 2048       # of the byte-level BPE that is trained on the text ...
  # tokenizer = \"tokenizer.json\"   # ... unless there is one already
  [loss]                  # keys of another family are refused; AR has none
  alpha_0 = 0.25          # share of the tokens that diffusion writes
  # alpha_0_range = [0.05, 0.85]   # each sequence draws its own (not published); alpha_0 is then what sampling takes
  infill = 0.0            # share of the sequential half with one gap instead of random masks (not published)
  batch_split = 0.5       # share of a batch that trains the diffusion loss
  kind = \"elbo\"           # or low_var
  # noise_range = [0.3, 0.8]   # share of masked tokens in a BD3-LM's blocks; without it that of the bound, 0.001 to 1
  resample = false        # mask blocks of a BD3-LM anew whose share lies outside the range
  [optimizer]             # AdamW
  lr = 1e-3
  beta_1 = 0.9
  beta_2 = 0.999
  epsilon = 1e-8
  weight_decay = 0.0
  warmup_steps = 100
  schedule = \"constant\"   # or cosine, down to min_lr
  min_lr = 0.0
  clip = 1.0              # of the whole gradient's norm; 0 for no limit
  [run]
  batch = 32              # sequences of a micro-batch
  accumulate = 1          # micro-batches of a step
  tokens = 10000000       # to train on
  seed = 0
  ema = 0.9999            # decay of the averaged weights, which are the ones to use
  validate_every = 500    # steps; 0 for never
  validate_windows = 128
  save_every = 500        # steps
  log_every = 10          # steps
  device = \"cpu\"          # or auto, gpu, gpu:N

With --init the shape, the tokenizer and, unless the recipe says otherwise, the family and the context are those of the checkpoint.
Paths in a recipe are relative to the folder that the command runs in.
Ctrl-C or SIGTERM saves and ends with exit code 0; a second one, or one before the first step, ends at once. --resume continues as if
nothing had happened.

Examples:
  esolm train stories.toml --out stories
  esolm train --out stories --resume
  esolm train stories.toml --out small --set model.hidden=128 --set run.tokens=1000000
  esolm train fables.toml --out fables --init stories/model --set loss.alpha_0=0.5
  esolm sample --model stories/model"
)]
pub struct Train {
    /// The recipe. With --resume it may be left out: the one in OUT is taken.
    #[arg(value_name = "RECIPE", required_unless_present = "resume")]
    pub recipe: Option<PathBuf>,
    /// Folder of the training: recipe, tokenizer, log, saved states, and in OUT/model the Hugging Face folder.
    #[arg(long, value_name = "OUT")]
    pub out: PathBuf,
    /// Change a value of the recipe, for example run.batch=16.
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    pub set: Vec<String>,
    /// Start from the weights, the shape and the tokenizer of a checkpoint of any family: a Hugging Face folder, a .safetensors file, a
    /// Lightning .ckpt, or hf:owner/name. Quantised weights are trained on as the floats that they stand for.
    #[arg(long, value_name = "CHECKPOINT")]
    pub init: Option<String>,
    /// config.json of that checkpoint, for a .safetensors file without one beside it.
    #[arg(long, value_name = "FILE", requires = "init")]
    pub config: Option<PathBuf>,
    /// Take the raw weights of a Lightning .ckpt instead of the EMA weights.
    #[arg(long, requires = "init")]
    pub raw_weights: bool,
    /// Continue from the newest state in OUT.
    #[arg(long)]
    pub resume: bool,
    /// Continue although the training text is no longer the one that the state was trained on.
    #[arg(long, requires = "resume")]
    pub accept_changed_text: bool,
    /// Print nothing on stderr but errors.
    #[arg(long, short)]
    pub quiet: bool,
}
