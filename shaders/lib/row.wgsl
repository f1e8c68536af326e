// One row of a pass (crates/esolm-core/src/rows.rs, `Row`), 32 bytes.
struct Row {
    sequence: u32, // index in the batch
    slot: u32,     // place in the KV cache, or NOWHERE
    position: u32, // natural position, for the rotary embedding
    prefix: u32,   // attends to slots 0..prefix,
    own_start: u32, // and to slots own_start..own_end, beyond the prefix
    own_end: u32,
    source: u32,   // index into the token buffer, or MASKED
    dest: u32,     // index into the token buffer of the drawn token's place, or none
}
const MASKED: u32 = 0xffffffffu;
const NOWHERE: u32 = 0xffffffffu;
