//! The demo's camera: real JPEGs and a clip, made on the spot.

use bytes::Bytes;
use jpeg_encoder::{ColorType, Encoder};

/// A photo's size in pixels.
const WIDTH: u16 = 640;
const HEIGHT: u16 = 480;

/// A picture of hills beneath a sky, different for each `seed`. A real JPEG, some tens of KiB.
pub(super) fn photo(seed: u32) -> Result<Bytes, String> {
    let mut noise = Noise::new(u64::from(seed));
    let mut pixels = Vec::with_capacity(usize::from(WIDTH) * usize::from(HEIGHT) * 3);
    let (sky, hill) = (seed.wrapping_mul(37) % 120, seed.wrapping_mul(53) % 90);
    for y in 0..u32::from(HEIGHT) {
        for x in 0..u32::from(WIDTH) {
            // Two triangle waves are the hills' outline.
            let wave = |length: u32, shift: u32| ((x + shift) % length).abs_diff(length / 2);
            let outline = 180 + wave(260, seed.wrapping_mul(71) % 260) / 2 + wave(90, seed % 90) / 3;
            let grain = u32::from(noise.byte()) / 16;
            let colour = if y < outline {
                [90 + sky / 2 + y / 4, 130 + y / 4, 200 + y / 10]
            } else {
                [40 + hill / 2, 90 + hill + (y - outline) / 6, 50]
            };
            pixels.extend(colour.map(|part| u8::try_from((part + grain).min(255)).unwrap_or(255)));
        }
    }
    let mut jpeg = Vec::new();
    let encoder = Encoder::new(&mut jpeg, 85);
    encoder.encode(&pixels, WIDTH, HEIGHT, ColorType::Rgb).map_err(|error| error.to_string())?;
    Ok(Bytes::from(jpeg))
}

/// `length_bytes` that do not repeat and cannot be compressed, as in a video.
pub(super) fn clip(length_bytes: usize) -> Bytes {
    let mut noise = Noise::new(length_bytes as u64);
    let mut clip = Vec::with_capacity(length_bytes + 8);
    while clip.len() < length_bytes {
        clip.extend_from_slice(&noise.next().to_le_bytes());
    }
    clip.truncate(length_bytes);
    Bytes::from(clip)
}

/// xorshift64*: quick also in a debug build; nothing secret is made from it.
struct Noise(u64);

impl Noise {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn photos_are_jpegs_and_differ() {
        let (one, two) = (photo(1).unwrap(), photo(2).unwrap());
        for photo in [&one, &two] {
            assert!(photo.starts_with(&[0xff, 0xd8, 0xff]) && photo.ends_with(&[0xff, 0xd9]));
            assert!(photo.len() > 10_000, "{}", photo.len());
        }
        assert_ne!(one, two);
    }

    #[test]
    fn clips_have_their_length() {
        assert_eq!(clip(1_000_003).len(), 1_000_003);
        assert_ne!(clip(16)[..8], clip(16)[8..]);
    }
}
