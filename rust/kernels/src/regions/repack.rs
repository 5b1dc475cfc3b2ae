//! Weights from where they were found to where products read them fastest.

use std::ops::Range;

use super::{Machine, ShapeError, check};
use crate::formats::strips::pack;
use crate::formats::{Format, STRIP, Weights};
use crate::pages::{HUGE_PAGE, populate};
use crate::team::Disjoint;

/// Bytes that one member takes at a time.
const PIECE: usize = 1 << 18;

/// Whether products of this machine with few tokens read the format faster in strips.
#[must_use]
pub fn wants_strips(machine: &Machine, format: Format) -> bool {
    machine.isa.reads_strips() && format.has_strips()
}

/// Copies rows of `weights`, none of which is in a strip, to `out`: into strips if [`wants_strips`], and as they are if
/// not. out: the bytes of these rows. Rows that make no whole strip are copied as they are.
///
/// # Errors
/// When shapes do not fit; nothing is written then.
pub fn repack(machine: &Machine, weights: Weights<'_>, rows: Range<usize>, out: &mut [u8]) -> Result<(), ShapeError> {
    let inside = weights.packed_rows() <= rows.start && rows.start <= rows.end && rows.end <= weights.rows();
    check(inside, || format!("rows {rows:?} of {}, {} are in strips", weights.rows(), weights.packed_rows()))?;
    let from = weights.rows_bytes(rows.clone());
    check(from.len() == out.len(), || format!("out: {} bytes, expected {}", out.len(), from.len()))?;
    if from.is_empty() {
        return Ok(());
    }
    let strip = STRIP * from.len() / rows.len();
    let packed = if wants_strips(machine, weights.format()) { from.len() / strip * strip } else { 0 };
    let (strips, rest) = out.split_at_mut(packed);
    rest.copy_from_slice(&from[packed..]);
    let out = Disjoint::new(strips);
    machine.team.run(|worker| {
        // Two members that touch the same new page both clear one, and one of them in vain.
        worker.share(0, packed.div_ceil(HUGE_PAGE), 1, |range| {
            // SAFETY: the memory of a slice that is written to, and changes no byte of it.
            unsafe { populate(out.as_mut_ptr().wrapping_add(range.start * HUGE_PAGE)) };
        });
        worker.share(1, packed / strip, (PIECE / strip).max(1), |range| {
            for index in range {
                let at = index * strip..(index + 1) * strip;
                // SAFETY: the share hands every strip to one member.
                pack(weights.format(), &from[at.clone()], unsafe { out.range(at) });
            }
        });
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn rows_arrive_in_strips_or_as_they_are() {
        let (format, rows, cols) = (Format::Q4_0, 100, 96);
        let data: Vec<u8> = (0..rows * 54).map(|i| (i * 31 + i / 256) as u8).collect();
        let weights = Weights::new(&data, format, rows, cols).unwrap();
        for isa in Isa::available() {
            let machine = Machine::new(3, isa).unwrap();
            let mut out = vec![0; data.len()];
            repack(&machine, weights, 0..32, &mut out[..32 * 54]).unwrap();
            repack(&machine, weights, 32..rows, &mut out[32 * 54..]).unwrap();
            let packed = if isa.reads_strips() { 96 } else { 0 };
            let (strips, rest) = out.split_at(packed * 54);
            let moved = Weights::with_strips(strips, rest, format, rows, cols).unwrap();
            for row in 0..rows {
                let (mut a, mut b) = ([0.0; 96], [0.0; 96]);
                weights.dequantize_row(row, &mut a);
                moved.dequantize_row(row, &mut b);
                assert_eq!(a.map(f32::to_bits), b.map(f32::to_bits), "{} row {row}", isa.name());
            }
            assert!(repack(&machine, weights, 0..101, &mut out).is_err());
            assert!(repack(&machine, weights, 0..99, &mut out).is_err());
        }
    }
}
