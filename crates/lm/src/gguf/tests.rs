use proptest::prelude::*;

use super::*;
use crate::limits;

/// A small file with every kind of metadata value and two tensors.
fn sample() -> Vec<u8> {
    let mut metadata = Metadata::new();
    for (index, value) in sample_values().into_iter().enumerate() {
        metadata.set(format!("key.{index}"), value);
    }
    let specs = [
        TensorSpec {
            name: "norm".into(),
            dimensions: vec![3],
            tensor_type: TensorType::F32,
        },
        TensorSpec {
            name: "matrix".into(),
            dimensions: vec![32, 2],
            tensor_type: TensorType::Q8_0,
        },
    ];
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &specs).unwrap();
    writer.tensor(&[1; 12]).unwrap();
    writer.tensor(&[2; 68]).unwrap();
    writer.finish().unwrap()
}

fn sample_values() -> Vec<Value> {
    vec![
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U32(3),
        Value::I32(-3),
        Value::F32(0.5),
        Value::Bool(true),
        Value::String("text".into()),
        Value::U64(u64::MAX),
        Value::I64(i64::MIN),
        Value::F64(-0.25),
        Value::Array(Array::String(vec!["a".into(), "".into()])),
        Value::Array(Array::Array(vec![Array::U8(vec![1]), Array::Bool(vec![false])])),
        Value::Array(Array::F32(vec![])),
    ]
}

#[test]
fn what_is_written_is_read_back() {
    let file = sample();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.version, 3);
    let values: Vec<Value> = gguf.metadata.iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(values, sample_values());
    let matrix = gguf.tensor("matrix").unwrap();
    assert_eq!((matrix.offset, matrix.bytes, matrix.elements()), (32, 68, 64));
    assert_eq!(gguf.tensor_bytes(&file, matrix).unwrap(), [2; 68]);
    assert!(gguf.data_offset.is_multiple_of(32));
}

#[test]
fn a_header_is_read_from_a_prefix_and_more_bytes_are_asked_for() {
    let file = sample();
    let header = Gguf::parse(&file).unwrap().data_offset as usize;
    assert_eq!(
        Gguf::parse_header(&file[..header], file.len() as u64),
        Gguf::parse(&file)
    );
    for length in 0..header - limits_padding(&file) {
        let error = Gguf::parse_header(&file[..length], file.len() as u64).unwrap_err();
        assert!(error.needs_more_bytes(), "{length}: {error}");
    }
    let error = Gguf::parse(&file[..header + 40]).unwrap_err();
    assert!(
        matches!(error, GgufError::TensorOutside { ref name, .. } if name == "matrix"),
        "{error}"
    );
}

#[test]
fn a_header_longer_than_the_first_read_is_read_from_a_stream() {
    let mut metadata = Metadata::new();
    metadata.set("tokens", Value::Array(Array::String(vec!["a word".into(); 200_000])));
    let specs = [TensorSpec {
        name: "t".into(),
        dimensions: vec![1 << 20],
        tensor_type: TensorType::F32,
    }];
    let mut writer = GgufWriter::new(Vec::new(), &metadata, &specs).unwrap();
    writer.tensor(&vec![0; 4 << 20]).unwrap();
    let file = writer.finish().unwrap();
    let mut stream = file.as_slice();
    assert_eq!(
        Gguf::read_header(&mut stream, file.len() as u64).unwrap(),
        Gguf::parse(&file).unwrap()
    );
    assert!(stream.len() >= 2 << 20, "the rest of the file is not read");
    let cut = Gguf::read_header(&mut &file[..2 << 20], file.len() as u64).unwrap_err();
    assert!(matches!(cut, HeaderError::Gguf(GgufError::Truncated { .. })), "{cut}");
}

/// Zero bytes between the last tensor's description and the data, which nobody needs to have.
fn limits_padding(file: &[u8]) -> usize {
    let gguf = Gguf::parse(file).unwrap();
    let described = (0..gguf.data_offset as usize)
        .find(|length| Gguf::parse_header(&file[..*length], file.len() as u64).is_ok())
        .unwrap();
    gguf.data_offset as usize - described
}

/// Bytes of a hostile file, put together by hand.
struct Hostile(Vec<u8>);

impl Hostile {
    fn new(tensors: u64, metadata: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(metadata)
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(mut self, text: &[u8]) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text);
        self
    }

    fn tensor(self, name: &str, dimensions: &[u64], tensor_type: u32, offset: u64) -> Self {
        let described = self.text(name.as_bytes()).u32(dimensions.len() as u32);
        dimensions
            .iter()
            .fold(described, |file, dimension| file.u64(*dimension))
            .u32(tensor_type)
            .u64(offset)
    }

    fn refused(&self, expected: &str) {
        let error = Gguf::parse(&self.0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    }
}

#[test]
fn attack_counts_and_lengths_that_exhaust_memory() {
    Hostile::new(u64::MAX, 0).refused("the number of tensors is 18446744073709551615, and the limit is 65536");
    Hostile::new(0, u64::MAX).refused("the number of metadata entries is");
    Hostile::new(0, 1)
        .u64(u64::MAX)
        .refused("the length of the key of metadata entry 0");
    Hostile::new(0, 1)
        .text(b"k")
        .u32(8)
        .u64(1 << 40)
        .refused("the length of metadata k");
    Hostile::new(0, 1)
        .text(b"k")
        .u32(9)
        .u32(4)
        .u64(u64::MAX)
        .refused("the number of elements of metadata k");
    Hostile::new(0, 1)
        .text(b"k")
        .u32(9)
        .u32(10)
        .u64(limits::MAX_ARRAY_ELEMENTS)
        .refused("metadata k is cut off");
    Hostile::new(0, 1)
        .text(b"k")
        .u32(9)
        .u32(8)
        .u64(limits::MAX_ARRAY_ELEMENTS)
        .refused("is cut off");
}

#[test]
fn attack_arrays_nested_without_end() {
    let nested = (0..10_000).fold(Hostile::new(0, 1).text(b"k").u32(9), |file, _| file.u32(9).u64(1));
    nested.refused("the nesting of metadata k is 3, and the limit is 2");
}

#[test]
fn attack_values_that_mean_nothing() {
    Hostile(b"GGML....".to_vec()).refused("expected \"GGUF\"");
    Hostile(b"GGUF".to_vec()).u32(4).refused("version 4, expected 2 or 3");
    Hostile::new(0, 1)
        .text(b"k")
        .u32(13)
        .refused("metadata k: the value type is 13");
    Hostile::new(0, 1)
        .text(b"\xff")
        .u32(0)
        .refused("the key of metadata entry 0: it is not UTF-8");
    Hostile::new(0, 2)
        .text(b"k")
        .u32(10)
        .u64(1)
        .text(b"k")
        .refused("metadata k: the key appears twice");
    Hostile::new(0, 1)
        .text(b"general.alignment")
        .u32(4)
        .u32(0)
        .refused("the alignment is 0");
    Hostile::new(0, 1)
        .text(b"general.alignment")
        .u32(4)
        .u32(48)
        .refused("the alignment is 48");
    Hostile::new(0, 1)
        .text(b"general.alignment")
        .u32(10)
        .u64(1 << 62)
        .refused("and the limit is 65536");
    Hostile::new(0, 1)
        .text(b"general.alignment")
        .u32(8)
        .text(b"x")
        .refused("general.alignment");
}

#[test]
fn attack_tensors_that_lie_about_their_place() {
    Hostile::new(1, 0)
        .tensor("t", &[1 << 31; 4], 0, 0)
        .refused("tensor t: ");
    Hostile::new(1, 0)
        .tensor("t", &[4], 0, u64::MAX - 31)
        .refused("tensor t ends at byte");
    Hostile::new(1, 0)
        .tensor("t", &[4], 0, 4)
        .refused("no multiple of the alignment");
    Hostile::new(1, 0)
        .tensor("t", &[0], 0, 0)
        .refused("tensor t: a dimension is 0");
    Hostile::new(1, 0)
        .tensor("t", &[33], 8, 0)
        .refused("no whole number of Q8_0 blocks");
    Hostile::new(1, 0)
        .tensor("t", &[1; 5], 0, 0)
        .refused("the number of dimensions of tensor t is 5");
    Hostile::new(1, 0)
        .tensor("t", &[1], 99, 0)
        .refused("tensor t: its type 99 is not known");
    Hostile::new(2, 0)
        .tensor("t", &[1], 0, 0)
        .tensor("t", &[1], 0, 32)
        .refused("tensor t: the name appears twice");
    let mut overlapping = Hostile::new(2, 0).tensor("t", &[16], 0, 0).tensor("u", &[16], 0, 32);
    overlapping.0.resize(512, 0);
    overlapping.refused("tensor u: it overlaps tensor t");
}

#[test]
fn a_writer_refuses_what_the_header_does_not_say() {
    let spec = |dimensions: Vec<u64>, tensor_type| TensorSpec {
        name: "t".into(),
        dimensions,
        tensor_type,
    };
    let new = |specs: &[TensorSpec]| GgufWriter::new(Vec::new(), &Metadata::new(), specs);
    assert!(matches!(
        new(&[spec(vec![31], TensorType::Q4_0)]),
        Err(WriteError::Blocks { .. })
    ));
    let mut writer = new(&[spec(vec![2], TensorType::F32)]).unwrap();
    assert!(matches!(
        writer.tensor(&[0; 7]),
        Err(WriteError::TensorLength {
            found: 7,
            expected: 8,
            ..
        })
    ));
    assert!(matches!(
        writer.finish(),
        Err(WriteError::TensorCount { written: 0, listed: 1 })
    ));
}

#[test]
fn no_flipped_byte_and_no_truncation_panics() {
    let file = sample();
    for length in 0..file.len() {
        let _ = Gguf::parse(&file[..length]);
    }
    for at in 0..file.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut damaged = file.clone();
            damaged[at] ^= flip;
            if let Ok(gguf) = Gguf::parse(&damaged) {
                for tensor in &gguf.tensors {
                    assert!(gguf.tensor_bytes(&damaged, tensor).is_some());
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_after_the_magic_number_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = Gguf::parse(&[b"GGUF\x03\0\0\0".as_slice(), &bytes].concat());
    }

    #[test]
    fn any_file_that_is_written_is_read_back(
        entries in proptest::collection::btree_map("[a-z.]{1,20}", any::<(u64, String)>(), 0..8),
        widths in proptest::collection::vec((1_u64..9, 1_u64..5), 0..6),
    ) {
        let mut metadata = Metadata::new();
        for (key, (number, text)) in entries {
            metadata.set(format!("{key}.n"), Value::U64(number));
            metadata.set(format!("{key}.s"), Value::Array(Array::String(vec![text])));
        }
        let specs: Vec<TensorSpec> = widths.iter().enumerate().map(|(index, (columns, rows))| TensorSpec {
            name: format!("t{index}"),
            dimensions: vec![*columns, *rows],
            tensor_type: TensorType::F16,
        }).collect();
        let mut writer = GgufWriter::new(Vec::new(), &metadata, &specs).unwrap();
        for (index, spec) in specs.iter().enumerate() {
            writer.tensor(&vec![index as u8; spec.bytes().unwrap() as usize]).unwrap();
        }
        let file = writer.finish().unwrap();
        let gguf = Gguf::parse(&file).unwrap();
        prop_assert_eq!(&gguf.metadata, &metadata);
        for (index, spec) in specs.iter().enumerate() {
            let tensor = gguf.tensor(&spec.name).unwrap();
            prop_assert_eq!(&tensor.dimensions, &spec.dimensions);
            prop_assert!(gguf.tensor_bytes(&file, tensor).unwrap().iter().all(|byte| *byte == index as u8));
        }
    }
}
