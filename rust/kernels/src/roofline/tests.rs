use super::*;

#[test]
fn every_family_has_a_loop_that_counts_what_it_does() {
    for loops in [available(), portable::ALL.to_vec()] {
        for family in [Family::F32, Family::Int16, Family::Int8] {
            assert!(loops.iter().any(|chains| chains.family == family), "{}", family.name());
        }
        for chains in loops {
            assert!(chains.macs > 0, "{}", chains.instructions);
            for steps in [0, 1, 2, 33] {
                // SAFETY: `available` lists what this CPU can run, and the portable loops run everywhere.
                unsafe { (chains.run)(steps) };
            }
        }
    }
}

#[test]
fn a_peak_is_work_by_time() {
    // Waits instead of multiplying: 1 ms per piece at 8 multiply-accumulates per step, one piece at a time.
    fn wait(_steps: u32) {
        let start = Instant::now();
        while start.elapsed().as_micros() < 1000 {}
    }
    let chains = Chains { family: Family::Int8, instructions: "wait", macs: 8, run: wait };
    let peak = peak(&Team::new(1).unwrap(), &chains);
    assert_eq!((peak.family, peak.instructions), (Family::Int8, "wait"));
    let most = 8.0 * f64::from(STEPS) * 1000.0;
    assert!(peak.macs_per_second > 0.0 && peak.macs_per_second <= most, "{} of {most}", peak.macs_per_second);
}

#[test]
fn all_peaks_are_measured() {
    let peaks = peaks(&Team::new(0).unwrap());
    assert_eq!(peaks.len(), available().len());
    assert!(peaks.iter().all(|peak| peak.macs_per_second.is_finite() && peak.macs_per_second > 0.0));
}
