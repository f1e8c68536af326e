//! The one list of all shaders, their snippets, launchers and bindings. `tests/list.rs` holds it to the files.

use crate::Access::{Read, ReadWrite, Uniform, Write};
use crate::{Access, Binding, Shader, Slot, Snippet};

/// All shaders.
pub static SHADERS: &[&Shader] = &[
    &EMBED,
    &EMBED_TIED,
    &NORM,
    &HEADS,
    &PRODUCT_ROWS,
    &PRODUCT_SPLIT,
    &PRODUCT_TILE,
    &ATTENTION_SPLIT,
    &ATTENTION_TILE,
    &ATTENTION_ROWS,
    &SAMPLE,
    &SAMPLE_PARTS,
    &SAMPLE_MERGE,
    &SUPPRESS,
    &SCORE,
    &CONFIDENCE,
    &REVEAL,
    &MOVE_SLOTS,
    &COPY,
    &PEAK,
];

macro_rules! snippets {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {$(
        $(#[$doc])*
        pub static $constant: Snippet = Snippet {
            name: $name,
            text: include_str!(concat!("../lib/", $name, ".wgsl")),
        };
    )*};
}

snippets! {
    /// One row of a pass.
    ROW = "row";
    /// Counter-based random numbers.
    PHILOX = "philox";
    /// A token with what it is chosen by.
    BEST = "best";
    /// A row of logits of which a token is drawn.
    DRAWN_ROW = "drawn_row";
    /// What an embedding reads and writes.
    EMBEDDING = "embedding";
    /// What top-k, top-p and min-p keep.
    KEPT = "kept";
    /// The best token of a part of a row.
    CANDIDATE = "candidate";
    /// Finds values that are not finite.
    FINITE = "finite";
    /// The scale of an RMS norm.
    RMS = "rms";
    /// Weights in f32.
    WEIGHT_F32 = "weight_f32";
    /// Weights in f16.
    WEIGHT_F16 = "weight_f16";
    /// Weights in 8-bit groups.
    WEIGHT_Q8 = "weight_q8";
    /// Weights in 4-bit groups.
    WEIGHT_Q4 = "weight_q4";
    /// An embedding in 8-bit groups.
    TABLE_Q8 = "table_q8";
    /// A KV cache in f32.
    CACHE_F32 = "cache_f32";
    /// A KV cache in f16.
    CACHE_F16 = "cache_f16";
    /// The residual stream, with what is to be added to it.
    RESIDUAL = "residual";
    /// The uniform block of a product.
    PRODUCT_INFO = "product_info";
    /// Ends a product by storing it.
    FINISH_STORE = "finish_store";
    /// Ends a product by GELU.
    FINISH_GELU = "finish_gelu";
    /// Ends a product by adding it to what is there.
    FINISH_ADD = "finish_add";
    /// Ends the product for q, k and v: rotary embedding, then into the cache.
    FINISH_QKV = "finish_qkv";
    /// As that where heads of q share those of k and v.
    FINISH_GROUPED = "finish_grouped";
    /// Ends a product of gates and what they let through.
    FINISH_SILU = "finish_silu";
}

const NO_FLAGS: &[&[&str]] = &[&[]];

const ROW_SLOT: Slot = Slot {
    name: "row",
    one_of: &[&ROW],
};
const PHILOX_SLOT: Slot = Slot {
    name: "philox",
    one_of: &[&PHILOX],
};
const EMBEDDING_SLOT: Slot = Slot {
    name: "embedding",
    one_of: &[&EMBEDDING],
};
const DRAWN_ROW_SLOT: Slot = Slot {
    name: "drawn_row",
    one_of: &[&DRAWN_ROW],
};
const BEST_SLOT: Slot = Slot {
    name: "best",
    one_of: &[&BEST],
};
const KEPT_SLOT: Slot = Slot {
    name: "kept",
    one_of: &[&KEPT],
};
const CANDIDATE_SLOT: Slot = Slot {
    name: "candidate",
    one_of: &[&CANDIDATE],
};
const FINITE_SLOT: Slot = Slot {
    name: "finite",
    one_of: &[&FINITE],
};
const RMS_SLOT: Slot = Slot {
    name: "rms",
    one_of: &[&RMS],
};
const RESIDUAL_SLOT: Slot = Slot {
    name: "residual",
    one_of: &[&RESIDUAL],
};
const WEIGHT_SLOT: Slot = Slot {
    name: "weight",
    one_of: &[&WEIGHT_F32, &WEIGHT_F16, &WEIGHT_Q8, &WEIGHT_Q4],
};
const TABLE_SLOT: Slot = Slot {
    name: "weight",
    one_of: &[&WEIGHT_F32, &WEIGHT_F16, &TABLE_Q8],
};
const CACHE_SLOT: Slot = Slot {
    name: "cache",
    one_of: &[&CACHE_F32, &CACHE_F16],
};

const fn binding(
    name: &'static str,
    access: Access,
    element: &'static str,
    shape: &'static str,
    memory: &'static str,
) -> Binding {
    let when = &[];
    Binding {
        name,
        access,
        element,
        shape,
        memory,
        when,
    }
}

impl Binding {
    const fn when(mut self, names: &'static [&'static str]) -> Self {
        self.when = names;
        self
    }

    const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    const fn shaped(mut self, shape: &'static str) -> Self {
        self.shape = shape;
        self
    }

    const fn accessed(mut self, access: Access) -> Self {
        self.access = access;
        self
    }
}

const X: Binding = binding("x", Read, "vec4<f32>", "[rows][hidden]", "f32, row-major");
const STREAM: Binding = binding(
    "x",
    Read,
    "vec4<f32>",
    "[rows][hidden]",
    "f32, row-major; of few rows two places of FEW rows for the residual stream, then a part of what is added to it every FEW rows",
);
const OUT: Binding = binding(
    "out",
    Write,
    "vec4<f32>",
    "[rows][hidden]",
    "f32, row-major",
);
const ROWS: Binding = binding(
    "rows",
    Read,
    "Row",
    "[rows]",
    "eight u32 a row, 32 bytes, as in lib/row.wgsl; the rows whose logits are wanted come first; among these, and among the others, those of a sequence are neighbours and sequences ascend",
);
const LOGITS: Binding = binding(
    "logits",
    Read,
    "f32",
    "[rows of this launch][stride]",
    "f32, row-major; a row ends with padding to a multiple of four",
);
const Q: Binding = binding(
    "q",
    Read,
    "vec4<f32>",
    "[rows][heads][head_dim]",
    "f32, row-major; within a head the columns of a rotary pair, i and i + head_dim / 2, are neighbours",
);
const CACHE: Binding = binding(
    "cache_k",
    Read,
    "vec4<f32>",
    "[sequences][slots][heads][head_dim]",
    "f32, row-major; k is paired as q is, v is not",
)
.when(&["cache_f32"]);
const CACHE_HALF: Binding = Binding {
    element: "vec2<u32>",
    memory: "f16, row-major, two to a word with the first in the low half; k is paired as q is, v is not",
    ..CACHE
}.when(&["cache_f16"]);
#[rustfmt::skip]
const WEIGHTS_F32: Binding = binding("w", Read, "vec4<f32>", "[inputs][outputs of the slice]", "f32, row-major, outputs padded to a multiple of four").when(&["weight_f32"]);
#[rustfmt::skip]
const WEIGHTS_F16: Binding = binding("w", Read, "vec2<u32>", "[inputs][outputs of the slice]", "f16, row-major, two to a word with the first in the low half, outputs padded to a multiple of four").when(&["weight_f16"]);
#[rustfmt::skip]
const WEIGHTS_Q8: Binding = binding("w", Read, "vec4<u32>", "[inputs][outputs of the slice]", "q8, outputs padded to a multiple of four; codes [inputs / 4][outputs], i8, a word for four neighbouring inputs with the first in the lowest byte, then scales [groups of 32 inputs][outputs], f16, two to a word").when(&["weight_q8"]);
#[rustfmt::skip]
const WEIGHTS_Q4: Binding = binding("w", Read, "vec2<u32>", "[inputs][outputs of the slice]", "q4, outputs padded to a multiple of four; codes [inputs / 4][outputs], half a word for four neighbouring inputs with the first in the lowest bits, then scales and then offsets, each [groups of 32 inputs][outputs], f16, two to a word").when(&["weight_q4"]);
#[rustfmt::skip]
const TOKENS: Binding = binding("tokens", Read, "u32", "[sequences][tokens of a sequence]", "u32, row-major; where `source` of a row points");
#[rustfmt::skip]
const EMBED_INFO: Binding = binding("info", Uniform, "Info", "rows, first, count, mask_index, origin", "u32; first and count are the slice's tokens");

/// Token embedding.
#[rustfmt::skip]
pub static EMBED: Shader = Shader {
    name: "embed",
    text: include_str!("../embed.wgsl"),
    launcher: "esolm::kernels::embed::Embedding::launch",
    twins: &["esolm::kernels::embed::embed_twin"],
    slots: &[EMBEDDING_SLOT, ROW_SLOT, TABLE_SLOT],
    constants: &["WG", "N4"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        X.accessed(Write),
        binding("w", Read, "vec4<f32>", "[tokens of the slice][hidden]", "f32, row-major").when(&["weight_f32"]),
        binding("w", Read, "vec2<u32>", "[tokens of the slice][hidden]", "f16, row-major, two to a word with the first in the low half").when(&["weight_f16"]),
        binding("w", Read, "u32", "[tokens of the slice][hidden]", "q8, row-major; a token's codes, i8, four to a word with the first in the lowest byte, then the scales of its groups of 32, f16, two to a word").when(&["table_q8"]),
        ROWS,
        TOKENS,
        EMBED_INFO,
    ],
};

/// Token embedding from an output matrix that is the embedding as well.
#[rustfmt::skip]
pub static EMBED_TIED: Shader = Shader {
    name: "embed_tied",
    text: include_str!("../embed_tied.wgsl"),
    launcher: "esolm::kernels::embed::embed_tied",
    slots: &[EMBEDDING_SLOT, ROW_SLOT, Slot { name: "weight", one_of: &[&WEIGHT_F32, &WEIGHT_F16, &WEIGHT_Q8] }],
    constants: &["WG", "K4", "N4"],
    bindings: &[
        X.accessed(Write),
        WEIGHTS_F32,
        WEIGHTS_F16,
        WEIGHTS_Q8,
        ROWS,
        TOKENS,
        EMBED_INFO,
    ],
    ..EMBED
};

/// Layer normalisation without weight and bias, or an RMS norm with or without a weight.
#[rustfmt::skip]
pub static NORM: Shader = Shader {
    name: "norm",
    text: include_str!("../norm.wgsl"),
    launcher: "esolm::kernels::norm::norm",
    twins: &["esolm::kernels::norm::norm_twin"],
    slots: &[FINITE_SLOT, RMS_SLOT, RESIDUAL_SLOT],
    constants: &["WG", "D4", "FEW"],
    floats: &["EPS"],
    flags: &[&[], &["RMS"], &["RMS", "GAIN"]],
    bindings: &[
        STREAM,
        OUT,
        binding("gain", Read, "vec4<f32>", "[hidden]", "f32; the norm's weight").when(&["GAIN"]),
        binding("info", Uniform, "Info", "rows, row0, parts, origin", "u32; rows of out; row0 is the first row of x, and parts are to be added to it"),
    ],
};

const PRODUCT_INFO_SLOT: Slot = Slot {
    name: "product_info",
    one_of: &[&PRODUCT_INFO],
};
const FINISH_SLOT: Slot = Slot {
    name: "finish",
    one_of: &[
        &FINISH_STORE,
        &FINISH_GELU,
        &FINISH_SILU,
        &FINISH_ADD,
        &FINISH_QKV,
        &FINISH_GROUPED,
    ],
};

/// The snippets of a product, with those of one that normalises on the way.
macro_rules! product_slots {
    ($($more:expr),*) => {&[
        PRODUCT_INFO_SLOT,
        WEIGHT_SLOT,
        FINISH_SLOT,
        ROW_SLOT,
        CACHE_SLOT,
        $($more,)*
    ]};
}

const PRODUCT_TWINS: &[&str] = &[
    "esolm::kernels::product::product_twin",
    "esolm::kernels::product::gelu_twin",
    "esolm::kernels::product::silu_twin",
    "esolm::kernels::rotary::rotary_twin",
];

/// What ends with q, k and v.
const TURNED: &[&str] = &["finish_qkv", "finish_grouped"];
#[rustfmt::skip]
const ROTARY: Binding = binding("rotary", Read, "vec2<f32>", "[positions][head_dim / 2][2]", "f32, row-major; cosine, then sine");

/// The bindings of a product after that of x.
macro_rules! product_bindings {
    ($($x:expr),*) => {&[
        $($x,)*
        WEIGHTS_F32,
        WEIGHTS_F16,
        WEIGHTS_Q8,
        WEIGHTS_Q4,
        binding("affine", Read, "vec4<f32>", "[2][outputs of the slice]", "f32, row-major, padded as w; the bias, then the sums of the columns of w"),
        binding("out", Write, "vec4<f32>", "[rows][outputs]", "f32, row-major, outputs of all slices padded to a multiple of four").when(&["finish_store"]),
        binding("out", Write, "vec4<f32>", "[rows][outputs]", "f32, row-major").when(&["finish_gelu"]),
        binding("out", Write, "vec2<f32>", "[rows][outputs / 2]", "f32, row-major; outputs are pairs of a gate and what it is multiplied with").when(&["finish_silu"]),
        binding("out", ReadWrite, "vec4<f32>", "[rows][outputs]", "f32, row-major").when(&["finish_add"]),
        Q.named("out").accessed(Write).when(TURNED),
        ROWS.when(TURNED),
        ROTARY.when(TURNED),
        // A form chooses a cache only with these, the snippets that have a place for it.
        CACHE.accessed(Write).when(&["cache_f32"]),
        CACHE.named("cache_v").accessed(Write),
        CACHE_HALF.accessed(Write),
        CACHE_HALF.named("cache_v").accessed(Write),
        binding("info", Uniform, "Info", "rows, row0, stride4, col4, slots, block, span, parts, origin", "u32; row0 is the first row of x, col4 and stride4 place a stored slice in its rows, a workgroup sums span groups of four inputs, and parts are to be added to x"),
    ]};
}

const INPUT: Binding = X.shaped("[rows][inputs]");

/// The matrix product in registers.
pub static PRODUCT_ROWS: Shader = Shader {
    name: "product_rows",
    text: include_str!("../product_rows.wgsl"),
    launcher: "esolm::kernels::product::product",
    twins: PRODUCT_TWINS,
    slots: product_slots!(FINITE_SLOT, RMS_SLOT),
    constants: &[
        "WG", "K4", "N4", "GROUP4", "ROWS", "GROUPS", "D4", "Q4", "HALF", "HEAD_DIM",
    ],
    floats: &["EPS"],
    flags: &[
        &[],
        &["NORM"],
        &["NORM", "RMS"],
        &["SINGLE"],
        &["SINGLE", "NORM"],
        &["SINGLE", "NORM", "RMS"],
    ],
    bindings: product_bindings!(INPUT),
};

/// The matrix product of few rows, whose inner dimension is split over a workgroup and over several.
pub static PRODUCT_SPLIT: Shader = Shader {
    name: "product_split",
    text: include_str!("../product_split.wgsl"),
    slots: product_slots!(FINITE_SLOT, RMS_SLOT, RESIDUAL_SLOT),
    constants: &[
        "WG", "K4", "N4", "ROWS", "COLS", "LANES", "SHARE", "CHUNK", "BATCH", "HELD", "FEW", "D4",
        "Q4", "HALF", "HEAD_DIM",
    ],
    flags: &[&["PLAIN"], &["NORM"], &["NORM", "RMS"]],
    bindings: product_bindings!(
        INPUT.when(&["PLAIN"]),
        STREAM.accessed(ReadWrite).when(&["NORM"])
    ),
    ..PRODUCT_ROWS
};

/// The matrix product of many rows, in tiles.
pub static PRODUCT_TILE: Shader = Shader {
    name: "product_tile",
    text: include_str!("../product_tile.wgsl"),
    slots: product_slots!(),
    constants: &[
        "K4", "N4", "GROUP4", "SIDE", "STEP", "D4", "Q4", "HALF", "HEAD_DIM",
    ],
    floats: &[],
    flags: NO_FLAGS,
    ..PRODUCT_ROWS
};

/// The RMS norm of each head of q and k, and their rotary embedding.
#[rustfmt::skip]
pub static HEADS: Shader = Shader {
    name: "heads",
    text: include_str!("../heads.wgsl"),
    launcher: "esolm::kernels::heads::heads",
    twins: &["esolm::kernels::heads::heads_twin"],
    slots: &[FINITE_SLOT, RMS_SLOT, Slot { name: "finish", one_of: &[&FINISH_GROUPED] }, ROW_SLOT, CACHE_SLOT],
    constants: &["WG", "LANES", "HEAD_DIM", "HALF", "D4", "Q4"],
    floats: &["EPS"],
    flags: NO_FLAGS,
    bindings: &[
        X.shaped("[rows][heads of q, then of k, then of v][head_dim]"),
        binding("gains", Read, "vec4<f32>", "[2][head_dim]", "f32, row-major; the weight for heads of q, then that for heads of k, paired as these are"),
        Q.named("out").accessed(Write),
        ROWS,
        ROTARY,
        CACHE.accessed(Write),
        CACHE.named("cache_v").accessed(Write),
        CACHE_HALF.accessed(Write),
        CACHE_HALF.named("cache_v").accessed(Write),
        binding("info", Uniform, "Info", "slots, row0, origin", "u32; slots of a sequence, and the row of the pass that x begins with"),
    ],
};

/// Attention to a prefix, a workgroup a row and head of k and v.
#[rustfmt::skip]
pub static ATTENTION_SPLIT: Shader = Shader {
    name: "attention_split",
    text: include_str!("../attention_split.wgsl"),
    launcher: "esolm::kernels::attention::attention_split",
    twins: &["esolm::kernels::attention::attention_twin"],
    slots: &[ROW_SLOT, CACHE_SLOT],
    constants: &["WG", "D4", "HEAD4", "GROUP", "PARTS", "OWN", "AT_ONCE", "BLOCK"],
    floats: &["SCALE"],
    flags: &[&[], &["GROUPED"]],
    bindings: &[
        Q,
        CACHE,
        CACHE.named("cache_v"),
        CACHE_HALF,
        CACHE_HALF.named("cache_v"),
        ROWS,
        OUT,
        binding("info", Uniform, "Info", "slots, origin", "u32; slots of a sequence"),
    ],
};

/// Attention to a prefix, several rows a workgroup.
#[rustfmt::skip]
pub static ATTENTION_TILE: Shader = Shader {
    name: "attention_tile",
    text: include_str!("../attention_tile.wgsl"),
    launcher: "esolm::kernels::attention::attention_tile",
    constants: &["WG", "D4", "HEAD4", "GROUP", "PARTS", "OWN"],
    bindings: &[
        Q,
        CACHE,
        CACHE.named("cache_v"),
        CACHE_HALF,
        CACHE_HALF.named("cache_v"),
        ROWS,
        binding("spans", Read, "vec2<u32>", "[spans][2]", "u32, row-major; neighbours of one sequence: the first row, then how many"),
        OUT,
        binding("info", Uniform, "Info", "slots, origin", "u32; slots of a sequence"),
    ],
    ..ATTENTION_SPLIT
};

/// Attention to a prefix, an invocation a row and head of q.
pub static ATTENTION_ROWS: Shader = Shader {
    name: "attention_rows",
    text: include_str!("../attention_rows.wgsl"),
    launcher: "esolm::kernels::attention::attention_rows",
    constants: &["WG", "D4", "HEAD4", "GROUP", "KEYS"],
    ..ATTENTION_TILE
};

#[rustfmt::skip]
const DRAWN: Binding = binding("tokens", Write, "u32", "[sequences][tokens of a sequence]", "u32, row-major; where `dest` of a row points, NO_TOKEN from logits that are not finite");
#[rustfmt::skip]
const DRAWS: Binding = binding("draws", Read, "vec2<u32>", "[sampled rows of the pass][2]", "u32, row-major; the number of the text, then the position that keys the noise").when(&["SEEDED"]);
#[rustfmt::skip]
const NOISE: Binding = binding("noise", Read, "f32", "[sampled rows of the pass][vocabulary]", "f32, row-major; Gumbel values").when(&["GIVEN"]);
#[rustfmt::skip]
const BESTS: Binding = binding("bests", Write, "vec4<u32>", "[rows of the launch][parts of a row]", "u32, row-major; the bits of a score, the token, whether a logit is not finite, and nothing");
#[rustfmt::skip]
const STATE: Binding = binding("state", ReadWrite, "atomic<u32>", "[rows of the launch][STATE_WORDS]", "u32, row-major; the shader says what the words are").when(&["FILTER"]);
#[rustfmt::skip]
const DRAWN_ROW_INFO: Binding = binding("info", Uniform, "Info", "first, count, stride, columns, seed_low, seed_high, mask_index, mask_logit, scale, rate, top_k, top_p, reach, stage, former, drops, skipped, origin", "u32; mask_logit, scale and rate are the bits of an f32");

/// Drawing a token a row.
#[rustfmt::skip]
pub static SAMPLE: Shader = Shader {
    name: "sample",
    text: include_str!("../sample.wgsl"),
    launcher: "esolm::kernels::sample::sample",
    twins: &["esolm_core::sampler::sample_row"],
    slots: &[ROW_SLOT, PHILOX_SLOT, FINITE_SLOT, DRAWN_ROW_SLOT, BEST_SLOT, KEPT_SLOT, CANDIDATE_SLOT],
    constants: &["WG", "VOCAB", "GUMBEL_DOMAIN", "NO_TOKEN"],
    floats: &[],
    flags: &[&[], &["SEEDED"], &["SEEDED", "FILTER"], &["GIVEN"], &["GIVEN", "FILTER"]],
    bindings: &[
        LOGITS,
        ROWS,
        DRAWN,
        DRAWS,
        NOISE,
        DRAWN_ROW_INFO,
    ],
};

/// The first launches of drawing tokens of rows that several workgroups share.
#[rustfmt::skip]
pub static SAMPLE_PARTS: Shader = Shader {
    name: "sample_parts",
    text: include_str!("../sample_parts.wgsl"),
    slots: &[PHILOX_SLOT, FINITE_SLOT, DRAWN_ROW_SLOT, BEST_SLOT, KEPT_SLOT, CANDIDATE_SLOT],
    constants: &["WG", "VOCAB", "GUMBEL_DOMAIN", "NO_TOKEN", "MAX_PARTS", "STATE_WORDS"],
    bindings: &[LOGITS, BESTS, DRAWS, NOISE, STATE, DRAWN_ROW_INFO],
    ..SAMPLE
};

/// The last launch of drawing tokens of rows that several workgroups share.
#[rustfmt::skip]
pub static SAMPLE_MERGE: Shader = Shader {
    name: "sample_merge",
    text: include_str!("../sample_merge.wgsl"),
    slots: &[ROW_SLOT, BEST_SLOT],
    constants: &["WG", "NO_TOKEN"],
    flags: NO_FLAGS,
    bindings: &[
        BESTS.accessed(Read),
        ROWS,
        DRAWN,
        binding("info", Uniform, "Info", "first, count, parts, origin", "u32"),
    ],
    ..SAMPLE
};

/// Tokens that are left out.
#[rustfmt::skip]
pub static SUPPRESS: Shader = Shader {
    name: "suppress",
    text: include_str!("../suppress.wgsl"),
    launcher: "esolm::kernels::sample::suppress",
    twins: &["esolm_core::sampler::suppress"],
    slots: &[],
    constants: &["WG"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        LOGITS.accessed(Write),
        binding("suppressed", Read, "u32", "[tokens]", "u32; tokens of the vocabulary"),
        binding("info", Uniform, "Info", "first, count, stride, tokens, origin", "u32"),
    ],
};

/// The log-probability of one token a row.
#[rustfmt::skip]
pub static SCORE: Shader = Shader {
    name: "score",
    text: include_str!("../score.wgsl"),
    launcher: "esolm::kernels::score::score",
    twins: &["esolm_core::passes::log_probability"],
    slots: &[FINITE_SLOT],
    constants: &["WG", "VOCAB"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        LOGITS,
        binding("wanted", Read, "u32", "[scored rows of the pass]", "u32; tokens"),
        binding("scores", Write, "u32", "[scored rows of the pass]", "the bits of an f32; natural logarithms, NaN for logits that are not finite"),
        binding("info", Uniform, "Info", "first, count, stride, mask_index, origin", "u32"),
    ],
};

#[rustfmt::skip]
const KNOWN: Binding = binding("tokens", Read, "u32", "[sequences][tokens of a sequence]", "u32, row-major; where `dest` of a row points, the mask token where nothing is known");
#[rustfmt::skip]
const PROPOSED: Binding = binding("drawn", Read, "u32", "[sequences][tokens of a sequence]", "u32, row-major; where `dest` of a row points, the token that was drawn for it");
#[rustfmt::skip]
const CONFIDENCES: Binding = binding("confidences", Read, "u32", "[sampled rows of the pass]", "u32; units of 2^-31");

/// How sure the network is of the token drawn for a row.
#[rustfmt::skip]
pub static CONFIDENCE: Shader = Shader {
    name: "confidence",
    text: include_str!("../confidence.wgsl"),
    launcher: "esolm::kernels::reveal::confidence",
    twins: &["esolm_core::reveal::confidence"],
    slots: &[ROW_SLOT, PHILOX_SLOT, FINITE_SLOT, DRAWN_ROW_SLOT, BEST_SLOT, KEPT_SLOT],
    constants: &["WG", "VOCAB", "NO_TOKEN", "BROKEN"],
    floats: &[],
    flags: &[&[], &["FILTER"]],
    bindings: &[
        LOGITS,
        ROWS,
        KNOWN,
        PROPOSED,
        CONFIDENCES.accessed(Write),
        DRAWN_ROW_INFO,
    ],
};

/// Which of the drawn tokens become known.
#[rustfmt::skip]
pub static REVEAL: Shader = Shader {
    name: "reveal",
    text: include_str!("../reveal.wgsl"),
    launcher: "esolm::kernels::reveal::reveal",
    twins: &["esolm_core::reveal::choose"],
    slots: &[ROW_SLOT],
    constants: &["WG", "NO_TOKEN", "BROKEN"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        ROWS,
        PROPOSED,
        CONFIDENCES,
        binding("groups", Read, "vec4<u32>", "[groups][4]", "u32, row-major; the first sampled row of neighbours of one sequence, how many there are, how many of them become known at least, and nothing"),
        KNOWN.accessed(ReadWrite),
        binding("outcome", Write, "u32", "[groups + sampled rows of the pass]", "u32; the rows of each group whose places are still masked, then the token that became known by each row, or the mask token"),
        binding("info", Uniform, "Info", "groups, mask_index, bound, origin", "u32; bound is a confidence"),
    ],
};

/// Slots of the cache that go to others.
#[rustfmt::skip]
pub static MOVE_SLOTS: Shader = Shader {
    name: "move_slots",
    text: include_str!("../move_slots.wgsl"),
    launcher: "esolm::kernels::slots::move_slots",
    twins: &[],
    slots: &[],
    constants: &["WG"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        binding("rows", Read, "vec2<u32>", "[moves][2]", "u32; rows of the cache, from and to"),
        binding("cache_k", ReadWrite, "u32", "[sequences, slots, hidden]", "f32, or two f16 a word"),
        binding("cache_v", ReadWrite, "u32", "[sequences, slots, hidden]", "f32, or two f16 a word"),
        binding("info", Uniform, "Info", "count, words, origin", "u32"),
    ],
};

/// A copy, for the bench.
#[rustfmt::skip]
pub static COPY: Shader = Shader {
    name: "copy",
    text: include_str!("../copy.wgsl"),
    launcher: "esolm::kernels::copy::copy",
    twins: &[],
    slots: &[],
    constants: &["WG"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        binding("source", Read, "vec4<f32>", "[count][4]", "f32, row-major"),
        binding("out", Write, "vec4<f32>", "[count][4]", "f32, row-major"),
        binding("info", Uniform, "Info", "count, origin", "u32"),
    ],
};

/// Arithmetic in registers, for the bench.
#[rustfmt::skip]
pub static PEAK: Shader = Shader {
    name: "peak",
    text: include_str!("../peak.wgsl"),
    launcher: "esolm::kernels::peak::peak",
    twins: &["esolm::kernels::peak::peak_twin"],
    slots: &[],
    constants: &["WG"],
    floats: &[],
    flags: NO_FLAGS,
    bindings: &[
        binding("out", Write, "vec4<f32>", "[invocations][4]", "f32, row-major"),
        binding("info", Uniform, "Info", "rounds, factor, origin", "u32; factor is the bits of an f32"),
    ],
};
