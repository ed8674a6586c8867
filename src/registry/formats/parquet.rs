//! Parquet, as far as one flat table of values needs it: required columns, texts by dictionary, no compression.
//!
//! The `parquet` crate would bring two dozen others for what is a few pages and a footer in Thrift's compact protocol.

use super::Series;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Rows of a row group.
const GROUP: usize = 1 << 20;
/// Physical types.
const INT64: i64 = 2;
const DOUBLE: i64 = 5;
const BYTE_ARRAY: i64 = 6;
/// Encodings.
const PLAIN: i64 = 0;
const RLE: i64 = 3;
const RLE_DICTIONARY: i64 = 8;
/// Kinds of pages.
const DATA_PAGE: i64 = 0;
const DICTIONARY_PAGE: i64 = 2;

/// Writes the table `run, run_name, metric` (texts), `step` (64-bit integer), `value` (64-bit float, every bit of it).
///
/// # Errors
/// Where `into` cannot be written.
pub fn write(series: &[Series], mut into: impl Write) -> io::Result<()> {
    let rows: Vec<_> = super::rows(series).collect();
    let mut file = b"PAR1".to_vec();
    let mut groups = Vec::new();
    for rows in rows.chunks(GROUP) {
        let start = file.len();
        let columns = [
            text_column("run", rows.iter().map(|(series, _)| series.run.as_str()), &mut file),
            text_column("run_name", rows.iter().map(|(series, _)| series.run_name.as_str()), &mut file),
            text_column("metric", rows.iter().map(|(_, point)| point.metric.as_str()), &mut file),
            number_column("step", INT64, rows.iter().map(|(_, point)| point.step.to_le_bytes()), &mut file),
            number_column("value", DOUBLE, rows.iter().map(|(_, point)| point.value.to_le_bytes()), &mut file),
        ];
        let mut group = Thrift::default();
        group.list(1, Kind::Struct, columns.len(), |list| columns.iter().for_each(|column| list.extend(column)));
        group.integer(2, (file.len() - start) as i64);
        group.integer(3, rows.len() as i64);
        groups.push(group.end());
    }
    let mut footer = Thrift::default();
    footer.small(1, 2);
    let schema = schema();
    footer.list(2, Kind::Struct, schema.len(), |list| schema.iter().for_each(|element| list.extend(element)));
    footer.integer(3, rows.len() as i64);
    footer.list(4, Kind::Struct, groups.len(), |list| groups.iter().for_each(|group| list.extend(group)));
    footer.binary(6, concat!("resnet-zoo version ", env!("CARGO_PKG_VERSION")).as_bytes());
    let footer = footer.end();
    let length = u32::try_from(footer.len()).map_err(io::Error::other)?;
    file.extend(footer);
    file.extend(length.to_le_bytes());
    file.extend(b"PAR1");
    into.write_all(&file)
}

/// `SchemaElement`: the root, then the columns, all required.
fn schema() -> Vec<Vec<u8>> {
    const UTF8: i64 = 0;
    let mut root = Thrift::default();
    root.binary(4, b"schema");
    root.small(5, 5);
    let columns =
        [("run", BYTE_ARRAY), ("run_name", BYTE_ARRAY), ("metric", BYTE_ARRAY), ("step", INT64), ("value", DOUBLE)];
    let column = |(name, kind): (&str, i64)| {
        let mut element = Thrift::default();
        element.small(1, kind);
        element.small(3, 0);
        element.binary(4, name.as_bytes());
        if kind == BYTE_ARRAY {
            element.small(6, UTF8);
        }
        element.end()
    };
    std::iter::once(root.end()).chain(columns.map(column)).collect()
}

/// Appends a column of texts as a dictionary and indices into it; its `ColumnChunk`.
fn text_column<'a>(name: &str, texts: impl Iterator<Item = &'a str>, file: &mut Vec<u8>) -> Vec<u8> {
    let mut known: BTreeMap<&str, u32> = BTreeMap::new();
    let mut dictionary = Vec::new();
    let mut runs: Vec<(u32, usize)> = Vec::new();
    let mut count = 0;
    for text in texts {
        let next = known.len() as u32;
        let index = *known.entry(text).or_insert_with(|| {
            dictionary.extend((text.len() as u32).to_le_bytes());
            dictionary.extend(text.as_bytes());
            next
        });
        match runs.last_mut() {
            Some((last, length)) if *last == index => *length += 1,
            _ => runs.push((index, 1)),
        }
        count += 1;
    }
    // Every run of equal values is one run of the hybrid encoding: its length, and the index in whole bytes.
    let width = (u32::BITS - (known.len() as u32).saturating_sub(1).leading_zeros()).max(1);
    let mut data = vec![width as u8];
    for (index, length) in runs {
        varint((length as u64) << 1, &mut data);
        data.extend(&index.to_le_bytes()[..width.div_ceil(8) as usize]);
    }
    let start = file.len();
    page(DICTIONARY_PAGE, PLAIN, known.len(), &dictionary, file);
    let data_start = file.len();
    page(DATA_PAGE, RLE_DICTIONARY, count, &data, file);
    let encodings = [PLAIN, RLE, RLE_DICTIONARY];
    chunk(name, BYTE_ARRAY, &encodings, count, (file.len() - start) as i64, data_start as i64, Some(start as i64))
}

/// Appends a column of numbers; its `ColumnChunk`.
fn number_column(name: &str, kind: i64, numbers: impl Iterator<Item = [u8; 8]>, file: &mut Vec<u8>) -> Vec<u8> {
    let data: Vec<u8> = numbers.flatten().collect();
    let (start, count) = (file.len(), data.len() / 8);
    page(DATA_PAGE, PLAIN, count, &data, file);
    chunk(name, kind, &[PLAIN, RLE], count, (file.len() - start) as i64, start as i64, None)
}

/// Appends a `PageHeader` and a page. A column without levels has none in its pages.
fn page(kind: i64, encoding: i64, count: usize, data: &[u8], file: &mut Vec<u8>) {
    let mut header = Thrift::default();
    header.small(1, kind);
    header.small(2, data.len() as i64);
    header.small(3, data.len() as i64);
    let mut of_kind = Thrift::default();
    of_kind.small(1, count as i64);
    if kind == DATA_PAGE {
        of_kind.small(2, encoding);
        of_kind.small(3, RLE);
        of_kind.small(4, RLE);
        header.structure(5, &of_kind.end());
    } else {
        of_kind.small(2, encoding);
        header.structure(7, &of_kind.end());
    }
    file.extend(header.end());
    file.extend(data);
}

/// `ColumnChunk { file_offset: 2, meta_data: 3 }`.
fn chunk(
    name: &str,
    kind: i64,
    encodings: &[i64],
    count: usize,
    bytes: i64,
    data: i64,
    dictionary: Option<i64>,
) -> Vec<u8> {
    let mut meta = Thrift::default();
    meta.small(1, kind);
    meta.list(2, Kind::I32, encodings.len(), |list| encodings.iter().for_each(|one| varint(zigzag(*one), list)));
    meta.list(3, Kind::Binary, 1, |list| {
        varint(name.len() as u64, list);
        list.extend(name.as_bytes());
    });
    meta.small(4, 0);
    meta.integer(5, count as i64);
    meta.integer(6, bytes);
    meta.integer(7, bytes);
    meta.integer(9, data);
    if let Some(dictionary) = dictionary {
        meta.integer(11, dictionary);
    }
    let mut chunk = Thrift::default();
    chunk.integer(2, 0);
    chunk.structure(3, &meta.end());
    chunk.end()
}

/// A structure in Thrift's compact protocol, field by field in ascending order.
#[derive(Default)]
struct Thrift {
    bytes: Vec<u8>,
    last: u8,
}

#[derive(Clone, Copy)]
enum Kind {
    I32 = 5,
    I64 = 6,
    Binary = 8,
    List = 9,
    Struct = 12,
}

impl Thrift {
    fn field(&mut self, id: u8, kind: Kind) {
        // Fields of Parquet's structures lie close together: the short form always does.
        self.bytes.push((id - self.last) << 4 | kind as u8);
        self.last = id;
    }

    fn small(&mut self, id: u8, value: i64) {
        self.field(id, Kind::I32);
        varint(zigzag(value), &mut self.bytes);
    }

    fn integer(&mut self, id: u8, value: i64) {
        self.field(id, Kind::I64);
        varint(zigzag(value), &mut self.bytes);
    }

    fn binary(&mut self, id: u8, value: &[u8]) {
        self.field(id, Kind::Binary);
        varint(value.len() as u64, &mut self.bytes);
        self.bytes.extend(value);
    }

    fn structure(&mut self, id: u8, ended: &[u8]) {
        self.field(id, Kind::Struct);
        self.bytes.extend(ended);
    }

    fn list(&mut self, id: u8, kind: Kind, length: usize, elements: impl FnOnce(&mut Vec<u8>)) {
        self.field(id, Kind::List);
        if length < 15 {
            self.bytes.push((length as u8) << 4 | kind as u8);
        } else {
            self.bytes.push(0xF0 | kind as u8);
            varint(length as u64, &mut self.bytes);
        }
        elements(&mut self.bytes);
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(0);
        self.bytes
    }
}

fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::super::tests::series;
    use super::*;

    #[test]
    fn numbers_are_written_as_thrift_says() {
        let mut thrift = Thrift::default();
        thrift.small(1, -1);
        thrift.integer(4, 300);
        thrift.list(5, Kind::I32, 2, |list| list.extend([zigzag(1) as u8, zigzag(-2) as u8]));
        assert_eq!(thrift.end(), [0x15, 1, 0x36, 0xD8, 4, 0x19, 0x25, 2, 3, 0]);
    }

    /// `scripts/check_exports.py` has pyarrow read what this writes; here it is what it is by its bytes.
    #[test]
    fn a_table_lies_between_its_magic_numbers() {
        let mut file = Vec::new();
        write(&series(), &mut file).expect("into memory");
        assert!(file.starts_with(b"PAR1") && file.ends_with(b"PAR1"));
        let length = u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().expect("4 bytes")) as usize;
        assert!(length > 100 && length < file.len() - 12, "{length}");
        let values = [0.1 + 0.2, f64::NAN, -0.0, f64::INFINITY].map(f64::to_le_bytes).concat();
        assert_eq!(file.windows(32).filter(|window| *window == values).count(), 1, "every bit, once");
        assert_eq!(file.windows(8).filter(|window| *window == b"val.loss").count(), 1, "a text stands once");
        let mut empty = Vec::new();
        write(&[], &mut empty).expect("into memory");
        assert!(empty.ends_with(b"PAR1"));
    }
}
