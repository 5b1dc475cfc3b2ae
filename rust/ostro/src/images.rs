//! Images of the `image` crate on their way to the model: raw pixels, never encoded again.

use std::sync::Arc;

use image::{DynamicImage, GrayImage, RgbImage, RgbaImage};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// One or several images of a message; made of one image, a `Vec`, an array or a slice of them.
#[derive(Debug, Clone, Default)]
pub struct Images(pub(crate) Vec<Arc<Picture>>);

/// Pixels as Pillow takes them: rows from the top, 8 bits a channel, alpha not premultiplied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    mode: &'static str,
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Picture {
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let pixels = PyBytes::new(py, &self.pixels);
        py.import("ostro.rust_door")?.call_method1("picture", (self.mode, self.width, self.height, pixels))
    }
}

impl From<DynamicImage> for Picture {
    /// The engine lays what is transparent over white; without alpha the model sees RGB or grey as it is.
    fn from(image: DynamicImage) -> Self {
        let (width, height) = (image.width(), image.height());
        let (mode, pixels) = match image {
            DynamicImage::ImageLuma8(grey) => ("L", grey.into_raw()),
            image if image.color().has_alpha() => ("RGBA", image.into_rgba8().into_raw()),
            image => ("RGB", image.into_rgb8().into_raw()),
        };
        Self { mode, width, height, pixels }
    }
}

impl<T: Into<DynamicImage>> FromIterator<T> for Images {
    fn from_iter<I: IntoIterator<Item = T>>(images: I) -> Self {
        Self(images.into_iter().map(|image| Arc::new(Picture::from(image.into()))).collect())
    }
}

impl From<DynamicImage> for Images {
    fn from(image: DynamicImage) -> Self {
        Self::from_iter([image])
    }
}

impl From<RgbImage> for Images {
    fn from(image: RgbImage) -> Self {
        Self::from_iter([image])
    }
}

impl From<RgbaImage> for Images {
    fn from(image: RgbaImage) -> Self {
        Self::from_iter([image])
    }
}

impl From<GrayImage> for Images {
    fn from(image: GrayImage) -> Self {
        Self::from_iter([image])
    }
}

impl From<Vec<DynamicImage>> for Images {
    fn from(images: Vec<DynamicImage>) -> Self {
        Self::from_iter(images)
    }
}

impl<const N: usize> From<[DynamicImage; N]> for Images {
    fn from(images: [DynamicImage; N]) -> Self {
        Self::from_iter(images)
    }
}

impl From<&[DynamicImage]> for Images {
    fn from(images: &[DynamicImage]) -> Self {
        images.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_taken_as_they_are() {
        let rgb = RgbImage::from_raw(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let Images(pictures) = Images::from(rgb);
        assert_eq!(*pictures[0], Picture { mode: "RGB", width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6] });
    }

    #[test]
    fn alpha_and_grey_are_kept_for_the_engine_to_judge() {
        let clear = RgbaImage::from_raw(1, 1, vec![9, 8, 7, 0]).unwrap();
        assert_eq!(Images::from(clear).0[0].mode, "RGBA");
        let grey = GrayImage::from_raw(1, 1, vec![77]).unwrap();
        assert_eq!(Images::from(grey).0[0].pixels, [77]);
        let deep = DynamicImage::ImageLumaA16(image::ImageBuffer::from_raw(1, 1, vec![u16::MAX, 0]).unwrap());
        assert_eq!(Images::from(deep).0[0].pixels, [255, 255, 255, 0]);
    }

    #[test]
    fn several_images_keep_their_order() {
        let side = |n| DynamicImage::new_rgb8(n, 1);
        let widths = |images: Images| images.0.iter().map(|picture| picture.width).collect::<Vec<_>>();
        assert_eq!(widths(vec![side(3), side(1), side(2)].into()), [3, 1, 2]);
        assert_eq!(widths([side(3), side(1)].into()), [3, 1]);
        assert_eq!(widths([side(3), side(1)].as_slice().into()), [3, 1]);
    }
}
