//! The inputs come from outside: everything that indexes memory is checked here, once.

use std::ops::Range;

use super::{Attend, AttentionError};
use crate::kv::PAGE;

/// The number of query heads; 0 when there is nothing to do.
pub(super) fn check(inputs: &Attend<'_>, out: usize) -> Result<usize, AttentionError> {
    let n = inputs.positions.len();
    let store = inputs.store;
    if inputs.layer >= store.layers() {
        return Err(AttentionError::NoSuchLayer { layer: inputs.layer, layers: store.layers() });
    }
    exact("key_ends", inputs.key_ends.len(), n)?;
    exact("out", out, inputs.q.len())?;
    let starts = inputs.row_starts;
    let rising = starts.windows(2).all(|pair| pair[0] <= pair[1]);
    if starts.first() != Some(&0) || usize::try_from(starts[starts.len() - 1]) != Ok(n) || !rising {
        return Err(AttentionError::BadRowStarts);
    }
    let sequences = starts.len() - 1;
    multiple("page_table", inputs.page_table.len(), "rows for each sequence", sequences)?;
    if n == 0 {
        return exact("q", inputs.q.len(), 0).map(|()| 0);
    }
    let group = n * store.kv_heads() * store.head_dim();
    multiple("q", inputs.q.len(), "whole heads per row, so many for each kv head: a multiple of", group)?;
    let pages = inputs.page_table.len() / sequences;
    for sequence in 0..sequences {
        let table = &inputs.page_table[sequence * pages..][..pages];
        check_pages(inputs, sequence, table)?;
    }
    Ok(inputs.q.len() / (n * store.head_dim()))
}

/// Positions that row `row` sees; empty where the bounds cross.
pub(super) fn visible(inputs: &Attend<'_>, row: usize) -> Range<usize> {
    let end = usize::try_from(inputs.key_ends[row]).unwrap_or(0);
    let first = i64::from(inputs.positions[row]) + 1 - i64::try_from(inputs.window).unwrap_or(i64::MAX);
    let start = if inputs.window == 0 { 0 } else { usize::try_from(first).unwrap_or(0) };
    start.min(end)..end
}

/// The smallest range that holds all that the rows see.
pub(super) fn visible_to_any(inputs: &Attend<'_>, rows: Range<usize>) -> Range<usize> {
    let seen = rows.map(|row| visible(inputs, row)).filter(|range| !range.is_empty());
    seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

/// Tiles walk over all pages between the first and the last that one of their rows sees: all of them must be there.
fn check_pages(inputs: &Attend<'_>, sequence: usize, table: &[i32]) -> Result<(), AttentionError> {
    let rows = inputs.row_starts[sequence] as usize..inputs.row_starts[sequence + 1] as usize;
    let seen = visible_to_any(inputs, rows);
    for page in seen.start / PAGE..seen.end.div_ceil(PAGE) {
        let id = table.get(page).copied().unwrap_or(-1);
        if usize::try_from(id).map_or(true, |id| id >= inputs.store.pages()) {
            return Err(AttentionError::NoPage { sequence, position: page * PAGE, id });
        }
    }
    Ok(())
}

fn exact(name: &'static str, len: usize, expected: usize) -> Result<(), AttentionError> {
    if len == expected { Ok(()) } else { Err(AttentionError::BadLength { name, len, expected: expected.to_string() }) }
}

fn multiple(name: &'static str, len: usize, what: &str, of: usize) -> Result<(), AttentionError> {
    let fits = if of == 0 { len == 0 } else { len.is_multiple_of(of) && (name != "q" || len > 0) };
    if fits { Ok(()) } else { Err(AttentionError::BadLength { name, len, expected: format!("{what} {of}") }) }
}
