//! Decoding images that cannot be trusted.

use super::{Image, jpeg};
use image::{AnimationDecoder, ColorType, DynamicImage, ImageDecoder, ImageFormat, Limits};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most pixels that an image may have.
pub const MAX_PIXELS: u64 = 8192 * 8192;
/// The most bytes that decoding one image, or one animation, may allocate for pixels.
pub const MAX_ALLOC: u64 = 256 << 20;
/// The most frames that an animation may have.
pub const MAX_FRAMES: usize = 4096;

/// Decodes a JPEG, PNG, WebP or GIF (its first frame) as RGB, as Pillow's `Image.open(..).convert("RGB")` does: alpha is
/// dropped, grey repeated, 16-bit grey cut at 255 (other 16-bit images keep their high bytes), and an EXIF orientation is not
/// applied. The format follows from the content.
///
/// # Errors
/// What is wrong, to be said behind a file's name: "is truncated: .."; an image may also be none of these, corrupt, or have
/// more than [`MAX_PIXELS`] or [`MAX_ALLOC`].
pub fn decode(bytes: &[u8]) -> Result<Image, String> {
    decode_upper(bytes, |height, _| height)
}

/// Decodes at least the rows above `rows(height, width)`, which is asked once; the image may end there, where that saves work.
/// What it has is as [`decode`]'s, bit for bit.
///
/// # Errors
/// As [`decode`]'s. Damage below those rows may stay unnoticed.
pub fn decode_upper(bytes: &[u8], rows: impl FnOnce(usize, usize) -> usize) -> Result<Image, String> {
    guarded(|| {
        let image = match format_of(bytes)? {
            ImageFormat::Jpeg => return jpeg::decode(bytes, rows),
            ImageFormat::Png => to_dynamic(image::codecs::png::PngDecoder::with_limits(Cursor::new(bytes), limits()))?,
            ImageFormat::WebP => to_dynamic(image::codecs::webp::WebPDecoder::new(Cursor::new(bytes)))?,
            _ => to_dynamic(image::codecs::gif::GifDecoder::new(Cursor::new(bytes)))?,
        };
        let image = to_rgb(image);
        rows(image.height, image.width);
        Ok(image)
    })
}

/// Decodes all frames of a GIF as RGB; what was never painted is black.
///
/// # Errors
/// As [`decode`]'s, and where it has more than [`MAX_FRAMES`].
pub fn decode_animation(bytes: &[u8]) -> Result<Vec<Image>, String> {
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

pub(crate) fn check_size(width: u32, height: u32) -> Result<(), String> {
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
