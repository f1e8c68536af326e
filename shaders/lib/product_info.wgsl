struct Info {
    rows: u32,    // rows of this product
    row0: u32,    // first row of x
    stride4: u32, // row stride of a stored output, in groups of four columns
    col4: u32,    // first column group of a stored output
    slots: u32,   // cache slots per sequence
    block: u32,   // rows per block (ROWS)
    span: u32,    // groups of four inputs that a workgroup sums
    parts: u32,   // parts to add to x
    origin: vec3<u32>, // first workgroup of this launch
}
@group(0) @binding({{info}}) var<uniform> info: Info;
