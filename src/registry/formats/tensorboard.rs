//! TensorBoard's event files: records of protobuf messages, framed with lengths and CRC-32C.

use super::Series;
use std::io::{self, Write};

/// The plugin that shows a text.
const TEXT: &str = "text";

/// Writes one run as the content of an `events.out.tfevents` file: a scalar for each value, tagged `val/loss`, and the
/// experiment as text. The registry keeps no time of each value, so `seconds` of work are spread evenly over the steps
/// from `began` on, in seconds since 1970. TensorBoard's scalars have 32 bits.
///
/// # Errors
/// Where `into` cannot be written.
pub fn write(series: &Series, began: f64, seconds: f64, experiment: &str, mut into: impl Write) -> io::Result<()> {
    record(&version(began), &mut into)?;
    record(&text(began, experiment), &mut into)?;
    let steps = series.points.iter().map(|point| point.step + 1).max().unwrap_or(1);
    for point in &series.points {
        let time = began + seconds * (point.step + 1) as f64 / steps as f64;
        let tag = point.metric.replacen('.', "/", 1);
        record(&scalar(time, point.step, &tag, point.value as f32), &mut into)?;
    }
    into.flush()
}

/// `Event { wall_time: 1, file_version: 3 }`.
fn version(time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(1, time, &mut event);
    bytes(3, b"brain.Event:2", &mut event);
    event
}

/// `Event { wall_time: 1, step: 2, summary: 5 { value: 1 { tag: 1, simple_value: 2 } } }`.
fn scalar(time: f64, step: u64, tag: &str, value: f32) -> Vec<u8> {
    let mut of_tag = Vec::new();
    bytes(1, tag.as_bytes(), &mut of_tag);
    of_tag.push(2 << 3 | 5);
    of_tag.extend(value.to_le_bytes());
    event(time, step, &of_tag)
}

/// `Value { tag: 1, tensor: 8 { dtype: 1 STRING, tensor_shape: 2 { dim: 2 { size: 1 } }, string_val: 8 },
/// metadata: 9 { plugin_data: 1 { plugin_name: 1 } } }`.
fn text(time: f64, experiment: &str) -> Vec<u8> {
    const DT_STRING: u64 = 7;
    let mut dim = Vec::new();
    number(1, 1, &mut dim);
    let mut shape = Vec::new();
    bytes(2, &dim, &mut shape);
    let mut tensor = Vec::new();
    number(1, DT_STRING, &mut tensor);
    bytes(2, &shape, &mut tensor);
    // Four blanks make a block of code of each line.
    let code: String = experiment.lines().map(|line| format!("    {line}\n")).collect();
    bytes(8, code.as_bytes(), &mut tensor);
    let mut plugin = Vec::new();
    bytes(1, TEXT.as_bytes(), &mut plugin);
    let mut metadata = Vec::new();
    bytes(1, &plugin, &mut metadata);
    let mut value = Vec::new();
    bytes(1, b"experiment/text_summary", &mut value);
    bytes(8, &tensor, &mut value);
    bytes(9, &metadata, &mut value);
    event(time, 0, &value)
}

fn event(time: f64, step: u64, value: &[u8]) -> Vec<u8> {
    let mut summary = Vec::new();
    bytes(1, value, &mut summary);
    let mut event = Vec::new();
    double(1, time, &mut event);
    number(2, step, &mut event);
    bytes(5, &summary, &mut event);
    event
}

/// TFRecord: length, its CRC, the bytes, their CRC.
fn record(message: &[u8], into: &mut impl Write) -> io::Result<()> {
    let length = (message.len() as u64).to_le_bytes();
    into.write_all(&length)?;
    into.write_all(&masked_crc(&length).to_le_bytes())?;
    into.write_all(message)?;
    into.write_all(&masked_crc(message).to_le_bytes())
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn number(field: u64, value: u64, into: &mut Vec<u8>) {
    varint(field << 3, into);
    varint(value, into);
}

fn double(field: u64, value: f64, into: &mut Vec<u8>) {
    varint(field << 3 | 1, into);
    into.extend(value.to_le_bytes());
}

fn bytes(field: u64, value: &[u8], into: &mut Vec<u8>) {
    varint(field << 3 | 2, into);
    varint(value.len() as u64, into);
    into.extend(value);
}

/// TensorFlow rotates the CRC and adds a constant, so that a CRC of data with CRCs in it stays meaningful.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli), reflected, a table lookup a byte.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = index as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::super::tests::series;
    use super::*;

    #[test]
    fn crc_is_castagnolis() {
        // The check value of the catalogue, and RFC 3720's 32 zeros.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn records_are_framed_and_scalars_are_where_readers_look() {
        let mut file = Vec::new();
        write(&series()[0], 1000.0, 8.0, "seed: 1\n", &mut file).expect("into memory");
        let mut records = Vec::new();
        let mut rest = file.as_slice();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes")) as usize;
            assert_eq!(rest[8..12], masked_crc(&rest[..8]).to_le_bytes());
            let message = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked_crc(message).to_le_bytes());
            records.push(message);
            rest = &rest[16 + length..];
        }
        assert_eq!(records.len(), 2 + 4);
        assert!(records[0].ends_with(b"brain.Event:2"));
        assert!(records[1].windows(11).any(|window| window == b"    seed: 1"));
        assert!(records[2].windows(8).any(|window| window == b"val/loss"));
        assert!(records[2].ends_with(&(0.3f32).to_le_bytes()));
        let time = f64::from_le_bytes(records[3][1..9].try_into().expect("8 bytes"));
        assert_eq!((records[3][0], time), (9, 1004.0), "half of the work at step 2 of 4");
    }
}
