//! Zip containers and pickles that must be rejected, with the message for each, and unusual ones that must open. Run with `--nocapture` to
//! read the messages.

mod common;

use common::assert_told;
use common::forge::{
    self, archive, call, data, dict, entry, global, list, ordered, plain, program, text, tuple,
};
use esolm_checkpoint::{Error, Format, TensorFile};

fn open(bytes: Vec<u8>) -> Result<TensorFile, Error> {
    TensorFile::from_bytes(bytes, Format::PyTorch)
}

/// The pickle of a checkpoint with one tensor.
fn pickle() -> Vec<u8> {
    program(dict(&[("state_dict", ordered(&[("w", plain(&[2], 1))]))]))
}

#[test]
fn zip_containers() {
    let pickle = pickle();
    let good = [
        entry("x/data.pkl", &pickle),
        entry("x/byteorder", b"little"),
        entry("x/data/0", &data()),
    ];
    for wide in [false, true] {
        let file = open(forge::zip(&good, wide)).unwrap();
        assert_eq!(file.f32(file.get("w").unwrap()).unwrap(), [1.0, 2.0]);
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
    // The last directory entry points to the data of the first.
    let overlapping = {
        let mut bytes = bytes.clone();
        let last = bytes.len() - 22 - 46 - "x/data/0".len();
        let target = bytes.windows(4).position(|w| w == b"PK\x03\x04").unwrap() as u32;
        assert_eq!(&bytes[last..last + 4], b"PK\x01\x02");
        bytes[last + 42..last + 46].copy_from_slice(&target.to_le_bytes());
        bytes
    };
    let inside = {
        // A whole entry inside the data of another, the classic way to hide contents.
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
    for (bytes, words) in [
        // truncated zip
        (
            bytes[..bytes.len() - 1].to_vec(),
            "end-of-directory|truncated|copy it again",
        ),
        // half a zip
        (
            bytes[..bytes.len() / 2].to_vec(),
            "end-of-directory|truncated|copy it again",
        ),
        // only a signature
        (
            b"PK\x03\x04".to_vec(),
            "end-of-directory|truncated|copy it again",
        ),
        // compressed entry
        (
            change(&|e| e[2].method = 8),
            "x/data/0|compressed (method 8)|zip -0",
        ),
        // encrypted entry
        (change(&|e| e[0].flags = 1), "x/data.pkl|encrypted|again"),
        // wrong CRC of the pickle
        (change(&|e| e[0].crc_error = 1), "data.pkl|CRC-32|damaged"),
        // one name twice
        (
            change(&|e| e[1].name = "x/data/0".into()),
            "x/data/0|twice|damaged",
        ),
        // no data.pkl
        (
            change(&|e| e[0].name = "x/else.pkl".into()),
            "data.pkl|missing|torch.save",
        ),
        // two data.pkl
        (
            change(&|e| e[1].name = "y/data.pkl".into()),
            "data.pkl|twice|damaged",
        ),
        // no storage
        (
            change(&|e| e[2].name = "x/data/9".into()),
            "x/data/0|missing|torch.save",
        ),
        // big-endian
        (
            change(&|e| e[1].data = b"big".to_vec()),
            "byteorder|little|save it again",
        ),
        // control characters
        (
            change(&|e| {
                e[1].name = "\x1b[2J".into();
                e[1].method = 8;
            }),
            "\\u{1b}[2J|compressed|zip -0",
        ),
        // absurd number of entries
        (patch(14, &[0xff; 4]), "65535 entries|directory|damaged"),
        // split archive
        (patch(18, &[1, 0]), "split archive|damaged|copy it again"),
        // directory elsewhere
        (
            patch(6, &[0xfe; 4]),
            "its directory should be|4278124286|damaged",
        ),
        // offsets to another entry
        (
            overlapping,
            "x/data/0|local header that says otherwise|damaged",
        ),
        // an entry inside another
        (inside, "x/data/0 and x/data/1|overlap|damaged"),
    ] {
        assert_told(open(bytes), words);
    }
    // The checksum of weights is verified when they are read.
    let damaged = open(change(&|e| e[2].crc_error = 1)).unwrap();
    let values = damaged.f32(&damaged.tensors()[0]);
    // wrong CRC of a storage
    assert_told(values, "data/0|CRC-32");
}

#[test]
fn pickles() {
    let ones = |n: usize, byte: u8| program(vec![byte; n]);
    let pickle = pickle();
    for (pickle, words) in [
        // empty pickle
        (vec![], "ends after 0 bytes|truncated|again"),
        // cut pickle
        (
            pickle[..pickle.len() / 2].to_vec(),
            "ends after|truncated|again",
        ),
        // no end
        (
            pickle[..pickle.len() - 1].to_vec(),
            "ends after|truncated|again",
        ),
        // absurd text length
        (
            program(b"X\xff\xff\xff\xffabc".to_vec()),
            "ends after|truncated|again",
        ),
        // absurd bytes length
        (
            program(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc".to_vec()),
            "ends after|truncated|again",
        ),
        // protocol 0
        (
            b"(dp0\nS'state_dict'\n.".to_vec(),
            "instruction 0x70|byte 2|torch.save",
        ),
        // protocol 9
        (b"\x80\x09.".to_vec(), "0x80|protocol above 5|damaged"),
        // empty stack
        (program(b"R".to_vec()), "0x52|byte 2|stack empty"),
        // unknown memo
        (program(b"hA".to_vec()), "0x68|not stored|damaged"),
        // no mark
        (program(b"t".to_vec()), "0x74|no mark|damaged"),
        // odd items
        (program(b"}(Nu".to_vec()), "0x75|without a value|damaged"),
        // append to a number
        (program(b"K\x01K\x01a".to_vec()), "0x61|not a list|damaged"),
        // deep marks
        (ones(1_000_000, b'('), "0x2e|stack empty|damaged"),
        // too many objects
        (
            ones(5_000_000, b'N'),
            "too large|4194304 objects|check the file",
        ),
        // state_dict is a list
        (
            program(dict(&[("state_dict", list(&[]))])),
            "state_dict is a list|dictionary|expected",
        ),
    ] {
        assert_told(open(archive(&pickle)), words);
    }
    // Valid pickles are data: nothing recurses into them, and nothing in them is executed.
    let touch = text("touch /tmp/esolm-was-here");
    for (case, pickle, shown) in [
        ("list as root", program(list(&[])), "a list"),
        (
            "deep lists",
            program([vec![b']'; 1_000_000], vec![b'a'; 999_999]].concat()),
            "a list",
        ),
        (
            "deep tuples",
            program([b"N".to_vec(), vec![0x85; 1_000_000]].concat()),
            "a tuple",
        ),
        (
            "a list in itself",
            program(b"]q\x00h\x00a".to_vec()),
            "a list",
        ),
        (
            "a call of a call",
            program(call(
                call(global("os", "system"), tuple(&[text("true")])),
                tuple(&[]),
            )),
            "an object of an unnamed class",
        ),
        (
            "os.system",
            program(call(global("os", "system"), tuple(&[touch]))),
            "an object of os.system",
        ),
    ] {
        let file = open(archive(&pickle)).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(file.root().unwrap().to_string(), shown, "{case}");
        assert!(file.tensors().is_empty(), "{case}");
    }
    assert!(!std::path::Path::new("/tmp/esolm-was-here").exists());
}
