use super::*;
use crate::random::{Key, Stream};
use candle_core::DType;
use std::io::Write;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/weights").join(name)
}

fn temporary(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn message(path: &Path) -> String {
    read(path).unwrap_err().to_string()
}

/// Every tensor of the fixtures holds `0.5 i - 1`.
fn assert_values(tensors: &BTreeMap<String, Tensor>, prefix: &str, file: &str) {
    for (name, shape) in
        [("conv1.weight", &[2, 3, 2, 2][..]), ("bn1.weight", &[2]), ("fc.weight", &[3, 2]), ("fc.bias", &[3])]
    {
        let tensor = tensors.get(&format!("{prefix}{name}")).unwrap_or_else(|| panic!("{file} lacks {name}"));
        assert_eq!(tensor.dims(), shape, "{file} {name}");
        let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let expected: Vec<f32> = (0..values.len()).map(|i| 0.5 * i as f32 - 1.).collect();
        assert_eq!(values, expected, "{file} {name}");
    }
}

#[test]
fn torch_files_hold_their_values() {
    let files = [
        ("zip.pth", "", DType::F32),
        ("zip_deflated.pth", "", DType::F32),
        ("zip_protocol4.pth", "backbone.", DType::F32),
        ("zip_bf16.pth", "", DType::BF16),
        ("zip_f16.pth", "", DType::F16),
        ("zip_views.pth", "", DType::F32),
        ("zip_training.pth", "module.", DType::F32),
        ("legacy.pth", "", DType::F32),
        ("legacy_protocol4.pth", "backbone.", DType::F32),
        ("legacy_bf16.pth", "", DType::BF16),
        ("legacy_f16.pth", "", DType::F16),
        ("legacy_views.pth", "", DType::F32),
        ("legacy_training.pth", "module.", DType::F32),
    ];
    for (file, prefix, dtype) in files {
        let tensors = read(&fixture(file)).unwrap_or_else(|error| panic!("{error}"));
        assert_values(&tensors, prefix, file);
        assert_eq!(tensors[&format!("{prefix}fc.bias")].dtype(), dtype, "{file}");
        if !file.ends_with("views.pth") {
            let batches = &tensors[&format!("{prefix}bn1.num_batches_tracked")];
            assert_eq!((batches.dims(), batches.to_scalar::<i64>().unwrap()), (&[][..], 7), "{file}");
        }
    }
    for file in ["zip_views.pth", "legacy_views.pth"] {
        let tensors = read(&fixture(file)).unwrap();
        assert_eq!(tensors["empty"].dims(), [0, 3]);
        assert_eq!(tensors["scalar"].to_scalar::<f32>().unwrap(), -1.);
        assert_eq!(tensors["expanded"].to_vec2::<f32>().unwrap(), [[-1., -1.], [-1., -1.]]);
    }
}

#[test]
fn safetensors_files_hold_their_values() {
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let zip = read(&fixture("zip.pth")).unwrap();
        let tensors: std::collections::HashMap<String, Tensor> =
            zip.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap())).collect();
        let file = temporary(b"");
        candle_core::safetensors::save(&tensors, file.path()).unwrap();
        let tensors = read(file.path()).unwrap();
        assert_values(&tensors, "", "safetensors");
        assert_eq!(tensors["fc.bias"].dtype(), dtype);
    }
}

#[test]
fn nothing_is_executed() {
    for (file, named) in [
        ("zip_malicious.pth", "posix.system"),
        ("legacy_malicious.pth", "posix.system"),
        ("zip_module.pth", "torch.nn.modules.linear.Linear"),
    ] {
        let message = message(&fixture(file));
        assert!(message.contains(&format!("`{named}`")) && message.contains("nothing was executed"), "{message}");
    }
    assert!(!Path::new("executed-by-pickle").exists());
}

#[test]
fn files_that_are_no_checkpoint_say_what_they_look_like() {
    for (bytes, expected) in [
        (&b""[..], "it is empty"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"\x89PNG\r\n", "no checkpoint"),
        (b"\x80\x02}q\x00.", "was not written by torch.save"),
        (b"PK\x03\x04 and then nothing", "zip archive is damaged"),
    ] {
        let message = message(temporary(bytes).path());
        assert!(message.contains(expected), "{message}");
    }
    assert!(message(&fixture("zip_no_tensors.pth")).contains("no dict of tensors"));
    assert!(message(&fixture("legacy_no_tensors.pth")).contains("keys: epoch, names"));
    assert!(message(&fixture("absent.pth")).starts_with("cannot read"));
    assert!(message(&fixture("")).contains("not a regular file"));
}

#[test]
fn safetensors_headers_are_bounded_and_checked() {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        message(temporary(&bytes).path())
    };
    let one = |dtype: &str, shape: &str, end: usize| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#)
    };
    assert!(file(&one("F32", "[2]", 8), 4).contains("truncated"));
    assert!(file(&one("F32", "[2]", 8), 12).contains("truncated or damaged"));
    assert!(file(&one("F32", "[2]", 12), 12).contains("header is damaged"));
    assert!(file(&one("F32", "[4294967296,4294967296,4294967296]", 8), 8).contains("header is damaged"));
    assert!(file(&one("C64", "[1]", 8), 8).contains("`a` holds C64"));
    assert!(file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8).contains("header is damaged"));
    assert!(file("{nonsense", 0).contains("header is damaged"));
    assert!(file(&format!("{{{}", " ".repeat(2 << 20)), 0).contains("at most 1 MiB"));
    let mut many = String::from("{");
    for i in 0..6000 {
        many += &format!(r#"{}"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, if i == 0 { "" } else { "," });
    }
    assert!(file(&(many + "}"), 0).contains("6000 tensors"));
    let mut lie = u64::MAX.to_le_bytes().to_vec();
    lie.extend_from_slice(b"{}");
    assert!(message(temporary(&lie).path()).contains("header claims"));
}

/// A legacy file around a pickle.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    bytes.extend_from_slice(b"\x80\x02");
    bytes.extend_from_slice(pickle);
    bytes.extend_from_slice(b".\x80\x02].");
    bytes
}

#[test]
fn hostile_pickles_are_refused_in_bounded_time_and_memory() {
    let tensor = |len: &[u8], offset: &[u8], shape: &[u8], strides: &[u8]| {
        let mut pickle = b"}X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu".to_vec();
        pickle.extend_from_slice(len);
        pickle.extend_from_slice(b"NtQ");
        pickle.extend_from_slice(offset);
        pickle.extend_from_slice(shape);
        pickle.extend_from_slice(strides);
        pickle.extend_from_slice(b"\x89}tRs");
        legacy(&pickle)
    };
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let nested = [vec![b'('; 1 << 20], vec![b't'; 1 << 20]].concat();
    let imports = b"cos\nsystem\n(X\x02\0\0\0lstR".to_vec();
    let by_stack = b"\x8c\x08builtins\x8c\x04eval\x93".to_vec();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (tensor(b"K\x04", b"K\x00", b"K\x05\x85", b"K\x01\x85"), "reaches out of its storage"),
        (tensor(b"K\x04", b"K\x04", b"K\x01\x85", b"K\x01\x85"), "reaches out of its storage"),
        (tensor(b"K\x04", b"J\xff\xff\xff\xff", b"K\x01\x85", b"K\x01\x85"), "whole numbers from 0"),
        (tensor(b"K\x04", b"K\x00", b"K\x02\x85", &[huge, &b"\x85"[..]].concat()), "reaches out of its storage"),
        (tensor(b"K\x04", b"K\x00", b"K\x02\x85", b"K\x01K\x01\x86"), "1 dimensions and 2 strides"),
        (tensor(b"K\x04", b"K\x00", b"J\0\0\0\x70\x85", b"K\x00\x85"), "they repeat their storage"),
        (tensor(b"J\0\0\0\x70", b"K\x00", b"K\x01\x85", b"K\x01\x85"), "lacks the storage of `a`"),
        (legacy(&imports), "`os.system`"),
        (legacy(&by_stack), "`builtins.eval`"),
        (legacy(b"ctorch.storage\n_load_from_bytes\n"), "`torch.storage._load_from_bytes`"),
        (legacy(&nested), "no dict of tensors"),
        (legacy(&vec![b'N'; 2 << 20]), "millions of items"),
        (legacy(&vec![b']'; 8 << 20]), "millions of items"),
        (legacy(b"X\xff\xff\xff\xff"), "ends in the middle"),
        (legacy(b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"), "ends in the middle"),
        (legacy(b"h\x07"), "has not made"),
        (legacy(b"0"), "more from its stack"),
        (legacy(b"t"), "more from its stack"),
        (legacy(b"(0t"), "more from its stack"),
        (legacy(b"NNR"), "calls something"),
        (legacy(b"\x82\x01"), "opcode 0x82"),
        (legacy(&[b"]q\0".to_vec(), b"h\0a".repeat(1000)].concat()), "no dict of tensors"),
    ];
    for (bytes, expected) in cases {
        let message = message(temporary(&bytes).path());
        assert!(message.contains(expected), "expected `{expected}`: {message}");
    }
}

#[test]
fn a_zip_bomb_is_refused() {
    let mut bomb = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    bomb.start_file("archive/data.pkl", options).unwrap();
    let zeros = vec![0u8; 1 << 20];
    for _ in 0..80 {
        bomb.write_all(&zeros).unwrap();
    }
    let bytes = bomb.finish().unwrap().into_inner();
    assert!(bytes.len() < 1 << 20);
    assert!(message(temporary(&bytes).path()).contains("more than four times its size"));
}

/// Bytes changed, cut or inserted at random: an error or tensors, never a panic.
#[test]
fn damaged_files_do_not_panic() {
    let mut stream = Stream::new(Key { seed: 1, stream: 0, step: 0, index: 0 });
    let safetensors = temporary(b"");
    let tensors: std::collections::HashMap<String, Tensor> = read(&fixture("zip.pth")).unwrap().into_iter().collect();
    candle_core::safetensors::save(&tensors, safetensors.path()).unwrap();
    let files = ["zip.pth", "zip_deflated.pth", "zip_training.pth", "legacy_views.pth", "legacy_training.pth"];
    let paths = files.iter().map(|file| fixture(file)).chain([safetensors.path().to_path_buf()]);
    for path in paths {
        let whole = std::fs::read(path).unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            match stream.below(4) {
                0 => bytes.truncate(stream.below(whole.len() as u64) as usize),
                1 => {
                    let at = stream.below(whole.len() as u64) as usize;
                    bytes.insert(at, stream.next_u32() as u8);
                }
                _ => {
                    for _ in 0..=stream.below(4) {
                        let at = stream.below(whole.len() as u64) as usize;
                        bytes[at] ^= 1 << stream.below(8);
                    }
                }
            }
            let _either = read(temporary(&bytes).path());
        }
    }
}

#[test]
fn values_of_a_file_are_loaded_by_name() {
    let shapes =
        [("conv1.weight", vec![2, 3, 2, 2]), ("bn1.weight", vec![2]), ("fc.weight", vec![3, 2]), ("fc.bias", vec![3])];
    let target = Target {
        shapes: shapes.map(|(name, shape)| (name.to_string(), shape)).into(),
        classifier: Some("fc".into()),
        first_conv: "conv1".into(),
    };
    let loaded = load(&fixture("legacy_training.pth"), &target, &Adapt::default()).unwrap();
    assert_values(&loaded.tensors, "", "legacy_training.pth");
    assert_eq!(loaded.report.loaded.len(), 4);
    let message = load(&fixture("zip_views.pth"), &target, &Adapt::default()).unwrap_err().to_string();
    assert!(message.contains("zip_views.pth: the weights do not fit") && message.contains("empty, expanded, scalar"));
}
