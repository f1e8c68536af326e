//! Forged containers and pickles, valid and invalid.

#![allow(dead_code)] // every test file uses its own part

/// One entry of a zip.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    pub method: u16,
    pub flags: u16,
    /// Added to the true checksum.
    pub crc_error: u32,
}

pub fn entry(name: &str, data: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        data: data.to_vec(),
        method: 0,
        flags: 0,
        crc_error: 0,
    }
}

/// A zip of these entries; with `wide`, sizes and offsets are written as zip64.
pub fn zip(entries: &[Entry], wide: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let offset = bytes.len();
        let crc = crc32fast::hash(&entry.data).wrapping_add(entry.crc_error);
        let size = entry.data.len() as u32;
        let narrow = if wide { u32::MAX } else { size };
        let mut fixed = Vec::new();
        fixed.extend(20u16.to_le_bytes());
        fixed.extend(entry.flags.to_le_bytes());
        fixed.extend(entry.method.to_le_bytes());
        fixed.extend([0; 4]); // time, date
        fixed.extend(crc.to_le_bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fixed);
        bytes.extend(size.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend((entry.name.len() as u16).to_le_bytes());
        bytes.extend(0u16.to_le_bytes());
        bytes.extend(entry.name.as_bytes());
        bytes.extend(&entry.data);

        let mut extra = Vec::new();
        if wide {
            extra.extend(1u16.to_le_bytes());
            extra.extend(24u16.to_le_bytes());
            extra.extend(u64::from(size).to_le_bytes());
            extra.extend(u64::from(size).to_le_bytes());
            extra.extend((offset as u64).to_le_bytes());
        }
        directory.extend(b"PK\x01\x02");
        directory.extend(20u16.to_le_bytes());
        directory.extend(&fixed);
        directory.extend(narrow.to_le_bytes());
        directory.extend(narrow.to_le_bytes());
        directory.extend((entry.name.len() as u16).to_le_bytes());
        directory.extend((extra.len() as u16).to_le_bytes());
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(if wide { u32::MAX } else { offset as u32 }.to_le_bytes());
        directory.extend(entry.name.as_bytes());
        directory.extend(&extra);
    }
    let (start, count) = (bytes.len(), entries.len());
    bytes.extend(&directory);
    if wide {
        let record = bytes.len() as u64;
        bytes.extend(b"PK\x06\x06");
        bytes.extend(44u64.to_le_bytes());
        bytes.extend([45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // versions, disks
        bytes.extend((count as u64).to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
        bytes.extend((directory.len() as u64).to_le_bytes());
        bytes.extend((start as u64).to_le_bytes());
        bytes.extend(b"PK\x06\x07");
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(record.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
    }
    let narrow = |value: usize| if wide { u32::MAX } else { value as u32 };
    bytes.extend(b"PK\x05\x06");
    bytes.extend([0; 4]);
    bytes.extend((if wide { u16::MAX } else { count as u16 }).to_le_bytes());
    bytes.extend((if wide { u16::MAX } else { count as u16 }).to_le_bytes());
    bytes.extend(narrow(directory.len()).to_le_bytes());
    bytes.extend(narrow(start).to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

/// A pickled value, without the header and STOP of a program.
pub type Value = Vec<u8>;

pub fn text(text: &str) -> Value {
    [
        b"X".as_slice(),
        &(text.len() as u32).to_le_bytes(),
        text.as_bytes(),
    ]
    .concat()
}

pub fn int(value: i32) -> Value {
    [b"J".as_slice(), &value.to_le_bytes()].concat()
}

pub fn float(value: f64) -> Value {
    [b"G".as_slice(), &value.to_be_bytes()].concat()
}

pub fn boolean(value: bool) -> Value {
    vec![if value { 0x88 } else { 0x89 }]
}

pub fn none() -> Value {
    vec![b'N']
}

pub fn dict(pairs: &[(&str, Value)]) -> Value {
    let items: Vec<u8> = pairs
        .iter()
        .flat_map(|(key, value)| [text(key), value.clone()].concat())
        .collect();
    [b"}(".as_slice(), &items, b"u"].concat()
}

pub fn list(items: &[Value]) -> Value {
    [b"](".as_slice(), &items.concat(), b"e"].concat()
}

pub fn tuple(items: &[Value]) -> Value {
    [b"(".as_slice(), &items.concat(), b"t"].concat()
}

pub fn global(module: &str, name: &str) -> Value {
    format!("c{module}\n{name}\n").into_bytes()
}

/// `function(*args)`
pub fn call(function: Value, args: Value) -> Value {
    [function, args, b"R".to_vec()].concat()
}

/// An object of a class, with its fields in a dictionary.
pub fn object(class: Value, fields: Value) -> Value {
    [class, b")R".to_vec(), fields, b"b".to_vec()].concat()
}

pub fn persistent(id: Value) -> Value {
    [id, b"Q".to_vec()].concat()
}

pub fn storage(class: &str, key: &str) -> Value {
    persistent(tuple(&[
        text("storage"),
        global("torch", class),
        text(key),
        text("cpu"),
        int(1),
    ]))
}

/// A tensor as written by torch.save.
pub fn tensor(storage: Value, offset: i32, shape: &[i32], strides: &[i32]) -> Value {
    let sizes = |sizes: &[i32]| tuple(&sizes.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let args = [
        storage,
        int(offset),
        sizes(shape),
        sizes(strides),
        boolean(false),
        dict(&[]),
    ];
    call(global("torch._utils", "_rebuild_tensor_v2"), tuple(&args))
}

pub fn program(value: Value) -> Vec<u8> {
    [b"\x80\x02".as_slice(), &value, b"."].concat()
}

/// A dense tensor of this shape in storage 0.
pub fn plain(shape: &[i32], offset: i32) -> Value {
    let strides: Vec<i32> = (0..shape.len())
        .map(|i| shape[i + 1..].iter().product())
        .collect();
    tensor(storage("FloatStorage", "0"), offset, shape, &strides)
}

/// An OrderedDict, like a `state_dict`.
pub fn ordered(pairs: &[(&str, Value)]) -> Value {
    let items: Vec<u8> = pairs
        .iter()
        .flat_map(|(key, value)| [text(key), value.clone()].concat())
        .collect();
    let empty = call(global("collections", "OrderedDict"), b")".to_vec());
    [empty.as_slice(), b"(", &items, b"u"].concat()
}

/// Storage 0: 0.0, 1.0, ...
pub fn data() -> Vec<u8> {
    (0..17).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

/// A torch.save file with this pickle and one storage.
pub fn archive(pickle: &[u8]) -> Vec<u8> {
    let entries = [
        entry("x/data.pkl", pickle),
        entry("x/byteorder", b"little"),
        entry("x/data/0", &data()),
    ];
    zip(&entries, false)
}
