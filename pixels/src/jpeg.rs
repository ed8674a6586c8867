//! JPEG, and of it only what a crop needs.

use super::{Image, channels};
use crate::decode::{MAX_ALLOC, check_size};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Decodes a JPEG as RGB, at least the rows above `rows(height, width)`.
///
/// # Errors
/// As [`crate::decode::decode`]'s.
pub(crate) fn decode(bytes: &[u8], rows: impl FnOnce(usize, usize) -> usize) -> Result<Image, String> {
    // The decoder fills what is missing with grey.
    let layout = Layout::read(bytes).ok_or("is truncated: the JPEG's end is missing")?;
    let frame = layout.frame.ok_or("is corrupt: the JPEG has no frame")?;
    check_size(frame.width.into(), frame.height.into())?;
    if u64::from(frame.height) * u64::from(frame.width) * 3 > MAX_ALLOC {
        return Err(format!("is too large: it decodes to more than the {MAX_ALLOC} bytes that are allowed"));
    }
    let height = layout.height_for(&frame, rows(frame.height.into(), frame.width.into()));
    if height == frame.height {
        return decode_all(bytes);
    }
    // A frame that says to be lower is read no further.
    let mut lower = bytes.to_vec();
    lower[frame.height_at..][..2].copy_from_slice(&height.to_be_bytes());
    decode_all(&lower)
}

fn decode_all(bytes: &[u8]) -> Result<Image, String> {
    let corrupt = |error| format!("is corrupt: {error}");
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(corrupt)?;
    let (width, height) = decoder.dimensions().ok_or("is corrupt: the JPEG has no size")?;
    let is_grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let (color, channels) = if is_grey { (ColorSpace::Luma, 1) } else { (ColorSpace::RGB, 3) };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(color));
    let mut pixels = vec![0; height * width * channels];
    decoder.decode_into(&mut pixels).map_err(corrupt)?;
    Ok(channels::convert(Image::new(height, width, channels, pixels), 3))
}

/// What the markers of a complete JPEG say.
struct Layout {
    frame: Option<Frame>,
    /// Of the first scan.
    scan_components: u8,
    scans: usize,
}

/// The size of an image.
#[derive(Clone, Copy)]
struct Frame {
    is_progressive: bool,
    height: u16,
    width: u16,
    components: u8,
    /// Rows of pixels that are coded together.
    unit: u16,
    /// Where the height stands.
    height_at: usize,
}

impl Layout {
    /// Follows the markers to the end (EOI) after at least one scan; none where there is no such end.
    fn read(bytes: &[u8]) -> Option<Layout> {
        let mut layout = Layout { frame: None, scan_components: 0, scans: 0 };
        let mut at = 2;
        // What is not a marker is entropy-coded data of a scan.
        loop {
            at += memchr::memchr(0xff, bytes.get(at..)?)? + 1;
            match *bytes.get(at)? {
                0xd9 if layout.scans > 0 => return Some(layout),
                // A fill byte, which may begin a marker.
                0xff => {}
                // One without a length, or no marker.
                0x00 | 0x01 | 0xd0..=0xd9 => at += 1,
                marker => {
                    let length = u16::from_be_bytes(*bytes.get(at + 1..)?.first_chunk()?);
                    let segment = bytes.get(at + 3..).unwrap_or_default();
                    match marker {
                        0xda => {
                            layout.scans += 1;
                            if layout.scans == 1 {
                                layout.scan_components = *segment.first()?;
                            }
                        }
                        // All but the tables of Huffman and arithmetic codes, and what is reserved.
                        0xc0..=0xcf if !matches!(marker, 0xc4 | 0xc8 | 0xcc) && layout.frame.is_none() => {
                            layout.frame = Some(Frame::read(marker, segment, at + 3)?);
                        }
                        _ => {}
                    }
                    at += 1 + usize::from(length);
                }
            }
        }
    }

    /// The least height that a frame can be cut to and have its first `rows` rows keep every value.
    fn height_for(&self, frame: &Frame, rows: usize) -> u16 {
        let is_one_scan = self.scans == 1 && self.scan_components == frame.components;
        if frame.is_progressive || !is_one_scan {
            return frame.height;
        }
        // The colours of a unit's last row are interpolated with the next unit's.
        let units = rows.div_ceil(frame.unit.into()) + 1;
        u16::try_from(units * usize::from(frame.unit)).map_or(frame.height, |height| height.min(frame.height))
    }
}

impl Frame {
    /// Reads a frame header; none where it ends too early.
    fn read(marker: u8, segment: &[u8], at: usize) -> Option<Frame> {
        let &[_precision, h1, h0, w1, w0, components] = segment.first_chunk()?;
        let sampling = segment.get(6..6 + 3 * usize::from(components))?.as_chunks::<3>().0;
        let vertical = sampling.iter().map(|[_, factors, _]| factors & 0xf).max()?;
        Some(Frame {
            is_progressive: !matches!(marker, 0xc0 | 0xc1),
            height: u16::from_be_bytes([h1, h0]),
            width: u16::from_be_bytes([w1, w0]),
            components,
            unit: 8 * u16::from(vertical.max(1)),
            height_at: at + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with Pillow of 70 x 52 pixels: chroma at full, half and quarter size, restart markers, grey, progressive.
    const SAMPLES: [(&str, &[u8]); 6] = [
        ("444", include_bytes!("../samples/444.jpg")),
        ("422", include_bytes!("../samples/422.jpg")),
        ("420", include_bytes!("../samples/420.jpg")),
        ("restart", include_bytes!("../samples/restart.jpg")),
        ("grey", include_bytes!("../samples/grey.jpg")),
        ("progressive", include_bytes!("../samples/progressive.jpg")),
    ];

    #[test]
    fn upper_rows_are_those_of_the_whole_image() {
        for (name, bytes) in SAMPLES {
            let whole = decode(bytes, |height, width| {
                assert_eq!((height, width), (70, 52), "{name}");
                height
            });
            let whole = whole.unwrap_or_else(|reason| panic!("{name} {reason}"));
            assert_eq!((whole.height, whole.width), (70, 52), "{name}");
            for rows in 0..=70 {
                let upper = decode(bytes, |_, _| rows).unwrap();
                assert!(upper.height >= rows && upper.width == 52, "{name}: {} for {rows}", upper.height);
                assert!(upper.pixels[..rows * 52 * 3] == whole.pixels[..rows * 52 * 3], "{name}: {rows} rows");
                match name {
                    "progressive" => assert_eq!(upper.height, 70, "its scans need all rows"),
                    _ => assert!(upper.height <= rows.next_multiple_of(16) + 16, "{name}: {} for {rows}", upper.height),
                }
            }
        }
    }

    #[test]
    fn a_damaged_header_is_an_error_or_an_image_of_its_size() {
        for (name, bytes) in SAMPLES {
            for at in 2..bytes.len().min(700) {
                for bit in [0x01, 0x80, 0xff] {
                    let mut damaged = bytes.to_vec();
                    damaged[at] ^= bit;
                    if let Ok(image) = crate::decode::decode_upper(&damaged, |_, _| 20) {
                        assert_eq!(image.pixels.len(), image.height * image.width * 3, "{name}: {at}");
                    }
                }
            }
        }
    }
}
