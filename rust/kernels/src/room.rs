//! Scratch memory that grows.

/// At least `len` elements of unspecified content. A buffer that is too short is given back before there is a longer one:
/// nothing is copied, and no hole is left where it was.
pub(crate) fn room<T>(buffer: &mut Vec<T>, len: usize, element: impl FnMut() -> T) -> &mut [T] {
    if buffer.len() < len {
        *buffer = Vec::new();
        buffer.reserve_exact(len);
        buffer.resize_with(len, element);
    }
    &mut buffer[..len]
}
