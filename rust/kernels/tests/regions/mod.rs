//! What tests of regions share: teams, and numbers to compute with.

use std::sync::LazyLock;

use ostro_kernels::isa::Isa;
use ostro_kernels::regions::Machine;

/// One for each instruction set, with one thread and with three.
pub static MACHINES: LazyLock<Vec<Machine>> = LazyLock::new(|| {
    let teams = Isa::available().into_iter().flat_map(|isa| [1, 3].map(|threads| (threads, isa)));
    teams.map(|(threads, isa)| Machine::new(threads, isa).unwrap()).collect()
});

/// A reproducible stream of numbers (splitmix64), uniform in -1..1.
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub fn take(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}
