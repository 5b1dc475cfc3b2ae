//! Number formats: sizes, error texts, and values that an independent implementation gave.

use ostro_kernels::formats::{Format, ShapeError, Weights};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

#[test]
fn every_format_gives_the_values_of_another_implementation() {
    let mut seen = Vec::new();
    for line in include_str!("formats_vectors.txt").lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let format = Format::parse(fields[0]).unwrap();
        let expected: Vec<f32> =
            bytes(fields[3]).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let once = bytes(fields[2]);
        // Two equal rows: the second must not read the first.
        let data = [vec![0xff; once.len()], once].concat();
        let weights = Weights::new(&data, format, 2, expected.len()).unwrap();
        let mut row = vec![f32::NAN; expected.len()];
        weights.dequantize_row(1, &mut row);
        for (i, (value, expected)) in row.iter().zip(&expected).enumerate() {
            // The package writes some zeros as -0.
            let same = value.to_bits() == expected.to_bits() || value.abs().to_bits() | expected.abs().to_bits() == 0;
            assert!(same, "{format:?} {} weight {i}: {value:e}, not {expected:e}", fields[1]);
        }
        seen.push(format);
    }
    for format in Format::ALL {
        assert!(seen.contains(&format), "{format:?} has no vector");
    }
}

#[test]
fn names_and_sizes() {
    for format in Format::ALL {
        assert_eq!(Format::parse(format.name()), Some(format));
        assert_eq!(format.row_bytes(0), Ok(0));
        assert_eq!(format.row_bytes(3 * format.block()), Ok(3 * format.block_bytes()));
    }
    assert_eq!(Format::parse("q4_k"), None);
    assert_eq!(Format::parse("IQ4_XS"), None);
    assert_eq!(Format::Q6_K.row_bytes(2560), Ok(2100));
}

#[test]
fn wrong_sizes_say_what_is_wrong() {
    let partial = Format::Q4_K.row_bytes(640).unwrap_err();
    assert_eq!(partial, ShapeError::PartialBlock { format: Format::Q4_K, cols: 640 });
    assert_eq!(partial.to_string(), "rows of 640 weights cannot be stored as Q4_K: not a multiple of 256");
    let text = |len: usize, rows: usize, cols: usize| {
        Weights::new(&vec![0; len], Format::Q8_0, rows, cols).unwrap_err().to_string()
    };
    assert_eq!(text(67, 2, 32), "Q8_0 of 2 x 32 takes 68 bytes, got 67");
    assert_eq!(text(69, 2, 32), "Q8_0 of 2 x 32 takes 68 bytes, got 69");
    assert_eq!(text(0, 2, 33), "rows of 33 weights cannot be stored as Q8_0: not a multiple of 32");
    let huge = 1 << 62;
    assert_eq!(text(0, huge, 32), format!("Q8_0 of {huge} x 32 does not fit the address space"));
    assert!(Weights::new(&[], Format::F32, 1, huge).is_err());
}

#[test]
#[should_panic(expected = "row 2 of a matrix of 2 rows")]
fn a_row_beyond_the_matrix_is_refused() {
    let data = [0; 68];
    Weights::new(&data, Format::Q8_0, 2, 32).unwrap().dequantize_row(2, &mut [0.0; 32]);
}
