//! Which instruction set the kernels use: detected once, then passed as a value.

/// An instruction-set level that the kernels have code for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust: the reference of every test, and the path of CPUs without one of the others.
    Scalar,
    /// `x86_64` with AVX2, FMA and F16C.
    Avx2,
    /// The same with AVX-512 F, BW, DQ and VL, and VNNI.
    Avx512Vnni,
    /// The same with the matrix unit AMX, int8 and bf16: for products of several tokens.
    Amx,
}

impl Isa {
    /// Every level, slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512Vnni, Self::Amx];

    /// The best level that this CPU supports.
    #[must_use]
    pub fn detect() -> Self {
        *Self::available().last().unwrap_or(&Self::Scalar)
    }

    /// Every level that this CPU supports, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.is_available()).collect()
    }

    /// Whether this CPU supports the level.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => x86::avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => x86::avx512() && (x86::amx() || cfg!(feature = "amx-model")),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Whether products of few tokens read weights in strips faster than in rows.
    #[must_use]
    pub fn reads_strips(self) -> bool {
        matches!(self, Self::Avx2 | Self::Avx512Vnni | Self::Amx)
    }

    /// The name used on the command line and in benchmark records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Amx => "amx",
        }
    }
}

/// Whether this CPU has a matrix unit, and the system lets this process use it.
#[cfg(all(target_arch = "x86_64", feature = "amx-model"))]
pub(crate) fn has_matrix_unit() -> bool {
    x86::amx()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::sync::OnceLock;

    pub(super) fn avx2() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }

    pub(super) fn avx512() -> bool {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
    }

    /// Whether the CPU has AMX with int8 and bf16, and the system lets this process use it.
    pub(super) fn amx() -> bool {
        static USABLE: OnceLock<bool> = OnceLock::new();
        *USABLE.get_or_init(|| {
            /// EDX of leaf 7: bf16, tiles, int8.
            const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
            /// State of tiles and of their configuration.
            const STATE: u32 = 1 << 17 | 1 << 18;
            /// ECX of leaf 1: XGETBV may be used.
            const OSXSAVE: u32 = 1 << 27;
            __cpuid_count(0, 0).eax >= 7
                && __cpuid_count(7, 0).edx & FEATURES == FEATURES
                && __cpuid_count(1, 0).ecx & OSXSAVE != 0
                && enabled_state() & STATE == STATE
                && permitted()
        })
    }

    /// The lower half of XCR0: what the system saves.
    fn enabled_state() -> u32 {
        let low: u32;
        // SAFETY: the caller has seen OSXSAVE.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
        low
    }

    /// Asks for the tiles: Linux saves their 8 KiB only for processes that did.
    fn permitted() -> bool {
        #[cfg(target_os = "linux")]
        {
            /// `ARCH_REQ_XCOMP_PERM`, for the state component of tile data.
            const REQUEST: libc::c_long = 0x1023;
            const TILE_DATA: libc::c_long = 18;
            // SAFETY: the call takes two numbers.
            unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
        }
        #[cfg(not(target_os = "linux"))]
        false
    }
}
