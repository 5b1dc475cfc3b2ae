//! Loops that load every cache line of a piece and do as little else as possible.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm256_loadu_si256, _mm256_setzero_si256, _mm256_storeu_si256, _mm256_xor_si256, _mm512_loadu_si512,
    _mm512_setzero_si512, _mm512_storeu_si512, _mm512_xor_si512,
};
use std::array;

/// One cache line of most processors.
pub(super) type Line = [u64; 8];

/// Places of a piece that are read side by side. Hardware prefetchers follow each of them on their own: one core
/// reads several streams a good deal faster than one.
const STREAMS: usize = 4;

/// The loop with the widest loads that this CPU has; it returns the exclusive or of all lines.
///
/// The number of lines is a multiple of 4; what is beyond is not read.
pub(super) fn reader() -> unsafe fn(&[Line]) -> Line {
    readers().pop().unwrap_or(portable)
}

/// All loops that this CPU has, the widest last.
fn readers() -> Vec<unsafe fn(&[Line]) -> Line> {
    #[allow(unused_mut, reason = "only x86_64 has more than one")]
    let mut found: Vec<unsafe fn(&[Line]) -> Line> = vec![portable];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") {
            found.push(avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            found.push(avx512);
        }
    }
    found
}

/// The lines of the four streams, side by side.
fn streams(lines: &[Line]) -> impl Iterator<Item = [&Line; STREAMS]> {
    let length = lines.len() / STREAMS;
    let streams: [&[Line]; STREAMS] = array::from_fn(|stream| &lines[stream * length..][..length]);
    (0..length).map(move |at| streams.map(|stream| &stream[at]))
}

fn xor(a: Line, b: &Line) -> Line {
    array::from_fn(|word| a[word] ^ b[word])
}

fn portable(lines: &[Line]) -> Line {
    let mut sums = [[0; _]; STREAMS];
    for line in streams(lines) {
        for (sum, line) in sums.iter_mut().zip(line) {
            *sum = xor(*sum, line);
        }
    }
    sums.iter().fold([0; _], xor)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(lines: &[Line]) -> Line {
    let mut sums = [[_mm256_setzero_si256(); 2]; STREAMS];
    for line in streams(lines) {
        for (sum, line) in sums.iter_mut().zip(line) {
            let start = line.as_ptr().cast();
            // SAFETY: a line is two vectors.
            let halves = unsafe { [_mm256_loadu_si256(start), _mm256_loadu_si256(start.add(1))] };
            *sum = array::from_fn(|half| _mm256_xor_si256(sum[half], halves[half]));
        }
    }
    let mut lines = [[0; _]; STREAMS];
    for (line, sum) in lines.iter_mut().zip(sums) {
        let start = line.as_mut_ptr().cast();
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_si256(start, sum[0]);
            _mm256_storeu_si256(start.add(1), sum[1]);
        }
    }
    lines.iter().fold([0; _], xor)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(lines: &[Line]) -> Line {
    let mut sums = [_mm512_setzero_si512(); STREAMS];
    for line in streams(lines) {
        for (sum, line) in sums.iter_mut().zip(line) {
            // SAFETY: a line is one vector.
            *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
        }
    }
    let mut lines = [[0; _]; STREAMS];
    for (line, sum) in lines.iter_mut().zip(sums) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), sum) };
    }
    lines.iter().fold([0; _], xor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_reads_every_word_once() {
        let lines: Vec<Line> = (0..44).map(|line| array::from_fn(|word| 1 << ((line * 8 + word) % 61))).collect();
        let expected = lines.iter().fold([0; _], xor);
        for (index, read) in readers().into_iter().enumerate() {
            // SAFETY: `readers` lists what this CPU can run.
            assert_eq!(unsafe { read(&lines) }, expected, "loop {index}");
        }
    }
}
