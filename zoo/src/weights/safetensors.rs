//! `.safetensors`: a JSON header, then the tensors' bytes.

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata};
use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek};

/// The format allows 100 MB; the names and shapes of a model are some hundred kilobytes.
const LONGEST_HEADER: u64 = 1 << 20;
const MOST_TENSORS: usize = 5_000;

pub(super) fn read(file: &mut (impl Read + Seek), file_len: u64) -> Result<BTreeMap<String, Tensor>, String> {
    let mut file = BufReader::new(file);
    let mut len = [0; 8];
    file.read_exact(&mut len).map_err(|error| error.to_string())?;
    let len = u64::from_le_bytes(len);
    if len > LONGEST_HEADER.min(file_len.saturating_sub(8)) {
        return Err(format!("the header claims {len} bytes; it must lie in the file and have at most 1 MiB"));
    }
    let mut header = Vec::new();
    file.by_ref().take(len).read_to_end(&mut header).map_err(|error| error.to_string())?;
    // Checks that the tensors follow each other without holes, each as long as its shape says.
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| format!("the header is damaged: {error}"))?;
    let names = metadata.offset_keys();
    if names.len() > MOST_TENSORS {
        return Err(format!("the file has {} tensors, more than {MOST_TENSORS}", names.len()));
    }
    if metadata.data_len() as u64 != file_len - 8 - len {
        return Err(format!(
            "the tensors take {} bytes and the file has {} for them: it is truncated or damaged",
            metadata.data_len(),
            file_len - 8 - len
        ));
    }
    let mut tensors = BTreeMap::new();
    for name in names {
        let info = metadata.info(&name).expect("the metadata lists this name");
        let dtype = match info.dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            Dtype::I16 => DType::I16,
            Dtype::U32 => DType::U32,
            Dtype::U8 | Dtype::BOOL => DType::U8,
            other => return Err(format!("`{name}` holds {other:?}, which weights of a model do not")),
        };
        let len = info.data_offsets.1 - info.data_offsets.0;
        let tensor = if dtype == DType::F32 {
            // What nearly all weights are, right into the tensor's memory. Its bytes are little-endian.
            let mut values = vec![0f32; len / size_of::<f32>()];
            file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(|error| error.to_string())?;
            Tensor::from_vec(values, info.shape.as_slice(), &Device::Cpu)
        } else {
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
            Tensor::from_raw_buffer(&bytes, dtype, &info.shape, &Device::Cpu)
        };
        tensors.insert(name, tensor.map_err(|error| error.to_string())?);
    }
    Ok(tensors)
}
