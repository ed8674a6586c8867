//! The files of `torch.save`: a zip archive since 1.6, before that pickles followed by the storages.

use super::pickle::{self, Element, Pickle, StorageRef, TensorRef, Value};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};
use std::rc::Rc;
use zip::{CompressionMethod, ZipArchive};

type Tensors = BTreeMap<String, Tensor>;

/// Under which keys training scripts put the weights, the better ones first.
const NESTED: [&str; 7] = ["state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema", "net", "network"];

/// The long at the start of a legacy file, little endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

pub(super) fn read_zip(file: &mut (impl Read + Seek), file_len: u64) -> Result<Tensors, String> {
    let mut archive =
        ZipArchive::new(BufReader::new(file)).map_err(|error| format!("the zip archive is damaged: {error}"))?;
    let pickles: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|name| name.rsplit_once('/').is_some_and(|(_, file)| file == "data.pkl"))
        .map(|name| name.into_owned())
        .collect();
    let [pickle] = pickles.as_slice() else {
        return Err(format!("a zip archive of torch.save holds one data.pkl, this one {}", pickles.len()));
    };
    let folder = pickle.trim_end_matches("data.pkl");
    let mut budget = most_bytes(file_len);
    if archive.index_for_name(&format!("{folder}byteorder")).is_some() {
        let order = entry(&mut archive, &format!("{folder}byteorder"), &mut budget)?;
        check_byte_order(order == b"little")?;
    }
    let bytes = entry(&mut archive, pickle, &mut budget)?;
    let pickle = pickle::read(&mut bytes.as_slice())?;
    let wanted = state_dict(&pickle, file_len)?;
    let mut tensors = Tensors::new();
    for (key, wanted) in by_storage(&pickle, &wanted) {
        let bytes = entry(&mut archive, &format!("{folder}data/{key}"), &mut budget)?;
        for (name, tensor) in wanted {
            tensors.insert(name.to_string(), gather(name, &bytes, tensor, &pickle.storages[tensor.storage])?);
        }
    }
    Ok(tensors)
}

pub(super) fn read_legacy(file: &mut (impl Read + Seek), file_len: u64) -> Result<Tensors, String> {
    let mut file = BufReader::new(file);
    match pickle::read(&mut file)?.root {
        Value::Long(magic) if *magic == MAGIC => {}
        _ => return Err("the pickle was not written by torch.save".into()),
    }
    match pickle::read(&mut file)?.root {
        Value::Int(1001) => {}
        _ => return Err("the file has a protocol of torch.save other than 1001".into()),
    }
    let system = pickle::read(&mut file)?;
    let big_endian = dict(&system, &system.root).into_iter().flatten().any(
        |(key, value)| matches!((key, value), (Value::Text(key), Value::Bool(false)) if key.as_ref() == "little_endian"),
    );
    check_byte_order(!big_endian)?;
    let pickle = pickle::read(&mut file)?;
    let wanted = state_dict(&pickle, file_len)?;
    let mut wanted = by_storage(&pickle, &wanted);

    let keys = pickle::read(&mut file)?;
    let Value::List(id) = keys.root else { return Err("the file lacks the list of its storages".into()) };
    let elements: BTreeMap<&Rc<str>, Element> =
        pickle.storages.iter().map(|storage| (&storage.key, storage.element)).collect();
    let mut tensors = Tensors::new();
    for key in &keys.sequences[id] {
        let Value::Text(key) = key else { return Err("a storage's key must be text".into()) };
        let element = elements.get(key).ok_or("the file lists a storage that nothing refers to")?;
        let mut len = [0; 8];
        file.read_exact(&mut len).map_err(|_| TRUNCATED)?;
        let len = u64::from_le_bytes(len).checked_mul(element.size() as u64).ok_or(TRUNCATED)?;
        let left = file_len.saturating_sub(file.stream_position().map_err(|error| error.to_string())?);
        if len > left {
            return Err(TRUNCATED.into());
        }
        match wanted.remove(key) {
            None => {
                let len = i64::try_from(len).map_err(|_| TRUNCATED)?;
                file.seek_relative(len).map_err(|error| error.to_string())?;
            }
            Some(wanted) => {
                let mut bytes = vec![0; usize::try_from(len).map_err(|_| TRUNCATED)?];
                file.read_exact(&mut bytes).map_err(|_| TRUNCATED)?;
                for (name, tensor) in wanted {
                    tensors.insert(name.to_string(), gather(name, &bytes, tensor, &pickle.storages[tensor.storage])?);
                }
            }
        }
    }
    match wanted.values().flatten().next() {
        Some((name, _)) => Err(format!("the file lacks the storage of `{name}`")),
        None => Ok(tensors),
    }
}

/// Whether the file starts as a pickle.
pub(super) fn is_legacy(start: &[u8]) -> bool {
    matches!(start, [0x80, 2..=5, ..])
}

const TRUNCATED: &str = "the file ends in the middle of a storage: it is truncated or damaged";

/// Bytes that a file may unfold to: views may overlap and archives may be compressed, but weights
/// hardly are.
fn most_bytes(file_len: u64) -> u64 {
    file_len.saturating_mul(4).saturating_add(64 << 20)
}

fn check_byte_order(little: bool) -> Result<(), String> {
    if little { Ok(()) } else { Err("the file was written on a big-endian machine: save it again on another".into()) }
}

/// An entry of an archive, stored or deflated, within what is left of `budget`.
fn entry(archive: &mut ZipArchive<impl Read + Seek>, name: &str, budget: &mut u64) -> Result<Vec<u8>, String> {
    let index = archive.index_for_name(name).ok_or_else(|| format!("the archive lacks `{}`", name.escape_debug()))?;
    let mut file = archive.by_index(index).map_err(|error| format!("the archive is damaged: {error}"))?;
    if !matches!(file.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return Err(format!("the archive compresses with {}: save it again without", file.compression()));
    }
    let size = file.size();
    *budget = budget
        .checked_sub(size)
        .ok_or("the archive unfolds to more than four times its size: weights are not that compressible")?;
    let mut bytes = Vec::new();
    let damaged = |error: std::io::Error| format!("`{}` in the archive is damaged: {error}", name.escape_debug());
    file.by_ref().take(size + 1).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 != size {
        return Err(format!("`{}` in the archive is not as long as the archive says", name.escape_debug()));
    }
    Ok(bytes)
}

/// The tensors of the model among everything that was saved.
fn state_dict(pickle: &Pickle, file_len: u64) -> Result<BTreeMap<String, &TensorRef>, String> {
    const MOST_TENSORS: usize = 5_000;
    const DEEPEST: usize = 4;
    let tensors = named_tensors(pickle, &pickle.root, DEEPEST);
    if tensors.is_empty() {
        let keys: Vec<String> = dict(pickle, &pickle.root)
            .into_iter()
            .flatten()
            .filter_map(|(key, _)| if let Value::Text(key) = key { Some(key.to_string()) } else { None })
            .collect();
        let keys = if keys.is_empty() { "none".to_string() } else { crate::params::abridged(&keys) };
        return Err(format!("the file holds no dict of tensors, nor one under `state_dict` or `model` (keys: {keys})"));
    }
    if tensors.len() > MOST_TENSORS {
        return Err(format!("the file has {} tensors, more than {MOST_TENSORS}", tensors.len()));
    }
    let bytes = tensors
        .values()
        .try_fold(0u64, |sum, tensor| sum.checked_add((tensor.len as u64).checked_mul(tensor.element.size() as u64)?));
    if bytes.is_none_or(|bytes| bytes > most_bytes(file_len)) {
        return Err("the tensors are more than four times as large as the file: they repeat their storage".into());
    }
    Ok(tensors)
}

fn named_tensors<'a>(pickle: &'a Pickle, value: &Value, depth: usize) -> BTreeMap<String, &'a TensorRef> {
    let Some(items) = dict(pickle, value) else { return BTreeMap::new() };
    if depth > 0 {
        for nested in NESTED {
            let at_key = items.iter().find(|(key, _)| matches!(key, Value::Text(key) if key.as_ref() == nested));
            let tensors = at_key.map(|(_, value)| named_tensors(pickle, value, depth - 1)).unwrap_or_default();
            if !tensors.is_empty() {
                return tensors;
            }
        }
    }
    let tensors = items.iter().filter_map(|(key, value)| match (key, value) {
        (Value::Text(name), Value::Tensor(id)) => Some((name.to_string(), &pickle.tensors[*id])),
        _ => None,
    });
    tensors.collect()
}

fn dict<'a>(pickle: &'a Pickle, value: &Value) -> Option<&'a [(Value, Value)]> {
    match value {
        Value::Dict(id) => Some(&pickle.dicts[*id]),
        _ => None,
    }
}

type Wanted<'a> = BTreeMap<Rc<str>, Vec<(&'a str, &'a TensorRef)>>;

/// The tensors by the storage that they share, so that each storage is read once and only one is in memory.
fn by_storage<'a>(pickle: &Pickle, tensors: &'a BTreeMap<String, &'a TensorRef>) -> Wanted<'a> {
    let mut wanted = Wanted::new();
    for (name, tensor) in tensors {
        wanted.entry(pickle.storages[tensor.storage].key.clone()).or_default().push((name, tensor));
    }
    wanted
}

/// A strided view of a storage as a contiguous tensor.
fn gather(name: &str, bytes: &[u8], tensor: &TensorRef, storage: &StorageRef) -> Result<Tensor, String> {
    let dtype = match tensor.element {
        Element::F64 => DType::F64,
        Element::F32 => DType::F32,
        Element::F16 => DType::F16,
        Element::BF16 => DType::BF16,
        Element::I64 => DType::I64,
        Element::I32 => DType::I32,
        Element::I16 => DType::I16,
        Element::U8 => DType::U8,
        Element::Other(kind, _) => return Err(format!("`{name}` holds {kind}, which weights of a model do not")),
    };
    let size = tensor.element.size();
    let bytes_of = |elements: usize| elements.checked_mul(storage.element.size());
    let view = bytes_of(storage.start)
        .zip(storage.start.checked_add(storage.len).and_then(bytes_of))
        .and_then(|(start, end)| bytes.get(start..end))
        .ok_or_else(|| format!("the storage of `{name}` has {} bytes, fewer than it should", bytes.len()))?;
    let gathered =
        |data: &[u8]| Tensor::from_raw_buffer(data, dtype, &tensor.shape, &Device::Cpu).map_err(|e| e.to_string());
    if tensor.len == 0 {
        return gathered(&[]);
    }
    let mut contiguous = 1;
    let is_contiguous = tensor.shape.iter().zip(&tensor.strides).rev().all(|(&dim, &stride)| {
        let fits = dim == 1 || stride == contiguous;
        contiguous *= dim;
        fits
    });
    if is_contiguous {
        return gathered(&view[tensor.offset * size..(tensor.offset + tensor.len) * size]);
    }
    let mut data = Vec::with_capacity(tensor.len * size);
    let mut index = vec![0; tensor.shape.len()];
    let mut at = tensor.offset;
    for _ in 0..tensor.len {
        data.extend_from_slice(&view[at * size..(at + 1) * size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += tensor.strides[axis];
            if index[axis] < tensor.shape[axis] {
                break;
            }
            at -= tensor.shape[axis] * tensor.strides[axis];
            index[axis] = 0;
        }
    }
    gathered(&data)
}
