//! Zip containers and pickles that must not open, and what each of them is told; and odd ones that must. Run with `--nocapture` to read the
//! messages.

mod common;
#[path = "common/forge.rs"]
mod forge;

use common::assert_told;
use esolm_core::checkpoint::Checkpoint;
use forge::{
    Forged, call, data, dict, entry, global, list, none, open_pickle, program, text, tuple,
};

#[test]
fn zip_containers() {
    let pickle = Forged::new().pickle();
    let good = [
        entry("x/data.pkl", &pickle),
        entry("x/byteorder", b"little"),
        entry("x/data/0", &data()),
    ];
    for wide in [false, true] {
        let checkpoint = Checkpoint::from_ckpt_bytes(forge::zip(&good, wide), false).unwrap();
        assert_eq!(checkpoint.f32("blocks.0.norm1.weight").unwrap(), [1.0, 2.0]);
        assert_eq!(checkpoint.config().prepend.to_string(), "bos");
    }
    let bytes = forge::zip(&good, false);
    let change = |edit: &dyn Fn(&mut Vec<forge::Entry>)| {
        let mut entries = good.to_vec();
        edit(&mut entries);
        forge::zip(&entries, false)
    };
    let patch = |at_from_end: usize, value: &[u8]| {
        let mut bytes = bytes.clone();
        let at = bytes.len() - at_from_end;
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    // The second directory entry begins where the third's offset field is made to point.
    let overlapping = {
        let mut bytes = bytes.clone();
        let last = bytes.len() - 22 - 46 - "x/data/0".len();
        let target = bytes.windows(4).position(|w| w == b"PK\x03\x04").unwrap() as u32;
        assert_eq!(&bytes[last..last + 4], b"PK\x01\x02");
        bytes[last + 42..last + 46].copy_from_slice(&target.to_le_bytes());
        bytes
    };
    let inside = {
        // A whole entry inside the data of another one: the classic of hidden contents.
        let hidden = forge::zip(&[entry("x/data/1", b"secret")], false);
        let outer = [
            entry("x/data.pkl", &pickle),
            entry("x/data/0", &hidden),
            entry("x/data/1", b"secret"),
        ];
        let mut bytes = forge::zip(&outer, false);
        let last = bytes.len() - 22 - 46 - "x/data/1".len();
        let target = bytes.windows(40).position(|w| w == &hidden[..40]).unwrap() as u32;
        bytes[last + 42..last + 46].copy_from_slice(&target.to_le_bytes());
        bytes
    };
    for (case, bytes, words) in [
        (
            "truncated zip",
            bytes[..bytes.len() - 1].to_vec(),
            ["end-of-directory", "truncated", "copy it again"],
        ),
        (
            "half a zip",
            bytes[..bytes.len() / 2].to_vec(),
            ["end-of-directory", "truncated", "copy it again"],
        ),
        (
            "only a signature",
            b"PK\x03\x04".to_vec(),
            ["end-of-directory", "truncated", "copy it again"],
        ),
        (
            "compressed entry",
            change(&|e| e[2].method = 8),
            ["x/data/0", "compressed (method 8)", "zip -0"],
        ),
        (
            "encrypted entry",
            change(&|e| e[0].flags = 1),
            ["x/data.pkl", "encrypted", "again"],
        ),
        (
            "wrong CRC of the pickle",
            change(&|e| e[0].crc_error = 1),
            ["data.pkl", "CRC-32", "damaged"],
        ),
        (
            "one name twice",
            change(&|e| e[1].name = "x/data/0".into()),
            ["x/data/0", "twice", "damaged"],
        ),
        (
            "no data.pkl",
            change(&|e| e[0].name = "x/else.pkl".into()),
            ["data.pkl", "missing", "torch.save"],
        ),
        (
            "two data.pkl",
            change(&|e| e[1].name = "y/data.pkl".into()),
            ["data.pkl", "twice", "damaged"],
        ),
        (
            "no storage",
            change(&|e| e[2].name = "x/data/9".into()),
            ["x/data/0", "missing", "torch.save"],
        ),
        (
            "big-endian",
            change(&|e| e[1].data = b"big".to_vec()),
            ["byteorder", "little", "save it again"],
        ),
        (
            "control characters",
            change(&|e| {
                e[1].name = "\x1b[2J".into();
                e[1].method = 8;
            }),
            ["\\u{1b}[2J", "compressed", "zip -0"],
        ),
        (
            "absurd number of entries",
            patch(14, &[0xff; 4]),
            ["65535 entries", "directory", "damaged"],
        ),
        (
            "split archive",
            patch(18, &[1, 0]),
            ["split archive", "damaged", "copy it again"],
        ),
        (
            "directory elsewhere",
            patch(6, &[0xfe; 4]),
            ["its directory should be", "4278124286", "damaged"],
        ),
        (
            "offsets to another entry",
            overlapping,
            ["x/data/0", "local header that says otherwise", "damaged"],
        ),
        (
            "an entry inside another",
            inside,
            ["x/data/0 and x/data/1", "overlap", "damaged"],
        ),
    ] {
        assert_told(case, Checkpoint::from_ckpt_bytes(bytes, false), &words);
    }
    // The checksum of weights is compared when they are read.
    let damaged = Checkpoint::from_ckpt_bytes(change(&|e| e[2].crc_error = 1), false).unwrap();
    let message = damaged
        .f32("blocks.0.norm1.weight")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("data/0") && message.contains("CRC-32"),
        "{message}"
    );
}

#[test]
fn pickles() {
    let ones = |n: usize, byte: u8| program(vec![byte; n]);
    let pickle = Forged::new().pickle();
    for (case, pickle, words) in [
        (
            "empty pickle",
            vec![],
            ["ends after 0 bytes", "truncated", "again"],
        ),
        (
            "cut pickle",
            pickle[..pickle.len() / 2].to_vec(),
            ["ends after", "truncated", "again"],
        ),
        (
            "no end",
            pickle[..pickle.len() - 1].to_vec(),
            ["ends after", "truncated", "again"],
        ),
        (
            "absurd text length",
            program(b"X\xff\xff\xff\xffabc".to_vec()),
            ["ends after", "truncated", "again"],
        ),
        (
            "absurd bytes length",
            program(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc".to_vec()),
            ["ends after", "truncated", "again"],
        ),
        (
            "protocol 0",
            b"(dp0\nS'state_dict'\n.".to_vec(),
            ["instruction 0x70", "byte 2", "torch.save"],
        ),
        (
            "protocol 9",
            b"\x80\x09.".to_vec(),
            ["0x80", "protocol above 5", "damaged"],
        ),
        (
            "empty stack",
            program(b"R".to_vec()),
            ["0x52", "byte 2", "stack empty"],
        ),
        (
            "unknown memo",
            program(b"hA".to_vec()),
            ["0x68", "not stored", "damaged"],
        ),
        (
            "no mark",
            program(b"t".to_vec()),
            ["0x74", "no mark", "damaged"],
        ),
        (
            "odd items",
            program(b"}(Nu".to_vec()),
            ["0x75", "without a value", "damaged"],
        ),
        (
            "append to a number",
            program(b"K\x01K\x01a".to_vec()),
            ["0x61", "no list", "damaged"],
        ),
        (
            "list as root",
            program(list(&[])),
            ["root is a list", "state_dict", "Lightning"],
        ),
        (
            "deep lists",
            program([vec![b']'; 1_000_000], vec![b'a'; 999_999]].concat()),
            ["root is a list", "state_dict", "Lightning"],
        ),
        (
            "deep tuples",
            program([b"N".to_vec(), vec![0x85; 1_000_000]].concat()),
            ["root is a tuple", "state_dict", "Lightning"],
        ),
        (
            "deep marks",
            ones(1_000_000, b'('),
            ["0x2e", "stack empty", "damaged"],
        ),
        (
            "too many objects",
            ones(5_000_000, b'N'),
            ["too large", "4194304 objects", "check the file"],
        ),
        (
            "a list in itself",
            program(b"]q\x00h\x00a".to_vec()),
            ["root is a list", "state_dict", "Lightning"],
        ),
        (
            "a call of a call",
            program(call(
                call(global("os", "system"), tuple(&[text("true")])),
                tuple(&[]),
            )),
            ["root is an object", "state_dict", "Lightning"],
        ),
        (
            "os.system",
            program(call(
                global("os", "system"),
                tuple(&[text("touch /tmp/esolm-was-here")]),
            )),
            ["root is an object of os.system", "state_dict", "Lightning"],
        ),
        (
            "no state_dict",
            program(dict(&[("weights", none())])),
            ["no state_dict", "Lightning", ".ckpt"],
        ),
        (
            "state_dict is a list",
            program(dict(&[("state_dict", list(&[]))])),
            ["state_dict is a list", "dictionary", "expected"],
        ),
    ] {
        assert_told(case, open_pickle(&pickle), &words);
    }
    assert!(!std::path::Path::new("/tmp/esolm-was-here").exists());
}
