//! Which instruction set the kernels use: detected once, then passed as a value.

/// An instruction-set level that the kernels have code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: the reference of every test, and the path of CPUs without one of the others.
    Scalar,
    /// `x86_64` with AVX2, FMA and F16C.
    Avx2,
}

impl Isa {
    /// The best level that this CPU supports.
    #[must_use]
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Scalar)
    }

    /// Every level that this CPU supports, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86_64 has more than the scalar level")]
        let mut levels = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            levels.push(Self::Avx2);
        }
        levels
    }

    /// The name used on the command line and in benchmark records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
        }
    }
}
