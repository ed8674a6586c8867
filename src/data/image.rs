//! Images as bytes: reading them from files that cannot be trusted.

use crate::error::{Error, Result};
use image::{AnimationDecoder, ColorType, DynamicImage, ImageDecoder, ImageFormat, Limits};
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The largest image file that is read, in bytes.
pub const MAX_FILE: u64 = 16 << 20;
/// The most pixels that an image may have.
pub const MAX_PIXELS: u64 = 8192 * 8192;
/// The most bytes that decoding one image, or one animation, may allocate for pixels.
pub const MAX_ALLOC: u64 = 256 << 20;
/// The most frames that an animation may have.
pub const MAX_FRAMES: usize = 4096;

/// An image: `u8[H, W, C]`, where C is 1 (grey) or 3 (RGB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Pixels from top to bottom, at least 1.
    pub height: usize,
    /// Pixels from left to right, at least 1.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Row by row, the channels of a pixel side by side.
    pub pixels: Vec<u8>,
}

impl Image {
    /// An image of these pixels.
    ///
    /// # Panics
    /// Where their number is not `height * width * channels`.
    pub fn new(height: usize, width: usize, channels: usize, pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), height * width * channels, "{height} x {width} x {channels}");
        Image { height, width, channels, pixels }
    }

    /// One row: `u8[W, C]`.
    pub fn row(&self, y: usize) -> &[u8] {
        let stride = self.width * self.channels;
        &self.pixels[y * stride..][..stride]
    }

    /// The channels of one pixel.
    pub fn pixel(&self, y: usize, x: usize) -> &[u8] {
        &self.pixels[(y * self.width + x) * self.channels..][..self.channels]
    }
}

/// Reads a JPEG, PNG, WebP or GIF (its first frame) as RGB, as Pillow's `Image.open(path).convert("RGB")` does: alpha is
/// dropped, grey repeated, 16-bit grey cut at 255 (other 16-bit images keep their high bytes), and an EXIF orientation is not
/// applied. The format follows from the content.
///
/// # Errors
/// [`Error::Input`] where there is no such regular file, it has more than 16 MiB, is not an image, is truncated or corrupt,
/// has more than 8192 x 8192 pixels or needs more than 256 MiB.
pub fn read(path: &Path) -> Result<Image> {
    let image = read_file(path).and_then(|bytes| decode(&bytes));
    image.map_err(|reason| Error::input(format!("{}: {reason}", path.display())))
}

/// The bytes of a regular file of at most [`MAX_FILE`].
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    // Asked before opening, because opening a FIFO waits for a writer.
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    })?;
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("has {} bytes; an image file may have {MAX_FILE}", metadata.len().max(MAX_FILE + 1)));
    }
    Ok(bytes)
}

/// Decodes an image as RGB, see [`read`].
pub(crate) fn decode(bytes: &[u8]) -> Result<Image, String> {
    guarded(|| {
        let image = match format_of(bytes)? {
            ImageFormat::Jpeg => {
                // The decoder fills what is missing with grey.
                if !jpeg_is_complete(bytes) {
                    return Err("is truncated: the JPEG's end is missing".to_owned());
                }
                to_dynamic(image::codecs::jpeg::JpegDecoder::new(Cursor::new(bytes)))?
            }
            ImageFormat::Png => to_dynamic(image::codecs::png::PngDecoder::with_limits(Cursor::new(bytes), limits()))?,
            ImageFormat::WebP => to_dynamic(image::codecs::webp::WebPDecoder::new(Cursor::new(bytes)))?,
            _ => to_dynamic(image::codecs::gif::GifDecoder::new(Cursor::new(bytes)))?,
        };
        Ok(to_rgb(image))
    })
}

/// Decodes all frames of a GIF as RGB; what was never painted is black.
pub(crate) fn decode_animation(bytes: &[u8]) -> Result<Vec<Image>, String> {
    guarded(|| {
        if format_of(bytes)? != ImageFormat::Gif {
            return Err("is not a GIF, whatever its name says".to_owned());
        }
        let mut decoder = image::codecs::gif::GifDecoder::new(Cursor::new(bytes)).map_err(corrupt)?;
        let (width, height) = decoder.dimensions();
        check_size(width, height)?;
        decoder.set_limits(limits()).map_err(corrupt)?;
        let frame_bytes = u64::from(width) * u64::from(height) * 3;
        let mut frames = Vec::new();
        for frame in decoder.into_frames() {
            let rgb = to_rgb(DynamicImage::ImageRgba8(frame.map_err(corrupt)?.into_buffer()));
            frames.push(rgb);
            if frames.len() > MAX_FRAMES || frames.len() as u64 * frame_bytes > MAX_ALLOC {
                return Err(format!("is too long: an animation may have {MAX_FRAMES} frames and {MAX_ALLOC} bytes"));
            }
        }
        if frames.is_empty() { Err("has no frame".to_owned()) } else { Ok(frames) }
    })
}

fn format_of(bytes: &[u8]) -> Result<ImageFormat, String> {
    if bytes.is_empty() {
        return Err("is empty".to_owned());
    }
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP | ImageFormat::Gif)) => Ok(format),
        _ => Err("is not a JPEG, PNG, WebP or GIF".to_owned()),
    }
}

fn to_dynamic<D: ImageDecoder>(decoder: image::ImageResult<D>) -> Result<DynamicImage, String> {
    let mut decoder = decoder.map_err(corrupt)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    if decoder.total_bytes() > MAX_ALLOC {
        return Err(format!(
            "is too large: it decodes to {} bytes, and {MAX_ALLOC} are allowed",
            decoder.total_bytes()
        ));
    }
    decoder.set_limits(limits()).map_err(corrupt)?;
    DynamicImage::from_decoder(decoder).map_err(corrupt)
}

fn check_size(width: u32, height: u32) -> Result<(), String> {
    match u64::from(width) * u64::from(height) {
        0 => Err("has no pixels".to_owned()),
        pixels if pixels > MAX_PIXELS => {
            Err(format!("is too large: {width} x {height} pixels, and {MAX_PIXELS} in all are allowed"))
        }
        _ => Ok(()),
    }
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_ALLOC);
    limits
}

fn corrupt(error: image::ImageError) -> String {
    format!("is corrupt: {error}")
}

fn to_rgb(image: DynamicImage) -> Image {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let high = |value: u16| (value >> 8) as u8;
    let pixels = match image.color() {
        ColorType::Rgb8 => image.into_rgb8().into_raw(),
        ColorType::L8 => image.as_bytes().iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::La8 => image.as_bytes().chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        ColorType::Rgba8 => image.as_bytes().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        ColorType::L16 => image.into_luma16().iter().flat_map(|&grey| [grey.min(255) as u8; 3]).collect(),
        ColorType::La16 => image.into_luma_alpha16().chunks_exact(2).flat_map(|pixel| [high(pixel[0]); 3]).collect(),
        ColorType::Rgb16 => image.into_rgb16().iter().map(|&value| high(value)).collect(),
        _ => image.into_rgba16().chunks_exact(4).flat_map(|pixel| [0, 1, 2].map(|c| high(pixel[c]))).collect(),
    };
    Image::new(height, width, 3, pixels)
}

/// Runs a decoder; a panic inside it is a corrupt image.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("is corrupt: the decoder panicked".to_owned()))
}

/// Whether the markers of a JPEG lead to its end (EOI) after at least one scan.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    let mut scanned = false;
    while let Some(&[first, marker]) = bytes.get(at..at + 2).and_then(|pair| pair.first_chunk::<2>()) {
        match (first, marker) {
            (0xff, 0xd9) if scanned => return true,
            // Not a marker, a fill byte, or one without a length: entropy-coded data of a scan is passed here too.
            (0xff, 0xff) => at += 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd9) => at += 2,
            (0xff, _) => {
                let Some(length) = bytes.get(at + 2..at + 4) else { return false };
                scanned |= marker == 0xda;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
            _ => at += 1,
        }
    }
    false
}
